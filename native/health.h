/* What is believed about one server, and why: from its answers, its silence and its lies. Policy alone: no threads, no locks,
 * no clock of its own; all times are CLOCK_MONOTONIC in ns, handed in.
 */
#ifndef ORION_HEALTH_H
#define ORION_HEALTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum orion_server_state {
	ORION_UNKNOWN, /* not asked yet */
	ORION_GOOD,
	ORION_SLOW, /* answers, but so much later than the best that it is asked after all that are good */
	ORION_SUSPECT, /* its oldest read is overdue, or its last one failed */
	ORION_DEAD, /* suspect for so long that it is only probed */
	ORION_QUARANTINED, /* gave content that is not what its digest says: asked when nobody else can be */
	ORION_FOREIGN, /* serves something else: never asked. Shown as quarantined. */
	ORION_REMOVED, /* its place may be taken */
};

#define ORION_LATENCIES 128

struct orion_health {
	enum orion_server_state state;
	char reason[128]; /* why; empty for those that are good */
	uint64_t since; /* when it came into this state */
	uint64_t trusted_at; /* when it may be the current one again */
	uint64_t answered_at; /* the last good answer; 0: none yet */
	uint64_t latencies[ORION_LATENCIES]; /* a ring */
	uint32_t latency_count; /* ever */
	uint64_t p50, p95, p99; /* of the ring, or 0 */
	uint64_t ewma;
	uint64_t round_trip; /* of small reads: a running minimum that forgets; 0: not known */
	uint64_t recent[8]; /* the last small reads */
	uint32_t recent_count; /* ever */
	double lateness; /* the share of its reads that another server answered sooner */
	uint64_t probe_at; /* when to look at it again */
	uint64_t backoff;
};

void orion_health_init(struct orion_health *health, uint64_t now);

/* A read came back well. latency: 0 if it is of no account. measures: it was small, so that its latency says what a round
 * trip costs. true: it has become good just now. */
bool orion_health_answered(struct orion_health *health, uint64_t now, uint64_t latency, bool measures);
/* A read failed, or is overdue: true if it has become suspect just now. */
bool orion_health_failed(struct orion_health *health, uint64_t now, const char *why);
/* It lied (ORION_QUARANTINED) or serves something else (ORION_FOREIGN): true if that is news. */
bool orion_health_condemn(struct orion_health *health, uint64_t now, enum orion_server_state state, const char *why);
/* Another server answered in its place, or it answered in time after all. */
void orion_health_lost(struct orion_health *health);
/* From suspect to dead, when it is time: true if it just was. */
bool orion_health_tick(struct orion_health *health, uint64_t now);

/* Whether it is asked like any other. */
bool orion_health_is_well(const struct orion_health *health);
/* How long a read may wait until another server is asked as well. */
uint64_t orion_health_hedge_after(const struct orion_health *health, uint64_t floor, uint64_t cap);
/* How long the oldest read may wait, with nothing else coming, before the server is suspect. */
uint64_t orion_health_patience(const struct orion_health *health, uint64_t most);
/* What a round trip costs now: the least of the last small reads; 0: not known. */
uint64_t orion_health_distance(const struct orion_health *health);
/* Whether one is so much better that it is worth a change (dnbd3's rule, with the share of late reads beside it). */
bool orion_health_is_better(const struct orion_health *health, const struct orion_health *than);
/* Whether it is so much slower than the best that it is SLOW. */
bool orion_health_is_slow(const struct orion_health *health, const struct orion_health *best);

/* When the next probe is due; to be called when one ends, or none is under way. */
void orion_health_schedule_probe(struct orion_health *health, uint64_t now, bool active);

const char *orion_state_name(enum orion_server_state state);

#endif
