/* What the parts of fetching share: reads and what is read around them (fetch.c), flights and who brings them (flight.c),
 * and one read on one server (attempt.c).
 */
#ifndef ORION_FETCH_PARTS_H
#define ORION_FETCH_PARTS_H

#include "digest.h"
#include "fetch.h"
#include "packs.h"

#include <pthread.h>
#include <stdatomic.h>

#define ORION_FLIGHT_BUCKETS 1024 /* of the table of flights; a power of two */

/* A block on its way. Several servers may be asked for it; the first good answer ends it. */
struct orion_flight {
	uint32_t number; /* of the block */
	struct orion_flight *chain; /* of the table */
	struct orion_slot *waiting;
	struct attempt *attempt; /* the last that was asked for it, while that is under way; or NULL */
	uint64_t serial; /* attempts with a smaller one are about a flight of this block before */
	uint64_t since; /* when somebody began to wait, or it took off */
	uint32_t tried, in_air; /* a bit for each server: was asked; has not answered yet */
	uint32_t bad; /* answered, and had no good copy */
	uint32_t read_errors; /* EIO that it got */
	uint64_t retry_at; /* while parked: not before */
	bool ahead; /* nobody has waited for it yet */
	bool speculative; /* nobody waited for it when it took off */
	bool parked; /* nobody can be asked just now */
};

/* One run of neighbouring blocks, asked of one server. A thread that comes back from a dead server after its deadline
 * touches nothing but this. */
struct attempt {
	struct orion_job job; /* first: the upstreams' */
	struct orion_fetch *fetch;
	uint64_t serial;
	uint32_t first, count; /* numbers of blocks */
	uint32_t overtakes; /* a bit for each server that was late with all of them */
	enum orion_trace_reason reason;
	uint64_t traced;
	size_t bytes;
	struct orion_block *blocks[ORION_RUN_BLOCKS]; /* before run(): none; after it: those that are good */
	uint32_t bad; /* of those that are not what their digests say, the first; or ORION_HOLE */
	uint8_t bad_digest[ORION_DIGEST_MAX]; /* what it is in place of it */
};

/* A block that somebody may still look into, although the kernel has it whole. Few of them: each is memory that the next
 * block does not use again at once, and page faults in its place. */
#define ORION_RECENT 16

struct orion_recent {
	struct orion_block *block; /* held; NULL: none */
	uint32_t number;
};

struct orion_fetch {
	const struct orion_manifest *manifest;
	struct orion_store *store;
	struct orion_upstreams *upstreams;
	struct orion_events *events;
	struct orion_fetch_options options;
	struct orion_packs *packs;
	pthread_mutex_t lock; /* of what follows, and of slots' next, flight, block and read->missing while it is under way */
	struct orion_flight *flights[ORION_FLIGHT_BUCKETS];
	uint64_t serials;
	size_t ahead_bytes; /* on their way */
	bool *was_ahead; /* for each block: fetched speculatively, and not demanded since */
	bool *kernel_has; /* for each block: the page cache was given all of it, and has not asked for any of it since */
	struct orion_fetch_statistics count;
	bool remembers;
	struct orion_recent recent[ORION_RECENT]; /* what was read last */
	uint32_t recent_next;
	bool looks; /* the upstreams' clock has been told to look at flights */
	_Atomic uint64_t stalls, longest_wait;
};

/* Why blocks are asked for, and of whom first. */
struct errand {
	enum orion_trace_reason reason;
	int server; /* -1: the best */
	bool urgent; /* somebody has waited long enough already */
};

static inline const uint8_t *orion_fetch_digest(const struct orion_fetch *fetch, uint32_t number)
{
	return fetch->manifest->digests + (size_t)number * fetch->manifest->header->digest_size;
}

/* How many bytes of a slot's the kernel will keep in our place. */
static inline uint32_t orion_slot_kept(const struct orion_slot *slot)
{
	return slot->read->kept ? slot->length : 0;
}

struct attempt *orion_attempt_create(struct orion_fetch *fetch, uint32_t first, uint32_t count, struct errand errand);
/* In whatever thread asks: reads it, if a local source has all of it in its page cache; waits for nothing. */
bool orion_attempt_at_once(struct attempt *attempt, uint32_t server, int *ret_error);
void orion_attempt_drop(struct orion_job *job);
/* The upstreams' calls; in flight.c. */
void orion_attempt_finish(struct orion_job *job, int error);
bool orion_attempt_late(struct orion_job *job, bool resend);

/* Locked. */
struct orion_flight **orion_flight_find(struct orion_fetch *fetch, uint32_t number);
struct orion_flight *orion_flight_take_off(struct orion_fetch *fetch, uint32_t number, bool ahead); /* NULL: no memory */
void orion_fetch_recall(struct orion_fetch *fetch, uint32_t number, struct orion_block *block);

/* Asks for blocks that have taken off: ascending numbers. */
void orion_flights_depart(struct orion_fetch *fetch, const uint32_t *numbers, uint32_t total, struct errand errand);
/* The upstreams' watcher: those that wait for a server. */
bool orion_flights_look(void *fetch);

/* All blocks of a read are there, or will never be: it is told. In fetch.c. */
void orion_reads_tell(struct orion_fetch *fetch, struct orion_slot *done);

#endif
