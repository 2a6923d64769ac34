/* States, latencies, and what follows from them. */
#define _GNU_SOURCE
#include "health.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS 1000000u
#define SECOND 1000000000u
/* Below so many answers quantiles say little. */
#define FEW 8
#define FEW_HEDGE (100u * MS)
#define FEW_PATIENCE (250u * MS)
/* The least patience: a busy machine can leave a thread without a processor for so long. */
#define PATIENCE_LEAST (100u * MS)
#define PATIENCE_FACTOR 4
/* A read this much later than most is late, whatever p95 says: of a server that answers one in twenty half a second late,
 * p95 is just that half second. */
#define LATE_FACTOR 4
/* The quantiles are taken anew after so many answers. */
#define QUANTILES_EVERY 8
#define DEAD_AFTER (2ull * SECOND)
/* A server that comes back answers for so long before all is asked of it again. */
#define TRUST_AFTER (2ull * SECOND)
#define PROBE_ACTIVE (1ull * SECOND)
#define PROBE_IDLE (10ull * SECOND)
#define PROBE_SUSPECT (250ull * MS)
#define BACKOFF_FIRST (1ull * SECOND)
#define BACKOFF_MOST (30ull * SECOND)
#define LATENESS_WEIGHT (1.0 / 64)
/* Three of the last reads: two may be chance. */
#define LATENESS_MUCH 0.04

static void enter(struct orion_health *health, uint64_t now, enum orion_server_state state, const char *why)
{
	health->state = state;
	health->since = now;
	snprintf(health->reason, sizeof(health->reason), "%s", why);
}

void orion_health_init(struct orion_health *health, uint64_t now)
{
	*health = (struct orion_health){.state = ORION_UNKNOWN, .since = now, .probe_at = now, .backoff = BACKOFF_FIRST};
	snprintf(health->reason, sizeof(health->reason), "not asked yet");
}

static int compare(const void *left, const void *right)
{
	const uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return a < b ? -1 : a > b;
}

static void take_quantiles(struct orion_health *health)
{
	const uint32_t count = health->latency_count < ORION_LATENCIES ? health->latency_count : ORION_LATENCIES;
	uint64_t sorted[ORION_LATENCIES];

	memcpy(sorted, health->latencies, sizeof(sorted));
	qsort(sorted, count, sizeof(*sorted), compare);
	health->p50 = sorted[(count - 1) / 2];
	health->p95 = sorted[(count - 1) * 95 / 100];
	health->p99 = sorted[(count - 1) * 99 / 100];
}

static void note_latency(struct orion_health *health, uint64_t latency, bool measures)
{
	health->latencies[health->latency_count++ % ORION_LATENCIES] = latency;
	health->ewma = health->ewma ? health->ewma - health->ewma / 8 + latency / 8 : latency;
	if (health->latency_count <= FEW || health->latency_count % QUANTILES_EVERY == 0)
		take_quantiles(health);
	if (!measures)
		return;
	health->recent[health->recent_count++ % (sizeof(health->recent) / sizeof(*health->recent))] = latency;
	/* What waits in no queue is the network's; it forgets by a sixteenth each time. */
	if (!health->round_trip || latency < health->round_trip)
		health->round_trip = latency;
	else
		health->round_trip += (latency - health->round_trip) / 16;
}

bool orion_health_answered(struct orion_health *health, uint64_t now, uint64_t latency, bool measures)
{
	const bool was_away = health->state == ORION_SUSPECT || health->state == ORION_DEAD;

	health->answered_at = now;
	if (latency)
		note_latency(health, latency, measures);
	health->lateness -= health->lateness * LATENESS_WEIGHT;
	if (!was_away && health->state != ORION_UNKNOWN)
		return false;
	/* Half a moment's absence costs no trust. */
	if (health->state == ORION_DEAD || now - health->since > TRUST_AFTER / 2)
		health->trusted_at = now + TRUST_AFTER;
	health->backoff = BACKOFF_FIRST;
	enter(health, now, ORION_GOOD, "");
	return true;
}

bool orion_health_failed(struct orion_health *health, uint64_t now, const char *why)
{
	if (!orion_health_is_well(health))
		return false;
	enter(health, now, ORION_SUSPECT, why);
	health->probe_at = now;
	return true;
}

bool orion_health_condemn(struct orion_health *health, uint64_t now, enum orion_server_state state, const char *why)
{
	if (health->state >= state)
		return false;
	enter(health, now, state, why);
	return true;
}

void orion_health_lost(struct orion_health *health)
{
	health->lateness += (1 - health->lateness) * LATENESS_WEIGHT;
}

bool orion_health_tick(struct orion_health *health, uint64_t now)
{
	if (health->state != ORION_SUSPECT || now - health->since < DEAD_AFTER)
		return false;
	char why[sizeof(health->reason)];

	memcpy(why, health->reason, sizeof(why));
	enter(health, now, ORION_DEAD, why);
	return true;
}

bool orion_health_is_well(const struct orion_health *health)
{
	return health->state == ORION_GOOD || health->state == ORION_SLOW || health->state == ORION_UNKNOWN;
}

uint64_t orion_health_hedge_after(const struct orion_health *health, uint64_t floor, uint64_t cap)
{
	const uint64_t late = LATE_FACTOR * health->p50 + floor;
	uint64_t after = FEW_HEDGE;

	if (health->latency_count)
		after = health->latency_count >= FEW && health->p95 < late ? health->p95 : late;
	if (after < floor)
		after = floor;
	return after < cap ? after : cap;
}

uint64_t orion_health_patience(const struct orion_health *health, uint64_t most)
{
	uint64_t patience = FEW_PATIENCE;

	if (health->latency_count >= FEW)
		patience = PATIENCE_FACTOR * health->p95;
	if (patience < PATIENCE_LEAST)
		patience = PATIENCE_LEAST;
	return patience < most ? patience : most;
}

uint64_t orion_health_distance(const struct orion_health *health)
{
	const uint32_t room = sizeof(health->recent) / sizeof(*health->recent);
	const uint32_t count = health->recent_count < room ? health->recent_count : room;
	uint64_t least = count ? health->recent[0] : 0;

	for (uint32_t i = 1; i < count; i++)
		least = health->recent[i] < least ? health->recent[i] : least;
	return least;
}

bool orion_health_is_better(const struct orion_health *health, const struct orion_health *than)
{
	const uint64_t best = orion_health_distance(health), current = orion_health_distance(than);

	if (!best)
		return false;
	if (than->lateness > LATENESS_MUCH && health->lateness < than->lateness / 2)
		return true;
	return current > best + 80u * MS || current / 4 * 3 > best + MS;
}

bool orion_health_is_slow(const struct orion_health *health, const struct orion_health *best)
{
	const uint64_t distance = orion_health_distance(health), least = orion_health_distance(best);

	return least && distance > 4 * least && distance > least + 10u * MS;
}

void orion_health_schedule_probe(struct orion_health *health, uint64_t now, bool active)
{
	switch (health->state) {
	case ORION_SUSPECT:
		health->probe_at = now + PROBE_SUSPECT;
		return;
	case ORION_DEAD:
		health->probe_at = now + health->backoff;
		health->backoff = health->backoff * 2 < BACKOFF_MOST ? health->backoff * 2 : BACKOFF_MOST;
		return;
	default:
		health->probe_at = now + (active ? PROBE_ACTIVE : PROBE_IDLE);
	}
}

const char *orion_state_name(enum orion_server_state state)
{
	static const char *const names[] = {"unknown", "good", "slow", "suspect", "dead", "quarantined", "quarantined", "removed"};

	return names[state];
}
