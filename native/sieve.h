/* SIEVE: eviction with one bit per item and one hand (Zhang et al., "SIEVE is simpler than LRU", NSDI'24).
 *
 * A bounded map from 16-byte keys to items that their owner allocates, with struct orion_item as the first member.
 * Not locked. orioncache/store/sieve.py is the same.
 */
#ifndef ORION_SIEVE_H
#define ORION_SIEVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORION_KEY_SIZE 16

struct orion_item {
	uint8_t key[ORION_KEY_SIZE];
	size_t cost;
	struct orion_item *chain; /* of the hash table */
	struct orion_item *newer, *older; /* the queue; the last evicted ones are linked by older alone */
	bool visited; /* asked for since the hand last passed it */
};

struct orion_sieve {
	size_t budget, used, count; /* used: the sum of all costs, at most budget */
	struct orion_item *newest, *oldest;
	struct orion_item *hand; /* where the next search begins; NULL: at the oldest */
	struct orion_item **buckets;
	size_t bucket_count; /* a power of two */
};

int orion_sieve_init(struct orion_sieve *sieve, size_t budget);
/* Frees the table; the items are their owner's (orion_sieve_take_any). */
void orion_sieve_fini(struct orion_sieve *sieve);

/* The item, without a visit; NULL if there is none. */
struct orion_item *orion_sieve_find(const struct orion_sieve *sieve, const uint8_t key[ORION_KEY_SIZE]);

/* Adds an item whose key and cost are set and that is not there. What had to go is a list at ret_evicted, linked by
 * older; the item itself if it costs more than the budget. */
void orion_sieve_add(struct orion_sieve *sieve, struct orion_item *item, struct orion_item **ret_evicted);

void orion_sieve_remove(struct orion_sieve *sieve, struct orion_item *item);

/* Removes and returns any item; NULL when empty. */
struct orion_item *orion_sieve_take_any(struct orion_sieve *sieve);

#endif
