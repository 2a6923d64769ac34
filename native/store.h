/* Blocks in RAM, by the first 16 bytes of their digests: as they are, then packed with lz4, each level with its budget
 * in bytes and SIEVE. For blocks of which the kernel keeps nothing the Python BlockStore (orioncache/store/blockstore.py)
 * decides the same.
 */
#ifndef ORION_STORE_H
#define ORION_STORE_H

#include "sieve.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A block in memory; never changes, and lives for as long as somebody holds it. */
struct orion_block {
	_Atomic uint32_t holders;
	uint32_t length;
	uint8_t bytes[];
};

struct orion_block *orion_block_create(size_t length); /* held once; NULL: no memory */
void orion_block_hold(struct orion_block *block);
void orion_block_release(struct orion_block *block); /* NULL is allowed */

struct orion_store; /* all functions may be called from any thread */

struct orion_store_statistics {
	uint64_t hits, packed_hits, zero_hits, misses, duplicates, demotions, evictions, verify_failures;
	uint64_t raw_blocks, raw_bytes, packed_blocks, packed_bytes, packed_content_bytes, cache_size, compressed_size;
};

int orion_store_create(size_t cache_size, size_t compressed_size, struct orion_store **ret);
void orion_store_destroy(struct orion_store *store);

/* In get and put, bytes: how many of the block's go now to the kernel's page cache, the level before these two. A block
 * that went there whole is not kept here as well: its memory is used again at once, which saves the next block its page
 * faults. Should the kernel let go of it and ask again, it is fetched again. */

/* The block, held for the caller; NULL if it is not here. Unpacks, and verifies what it unpacks. */
struct orion_block *orion_store_get(struct orion_store *store, const uint8_t key[ORION_KEY_SIZE], uint32_t bytes);

/* Keeps a block, for which it takes a hold of its own; the key is believed. */
void orion_store_put(struct orion_store *store, const uint8_t key[ORION_KEY_SIZE], struct orion_block *block,
		     uint32_t bytes);

/* The kernel's page cache was given all of a block. */
void orion_store_given(struct orion_store *store, const uint8_t key[ORION_KEY_SIZE]);

/* The block as orion_store_get() gives it, if it is here as it is; counts as no use of it. */
struct orion_block *orion_store_peek(struct orion_store *store, const uint8_t key[ORION_KEY_SIZE]);

/* Whether orion_store_get() would find a block; counts as no use of it. */
bool orion_store_has(struct orion_store *store, const uint8_t key[ORION_KEY_SIZE]);

void orion_store_statistics(struct orion_store *store, struct orion_store_statistics *ret);

#endif
