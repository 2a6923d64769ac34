/* Reads: from the store, from blocks on their way, or by asking for them; and what is read beside. */
#define _GNU_SOURCE
#include "fetch_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* Reading around a miss: below this round trip it is worth nothing; it grows to the whole at the other one. */
#define AROUND_FROM_NS 500000u
#define AROUND_FULL_NS 10000000u
#define AROUND_MOST (1u << 20)
/* Speculative bytes on their way at the same time. */
#define AHEAD_MOST (8u << 20)
/* <asm-generic/mman-common.h> of 5.14: MADV_POPULATE_READ. */
#define POPULATE_READ 22
/* Who waits so long for a read notices. */
#define STALL_NS 200000000u

static const uint8_t zeros[1u << 20] __attribute__((aligned(4096)));

int orion_fetch_create(const struct orion_manifest *manifest, struct orion_store *store,
		       struct orion_upstreams *upstreams, struct orion_events *events,
		       const struct orion_fetch_options *options, struct orion_fetch **ret)
{
	struct orion_fetch *fetch = calloc(1, sizeof(*fetch));

	if (!fetch)
		return -ENOMEM;
	/* A page that is not there yet cannot be had while we are killed, and an answer from it would fail. */
	(void)madvise((void *)zeros, sizeof(zeros), POPULATE_READ);
	fetch->was_ahead = calloc(manifest->block_count + 1, sizeof(bool));
	fetch->kernel_has = calloc(manifest->block_count + 1, sizeof(bool));
	if (!fetch->was_ahead || !fetch->kernel_has || orion_packs_create(manifest, upstreams, &fetch->packs)) {
		free(fetch->was_ahead);
		free(fetch->kernel_has);
		free(fetch);
		return -ENOMEM;
	}
	fetch->manifest = manifest;
	fetch->store = store;
	fetch->upstreams = upstreams;
	fetch->events = events;
	fetch->options = *options;
	pthread_mutex_init(&fetch->lock, NULL);
	orion_upstreams_watch(upstreams, orion_flights_look, fetch);
	*ret = fetch;
	return 0;
}

void orion_fetch_destroy(struct orion_fetch *fetch)
{
	if (!fetch)
		return;
	orion_fetch_remember(fetch, false);
	pthread_mutex_destroy(&fetch->lock);
	orion_packs_destroy(fetch->packs);
	free(fetch->was_ahead);
	free(fetch->kernel_has);
	free(fetch);
}

void orion_fetch_recall(struct orion_fetch *fetch, uint32_t number, struct orion_block *block)
{
	if (!fetch->remembers)
		return;
	for (uint32_t i = 0; i < ORION_RECENT; i++)
		if (fetch->recent[i].block == block)
			return;
	struct orion_recent *recent = &fetch->recent[fetch->recent_next++ % ORION_RECENT];

	orion_block_release(recent->block);
	orion_block_hold(block);
	*recent = (struct orion_recent){block, number};
}

int orion_read_create(struct orion_fetch *fetch, uint32_t inode, uint64_t offset, uint32_t size, uint32_t leading,
		      struct orion_read **ret)
{
	const struct orion_manifest *manifest = fetch->manifest;
	const uint32_t block_size = manifest->header->block_size;
	const struct orion_inode *found;
	int error = orion_manifest_inode(manifest, inode, &found);

	if (error)
		return error;
	if (!S_ISREG(found->mode))
		return S_ISDIR(found->mode) ? -EISDIR : -EINVAL;

	const uint64_t left = offset < found->size ? found->size - offset : 0;
	const uint32_t length = left < size ? (uint32_t)left : size;
	const uint32_t skip = (uint32_t)(offset & (block_size - 1));
	const uint32_t count = length ? (uint32_t)(((uint64_t)skip + length + block_size - 1) >> manifest->block_shift) : 0;
	struct orion_read *read = calloc(1, sizeof(*read) + count * sizeof(*read->slots) +
						    (leading + count) * sizeof(*read->parts));

	if (!read)
		return -ENOMEM;
	read->inode = inode;
	read->offset = offset;
	read->length = length;
	read->leading = leading;
	read->parts = (struct iovec *)(read->slots + count);
	read->slot_count = count;
	for (uint32_t i = 0; i < count && !error; i++) {
		struct orion_slot *slot = &read->slots[i];
		struct orion_block_of_file block;

		error = orion_manifest_block(manifest, inode, (offset >> manifest->block_shift) + i, &block);
		slot->read = read;
		slot->number = block.number;
		slot->skip = i ? 0 : skip;
		slot->length = block_size - slot->skip;
		if (i == count - 1)
			slot->length = length - (i ? i * block_size - skip : 0);
		/* What is asked for must be in the block, whatever the manifest says. */
		if (!error && slot->skip + slot->length > block.length)
			error = -EIO;
	}
	if (error) {
		free(read);
		return error;
	}
	*ret = read;
	return 0;
}

void orion_read_destroy(struct orion_read *read)
{
	if (!read)
		return;
	for (uint32_t i = 0; i < read->slot_count; i++)
		orion_block_release(read->slots[i].block);
	free(read);
}

/* All blocks are there, or will never be. */
static void finish_read(struct orion_read *read)
{
	read->part_count = read->leading;
	if (read->error) {
		read->length = 0;
		return;
	}
	for (uint32_t i = 0; i < read->slot_count; i++) {
		const struct orion_slot *slot = &read->slots[i];
		const uint8_t *bytes = slot->block ? slot->block->bytes + slot->skip : zeros;

		read->parts[read->part_count++] = (struct iovec){(void *)bytes, slot->length};
	}
}

/* How long a read has waited. */
static void note_wait(struct orion_fetch *fetch, const struct orion_read *read)
{
	const uint64_t waited = orion_now_ns() - read->since;
	uint64_t longest = atomic_load_explicit(&fetch->longest_wait, memory_order_relaxed);

	while (waited > longest && !atomic_compare_exchange_weak(&fetch->longest_wait, &longest, waited))
		;
	if (waited < STALL_NS)
		return;
	atomic_fetch_add_explicit(&fetch->stalls, 1, memory_order_relaxed);
	orion_events_note(fetch->events, ORION_WARNING, ORION_EVENT_STALL,
			  "a read of inode %u waited %.0f ms" ORION_FIELD("inode") "%u" ORION_FIELD("ms") "%.0f", read->inode,
			  (double)waited / 1e6, read->inode, (double)waited / 1e6);
}

void orion_reads_tell(struct orion_fetch *fetch, struct orion_slot *done)
{
	while (done) {
		struct orion_read *read = done->read;

		done = done->next;
		note_wait(fetch, read);
		finish_read(read);
		read->done(read);
	}
}

/* Locked. */
static void note_demand(struct orion_fetch *fetch, const struct orion_slot *slot)
{
	const uint32_t number = slot->number;

	/* What it asks for again it has dropped. */
	fetch->kernel_has[number] = orion_slot_kept(slot) >= fetch->manifest->blocks[number].length;
	if (fetch->was_ahead[number]) {
		fetch->was_ahead[number] = false;
		fetch->count.ahead_used++;
	}
}

/* A slot's block, held, if it is here. */
static struct orion_block *stored(struct orion_fetch *fetch, const struct orion_slot *slot)
{
	struct orion_block *block = orion_store_get(fetch->store, orion_fetch_digest(fetch, slot->number), orion_slot_kept(slot));

	/* In a hostile manifest another block may have this one's digest. What is fetched in its place will not. */
	if (block && block->length != fetch->manifest->blocks[slot->number].length) {
		orion_block_release(block);
		return NULL;
	}
	return block;
}

/* Locked: lets a slot wait for a block that was not in the store a moment ago; whether it takes a new flight. */
static bool join(struct orion_fetch *fetch, struct orion_slot *slot)
{
	struct orion_flight *flight = *orion_flight_find(fetch, slot->number);
	const bool is_new = !flight;

	if (is_new) {
		/* It may have landed since. */
		slot->block = stored(fetch, slot);
		if (slot->block)
			return false;
		flight = orion_flight_take_off(fetch, slot->number, false);
		if (!flight) {
			slot->read->error = -ENOMEM;
			return false;
		}
	}
	if (flight->ahead) {
		flight->ahead = false;
		flight->since = slot->read->since;
		fetch->ahead_bytes -= fetch->manifest->blocks[slot->number].length;
		fetch->count.ahead_used++;
		if (flight->attempt)
			orion_upstreams_promote(fetch->upstreams, &flight->attempt->job);
	}
	slot->flight = flight;
	slot->next = flight->waiting;
	flight->waiting = slot;
	slot->read->missing++;
	slot->read->missed++;
	slot->read->late += flight->speculative;
	return is_new;
}

static size_t bytes_around(struct orion_fetch *fetch)
{
	if (fetch->options.read_around >= 0)
		return (size_t)fetch->options.read_around;

	const uint64_t trip = orion_upstreams_round_trip(fetch->upstreams);

	if (trip <= AROUND_FROM_NS)
		return 0;
	if (trip >= AROUND_FULL_NS)
		return AROUND_MOST;
	return (size_t)(AROUND_MOST * (trip - AROUND_FROM_NS) / (AROUND_FULL_NS - AROUND_FROM_NS));
}

/* No file has led here, so nobody has looked at the block's record yet. */
static bool is_good_place(const struct orion_manifest *manifest, uint32_t number)
{
	const struct orion_place *place = &manifest->blocks[number];

	return place->length && place->length <= manifest->header->block_size && place->pack < manifest->pack_count &&
	       place->offset <= INT64_MAX && place->offset + place->length <= manifest->packs[place->pack].size;
}

/* Locked: takes off for a block that is neither here nor on its way; false when there is no more room. */
static bool take_ahead(struct orion_fetch *fetch, uint32_t number, uint32_t *numbers, uint32_t *count)
{
	if (*count == ORION_RUN_BLOCKS || fetch->ahead_bytes >= AHEAD_MOST)
		return false;
	if (is_good_place(fetch->manifest, number) && !fetch->kernel_has[number] && !*orion_flight_find(fetch, number) &&
	    !orion_store_has(fetch->store, orion_fetch_digest(fetch, number)) && orion_flight_take_off(fetch, number, true))
		numbers[(*count)++] = number;
	return true;
}

/* What lies around a miss in its pack is likely to be asked for next: neighbours there are neighbours in the tree. A
 * quarter of it before, the rest behind. */
static void read_around(struct orion_fetch *fetch, uint32_t first, uint32_t last)
{
	const struct orion_place *blocks = fetch->manifest->blocks;
	const size_t bytes = bytes_around(fetch);
	uint32_t numbers[ORION_RUN_BLOCKS], count = 0, begin = first;

	if (!bytes)
		return;
	for (size_t left = bytes / 4; begin > 0 && blocks[begin - 1].pack == blocks[first].pack &&
				      blocks[begin - 1].length <= left;)
		left -= blocks[--begin].length;
	pthread_mutex_lock(&fetch->lock);
	for (uint32_t number = begin; number < first && take_ahead(fetch, number, numbers, &count);)
		number++;
	size_t left = bytes - bytes / 4;

	for (uint32_t number = last + 1;
	     number < fetch->manifest->block_count && blocks[number].pack == blocks[last].pack &&
	     blocks[number].length <= left && take_ahead(fetch, number, numbers, &count);)
		left -= blocks[number++].length;
	pthread_mutex_unlock(&fetch->lock);
	orion_flights_depart(fetch, numbers, count, (struct errand){ORION_TRACE_AROUND, -1, false});
}

static int compare_numbers(const void *left, const void *right)
{
	const uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

	return a < b ? -1 : a > b;
}

bool orion_fetch_read(struct orion_fetch *fetch, struct orion_read *read)
{
	uint32_t numbers[ORION_RUN_BLOCKS + 1], count = 0;

	for (uint32_t i = 0; i < read->slot_count; i++) {
		struct orion_slot *slot = &read->slots[i];

		if (slot->number == ORION_HOLE)
			continue;
		slot->block = stored(fetch, slot);
	}
	read->since = orion_now_ns();
	pthread_mutex_lock(&fetch->lock);
	for (uint32_t i = 0; i < read->slot_count; i++) {
		struct orion_slot *slot = &read->slots[i];

		if (slot->number == ORION_HOLE)
			continue;
		if (!slot->block && join(fetch, slot))
			numbers[count++] = slot->number;
		if (slot->block)
			orion_fetch_recall(fetch, slot->number, slot->block);
		note_demand(fetch, slot);
	}
	const bool done = read->missing == 0, alone = read->alone;

	pthread_mutex_unlock(&fetch->lock);
	/* From here on the read may be done, and gone, at any moment, unless it waits for nothing. */
	if (done)
		finish_read(read);
	if (count) {
		qsort(numbers, count, sizeof(*numbers), compare_numbers);
		orion_flights_depart(fetch, numbers, count, (struct errand){ORION_TRACE_DEMAND, -1, false});
		if (!alone)
			read_around(fetch, numbers[0], numbers[count - 1]);
	}
	return done;
}

bool orion_fetch_cancel(struct orion_fetch *fetch, struct orion_read *read)
{
	pthread_mutex_lock(&fetch->lock);
	const bool cancelled = read->missing > 0;

	for (uint32_t i = 0; cancelled && i < read->slot_count; i++) {
		struct orion_slot *slot = &read->slots[i];

		if (slot->number != ORION_HOLE)
			fetch->kernel_has[slot->number] = false;
		if (!slot->flight)
			continue;
		struct orion_slot **link = &slot->flight->waiting;

		while (*link != slot)
			link = &(*link)->next;
		*link = slot->next;
		slot->flight = NULL;
	}
	if (cancelled)
		read->missing = 0;
	pthread_mutex_unlock(&fetch->lock);
	return cancelled;
}

void orion_fetch_prefetch(struct orion_fetch *fetch, uint32_t server, const uint32_t *blocks, size_t total,
			  bool *departed)
{
	const struct errand errand = {ORION_TRACE_AHEAD, server < ORION_SERVERS_MAX ? (int)server : -1, false};
	uint32_t numbers[ORION_RUN_BLOCKS], count;
	bool room = true;

	for (size_t i = 0; i < total;) {
		count = 0;
		pthread_mutex_lock(&fetch->lock);
		for (; i < total && count < ORION_RUN_BLOCKS; i++) {
			const uint32_t before = count;

			/* When enough is on its way; the caller comes back. */
			room = room && (blocks[i] >= fetch->manifest->block_count ||
					take_ahead(fetch, blocks[i], numbers, &count));
			departed[i] = count > before;
		}
		pthread_mutex_unlock(&fetch->lock);
		orion_flights_depart(fetch, numbers, count, errand);
	}
}

enum orion_presence orion_fetch_find(struct orion_fetch *fetch, uint32_t block)
{
	if (block >= fetch->manifest->block_count)
		return ORION_ABSENT;
	/* Locked together: a block that lands is in the store before its flight ends. */
	pthread_mutex_lock(&fetch->lock);
	const bool comes = *orion_flight_find(fetch, block);
	const bool is_here = fetch->kernel_has[block] || orion_store_has(fetch->store, orion_fetch_digest(fetch, block));

	pthread_mutex_unlock(&fetch->lock);
	return is_here ? ORION_PRESENT : comes ? ORION_COMING : ORION_ABSENT;
}

struct orion_block *orion_fetch_peek(struct orion_fetch *fetch, uint32_t number)
{
	if (number >= fetch->manifest->block_count)
		return NULL;
	struct orion_block *block = orion_store_peek(fetch->store, orion_fetch_digest(fetch, number));

	pthread_mutex_lock(&fetch->lock);
	for (uint32_t i = 0; i < ORION_RECENT && !block; i++)
		if (fetch->recent[i].block && fetch->recent[i].number == number) {
			block = fetch->recent[i].block;
			orion_block_hold(block);
		}
	pthread_mutex_unlock(&fetch->lock);
	/* As in stored(). */
	if (block && block->length != fetch->manifest->blocks[number].length) {
		orion_block_release(block);
		return NULL;
	}
	return block;
}

void orion_fetch_remember(struct orion_fetch *fetch, bool remember)
{
	pthread_mutex_lock(&fetch->lock);
	fetch->remembers = remember;
	for (uint32_t i = 0; i < ORION_RECENT && !remember; i++) {
		orion_block_release(fetch->recent[i].block);
		fetch->recent[i].block = NULL;
	}
	pthread_mutex_unlock(&fetch->lock);
}

void orion_fetch_prepare(struct orion_fetch *fetch, uint32_t server)
{
	orion_packs_open_early(fetch->packs, server);
}

void orion_fetch_given(struct orion_fetch *fetch, uint32_t block)
{
	orion_store_given(fetch->store, orion_fetch_digest(fetch, block));
	pthread_mutex_lock(&fetch->lock);
	fetch->kernel_has[block] = true;
	pthread_mutex_unlock(&fetch->lock);
}

void orion_fetch_statistics(struct orion_fetch *fetch, struct orion_fetch_statistics *ret)
{
	pthread_mutex_lock(&fetch->lock);
	*ret = fetch->count;
	pthread_mutex_unlock(&fetch->lock);
	ret->stalls = atomic_load_explicit(&fetch->stalls, memory_order_relaxed);
	ret->longest_wait_ns = atomic_load_explicit(&fetch->longest_wait, memory_order_relaxed);
}
