/* The queue, the hand, and a hash table with chains. */
#include "sieve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BUCKETS 256

static size_t bucket_of(const struct orion_sieve *sieve, const uint8_t key[ORION_KEY_SIZE])
{
	uint64_t bits;

	/* Keys are digests: any bits are as good as a hash. */
	memcpy(&bits, key, sizeof(bits));
	return bits & (sieve->bucket_count - 1);
}

int orion_sieve_init(struct orion_sieve *sieve, size_t budget)
{
	*sieve = (struct orion_sieve){.budget = budget, .bucket_count = FIRST_BUCKETS};
	sieve->buckets = calloc(FIRST_BUCKETS, sizeof(*sieve->buckets));
	return sieve->buckets ? 0 : -ENOMEM;
}

void orion_sieve_fini(struct orion_sieve *sieve)
{
	free(sieve->buckets);
}

struct orion_item *orion_sieve_find(const struct orion_sieve *sieve, const uint8_t key[ORION_KEY_SIZE])
{
	struct orion_item *item = sieve->buckets[bucket_of(sieve, key)];

	while (item && memcmp(item->key, key, ORION_KEY_SIZE) != 0)
		item = item->chain;
	return item;
}

/* Longer chains are the only harm if there is no memory for a larger table. */
static void grow(struct orion_sieve *sieve)
{
	struct orion_item **buckets = calloc(2 * sieve->bucket_count, sizeof(*buckets));

	if (!buckets)
		return;
	free(sieve->buckets);
	sieve->buckets = buckets;
	sieve->bucket_count *= 2;
	for (struct orion_item *item = sieve->oldest; item; item = item->newer) {
		struct orion_item **bucket = &buckets[bucket_of(sieve, item->key)];

		item->chain = *bucket;
		*bucket = item;
	}
}

static void unlink_item(struct orion_sieve *sieve, struct orion_item *item)
{
	struct orion_item **link = &sieve->buckets[bucket_of(sieve, item->key)];

	while (*link != item)
		link = &(*link)->chain;
	*link = item->chain;
	if (sieve->hand == item)
		sieve->hand = item->newer;
	if (item->newer)
		item->newer->older = item->older;
	else
		sieve->newest = item->older;
	if (item->older)
		item->older->newer = item->newer;
	else
		sieve->oldest = item->newer;
	item->newer = item->older = item->chain = NULL;
	sieve->used -= item->cost;
	sieve->count--;
}

static struct orion_item *evict_one(struct orion_sieve *sieve)
{
	struct orion_item *item = sieve->hand ? sieve->hand : sieve->oldest;

	/* Ends within two rounds: the first clears every bit. */
	while (item->visited) {
		item->visited = false;
		item = item->newer ? item->newer : sieve->oldest;
	}
	sieve->hand = item;
	unlink_item(sieve, item);
	return item;
}

void orion_sieve_add(struct orion_sieve *sieve, struct orion_item *item, struct orion_item **ret_evicted)
{
	*ret_evicted = NULL;
	item->newer = item->older = item->chain = NULL;
	if (item->cost > sieve->budget) {
		*ret_evicted = item;
		return;
	}
	/* In the order in which they go, as the Python engine has it. */
	struct orion_item **end = ret_evicted;

	while (sieve->used + item->cost > sieve->budget) {
		*end = evict_one(sieve);
		end = &(*end)->older;
	}
	if (sieve->count >= 2 * sieve->bucket_count)
		grow(sieve);

	struct orion_item **bucket = &sieve->buckets[bucket_of(sieve, item->key)];

	item->chain = *bucket;
	*bucket = item;
	item->older = sieve->newest;
	if (sieve->newest)
		sieve->newest->newer = item;
	else
		sieve->oldest = item;
	sieve->newest = item;
	sieve->used += item->cost;
	sieve->count++;
}

void orion_sieve_remove(struct orion_sieve *sieve, struct orion_item *item)
{
	unlink_item(sieve, item);
}

struct orion_item *orion_sieve_take_any(struct orion_sieve *sieve)
{
	struct orion_item *item = sieve->oldest;

	if (item)
		unlink_item(sieve, item);
	return item;
}
