/* Two levels of blocks. */
#include "store.h"

#include "orion.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* What a block costs beside its bytes, by the same rule as the Python store, so that both keep the same blocks. */
#define BLOCK_OVERHEAD 384
#define PAGES_FROM (128u << 10)
#define PAGE 4096
#define HEADERS 64

/* All-zero blocks are remembered by their length alone. */
#define ZERO_LENGTHS 64

/* Blocks of at least so many bytes are kept for the next ones, at most so many of them. */
#define POOLED_FROM (64u << 10)
#define POOL_BLOCKS 24

struct raw {
	struct orion_item item; /* first: the sieve's */
	struct orion_block *block;
	uint64_t handed; /* bytes that went to the kernel */
};

struct packed {
	struct orion_item item; /* first: the sieve's */
	struct orion_block *bytes;
	uint32_t length; /* unpacked */
	uint8_t digest[ORION_DIGEST_SIZE]; /* xxh3-128, whatever the key is made of */
};

struct zero {
	uint8_t key[ORION_KEY_SIZE];
	uint32_t length;
};

struct orion_store {
	pthread_mutex_t lock; /* of what follows; never held while bytes are packed or unpacked */
	struct orion_sieve raw, packed;
	struct zero zeros[ZERO_LENGTHS];
	uint32_t zero_count, next_zero;
	struct orion_store_statistics count;
};

/* Large blocks are used again: malloc() would give each back to the system, and a page fault for each of its pages
 * costs more than all else that is done to a block. All blocks of a release but the last ones of files are one size. */
static struct {
	pthread_mutex_t lock; /* of what follows */
	size_t length; /* of all that are here */
	uint32_t count;
	struct orion_block *blocks[POOL_BLOCKS];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct orion_block *take_from_pool(size_t length)
{
	struct orion_block *block = NULL;

	pthread_mutex_lock(&pool.lock);
	if (pool.count && pool.length == length)
		block = pool.blocks[--pool.count];
	pthread_mutex_unlock(&pool.lock);
	return block;
}

static bool give_to_pool(struct orion_block *block)
{
	struct orion_block *shorter[POOL_BLOCKS];
	uint32_t count = 0;

	pthread_mutex_lock(&pool.lock);
	/* The tail of a file must not keep whole blocks out, which are the longest. */
	if (pool.count && pool.length < block->length)
		while (pool.count)
			shorter[count++] = pool.blocks[--pool.count];
	const bool taken = !pool.count || (pool.length == block->length && pool.count < POOL_BLOCKS);

	if (taken) {
		pool.length = block->length;
		pool.blocks[pool.count++] = block;
	}
	pthread_mutex_unlock(&pool.lock);
	while (count)
		free(shorter[--count]);
	return taken;
}

struct orion_block *orion_block_create(size_t length)
{
	struct orion_block *block = length >= POOLED_FROM ? take_from_pool(length) : NULL;

	if (!block && !(block = malloc(sizeof(*block) + length)))
		return NULL;
	atomic_init(&block->holders, 1);
	block->length = (uint32_t)length;
	return block;
}

void orion_block_hold(struct orion_block *block)
{
	atomic_fetch_add_explicit(&block->holders, 1, memory_order_relaxed);
}

void orion_block_release(struct orion_block *block)
{
	if (!block || atomic_fetch_sub_explicit(&block->holders, 1, memory_order_acq_rel) != 1)
		return;
	if (block->length < POOLED_FROM || !give_to_pool(block))
		free(block);
}

static size_t cost(size_t length)
{
	if (length >= PAGES_FROM)
		length = (length + HEADERS + PAGE - 1) / PAGE * PAGE;
	return length + BLOCK_OVERHEAD;
}

int orion_store_create(size_t cache_size, size_t compressed_size, struct orion_store **ret)
{
	struct orion_store *store = calloc(1, sizeof(*store));

	if (!store)
		return -ENOMEM;
	if (orion_sieve_init(&store->raw, cache_size) || orion_sieve_init(&store->packed, compressed_size)) {
		orion_sieve_fini(&store->raw);
		free(store);
		return -ENOMEM;
	}
	pthread_mutex_init(&store->lock, NULL);
	*ret = store;
	return 0;
}

static void free_packed(struct packed *packed)
{
	orion_block_release(packed->bytes);
	free(packed);
}

void orion_store_destroy(struct orion_store *store)
{
	struct orion_item *item;

	if (!store)
		return;
	while ((item = orion_sieve_take_any(&store->raw))) {
		orion_block_release(((struct raw *)item)->block);
		free(item);
	}
	while ((item = orion_sieve_take_any(&store->packed)))
		free_packed((struct packed *)item);
	orion_sieve_fini(&store->raw);
	orion_sieve_fini(&store->packed);
	pthread_mutex_destroy(&store->lock);
	free(store);
}

static struct zero *find_zero(struct orion_store *store, const uint8_t *key)
{
	for (uint32_t i = 0; i < store->zero_count; i++)
		if (memcmp(store->zeros[i].key, key, ORION_KEY_SIZE) == 0)
			return &store->zeros[i];
	return NULL;
}

/* Locked. */
static bool forget_packed(struct orion_store *store, const uint8_t *key)
{
	struct orion_item *item = orion_sieve_find(&store->packed, key);

	if (!item)
		return false;
	orion_sieve_remove(&store->packed, item);
	store->count.packed_content_bytes -= ((struct packed *)item)->length;
	free_packed((struct packed *)item);
	return true;
}

/* Packs blocks that left the first level, one after the other and without the lock. */
static void demote(struct orion_store *store, struct orion_item *item)
{
	while (item) {
		struct raw *raw = (struct raw *)item;
		struct orion_block *block = raw->block;
		struct orion_item *next = item->older, *evicted = NULL;
		struct packed *packed = NULL;

		/* Do not pack what cannot be kept: the least that a packed block costs is its overhead. */
		if (store->packed.budget >= BLOCK_OVERHEAD && (packed = calloc(1, sizeof(*packed)))) {
			struct orion_block *scratch = orion_block_create(block->length);
			size_t length;

			if (scratch && orion_block_pack(block->bytes, block->length, scratch->bytes, block->length,
							&length, packed->digest) == 0 &&
			    (packed->bytes = orion_block_create(length)))
				memcpy(packed->bytes->bytes, scratch->bytes, length);
			orion_block_release(scratch);
			if (packed->bytes) {
				packed->length = block->length;
				packed->item.cost = cost(packed->bytes->length);
				memcpy(packed->item.key, item->key, ORION_KEY_SIZE);
			} else {
				free(packed);
				packed = NULL;
			}
		}
		pthread_mutex_lock(&store->lock);
		if (!packed) {
			store->count.evictions++;
		} else {
			/* Somebody may have fetched it again meanwhile; it is in one level only. */
			if (orion_sieve_find(&store->raw, item->key)) {
				free_packed(packed);
			} else {
				forget_packed(store, item->key);
				store->count.demotions++;
				store->count.packed_content_bytes += packed->length;
				orion_sieve_add(&store->packed, &packed->item, &evicted);
			}
			while (evicted) {
				struct packed *gone = (struct packed *)evicted;

				evicted = evicted->older;
				store->count.evictions++;
				store->count.packed_content_bytes -= gone->length;
				free_packed(gone);
			}
		}
		pthread_mutex_unlock(&store->lock);
		orion_block_release(block);
		free(raw);
		item = next;
	}
}

/* Locked; the caller demotes what it returns. */
static struct orion_item *keep(struct orion_store *store, const uint8_t *key, struct orion_block *block, uint32_t bytes)
{
	struct raw *raw = calloc(1, sizeof(*raw));
	struct orion_item *evicted;

	if (!raw)
		return NULL;
	orion_block_hold(block);
	raw->block = block;
	raw->handed = bytes;
	raw->item.cost = cost(block->length);
	memcpy(raw->item.key, key, ORION_KEY_SIZE);
	orion_sieve_add(&store->raw, &raw->item, &evicted);
	return evicted;
}

/* Locked. */
static void drop_raw(struct orion_store *store, struct orion_item *item)
{
	orion_sieve_remove(&store->raw, item);
	orion_block_release(((struct raw *)item)->block);
	free(item);
}

/* Locked: the block, or NULL; in which case ret_packed may hold its packed bytes. */
static struct orion_block *look(struct orion_store *store, const uint8_t *key, uint32_t bytes,
				struct packed *ret_packed)
{
	struct orion_item *item = orion_sieve_find(&store->raw, key);

	ret_packed->bytes = NULL;
	if (item) {
		struct raw *raw = (struct raw *)item;
		struct orion_block *block = raw->block;

		item->visited = true;
		raw->handed += bytes;
		store->count.hits++;
		orion_block_hold(block);
		if (raw->handed >= block->length)
			drop_raw(store, item);
		return block;
	}

	const struct zero *zero = find_zero(store, key);

	if (zero) {
		struct orion_block *block = orion_block_create(zero->length);

		store->count.zero_hits++;
		if (block)
			memset(block->bytes, 0, zero->length);
		return block;
	}
	item = orion_sieve_find(&store->packed, key);
	if (item) {
		item->visited = true;
		*ret_packed = *(struct packed *)item;
		orion_block_hold(ret_packed->bytes);
	} else {
		store->count.misses++;
	}
	return NULL;
}

struct orion_block *orion_store_get(struct orion_store *store, const uint8_t key[ORION_KEY_SIZE], uint32_t bytes)
{
	struct orion_item *evicted = NULL;
	struct packed packed;

	pthread_mutex_lock(&store->lock);
	struct orion_block *block = look(store, key, bytes, &packed);

	pthread_mutex_unlock(&store->lock);
	if (!packed.bytes)
		return block;

	block = orion_block_create(packed.length);
	const int error = block ? orion_block_unpack(packed.bytes->bytes, packed.bytes->length, packed.digest,
						     packed.length, block->bytes)
				: -ENOMEM;

	orion_block_release(packed.bytes);
	pthread_mutex_lock(&store->lock);
	if (error) {
		store->count.misses++;
		if (error != -ENOMEM) {
			store->count.verify_failures++;
			forget_packed(store, key);
		}
	} else {
		store->count.packed_hits++;
		if (bytes >= packed.length) {
			forget_packed(store, key);
		} else if (cost(packed.length) <= store->raw.budget && !orion_sieve_find(&store->raw, key)) {
			forget_packed(store, key);
			evicted = keep(store, key, block, bytes);
		}
	}
	pthread_mutex_unlock(&store->lock);
	demote(store, evicted);
	if (error) {
		orion_block_release(block);
		return NULL;
	}
	return block;
}

void orion_store_given(struct orion_store *store, const uint8_t key[ORION_KEY_SIZE])
{
	pthread_mutex_lock(&store->lock);
	struct orion_item *item = orion_sieve_find(&store->raw, key);

	if (item)
		drop_raw(store, item);
	else
		forget_packed(store, key);
	pthread_mutex_unlock(&store->lock);
}

struct orion_block *orion_store_peek(struct orion_store *store, const uint8_t key[ORION_KEY_SIZE])
{
	pthread_mutex_lock(&store->lock);
	struct orion_item *item = orion_sieve_find(&store->raw, key);
	struct orion_block *block = item ? ((struct raw *)item)->block : NULL;

	if (block)
		orion_block_hold(block);
	pthread_mutex_unlock(&store->lock);
	return block;
}

bool orion_store_has(struct orion_store *store, const uint8_t key[ORION_KEY_SIZE])
{
	pthread_mutex_lock(&store->lock);
	const bool found = orion_sieve_find(&store->raw, key) || orion_sieve_find(&store->packed, key) ||
			   find_zero(store, key);

	pthread_mutex_unlock(&store->lock);
	return found;
}

void orion_store_put(struct orion_store *store, const uint8_t key[ORION_KEY_SIZE], struct orion_block *block,
		     uint32_t bytes)
{
	const bool is_zero = orion_is_zero(block->bytes, block->length);
	struct orion_item *evicted = NULL;

	pthread_mutex_lock(&store->lock);
	struct orion_item *item = orion_sieve_find(&store->raw, key);

	if (item || find_zero(store, key)) {
		if (item)
			item->visited = true;
		store->count.duplicates++;
	} else if (is_zero) {
		struct zero *zero = &store->zeros[store->next_zero];

		memcpy(zero->key, key, ORION_KEY_SIZE);
		zero->length = block->length;
		store->next_zero = (store->next_zero + 1) % ZERO_LENGTHS;
		if (store->zero_count < ZERO_LENGTHS)
			store->zero_count++;
	} else {
		if (forget_packed(store, key))
			store->count.duplicates++;
		if (bytes < block->length)
			evicted = keep(store, key, block, bytes);
	}
	pthread_mutex_unlock(&store->lock);
	demote(store, evicted);
}

void orion_store_statistics(struct orion_store *store, struct orion_store_statistics *ret)
{
	pthread_mutex_lock(&store->lock);
	*ret = store->count;
	ret->raw_blocks = store->raw.count;
	ret->raw_bytes = store->raw.used;
	ret->packed_blocks = store->packed.count;
	ret->packed_bytes = store->packed.used;
	ret->cache_size = store->raw.budget;
	ret->compressed_size = store->packed.budget;
	pthread_mutex_unlock(&store->lock);
}
