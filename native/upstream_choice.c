/* Which server is asked, and what its answers say of it. */
#define _GNU_SOURCE
#include "upstream_parts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* How often servers that are well are compared, and how long one stays current although another is better. */
#define RANK_EVERY (250u * 1000000ull)
#define STAY (5ull * ORION_SECOND)

#define STATE_FIELDS ORION_FIELD("server") "%s" ORION_FIELD("state") "%s"

/* The order in which servers are asked. */
enum class { TRUSTED, NEW, SLOW, SUSPECT, DRAINING, LIAR, NEVER };

bool orion_server_is_there(const struct orion_server *server)
{
	return server->health.state != ORION_REMOVED && server->health.state != ORION_FOREIGN;
}

static enum class class_of(const struct orion_server *server, uint64_t now)
{
	const struct orion_health *health = &server->health;

	if (!orion_server_is_there(server) || health->state == ORION_DEAD)
		return NEVER;
	if (health->state == ORION_QUARANTINED)
		return LIAR;
	if (server->draining)
		return DRAINING;
	switch (health->state) {
	case ORION_GOOD:
		return now >= health->trusted_at ? TRUSTED : NEW;
	case ORION_UNKNOWN:
		return NEW;
	case ORION_SLOW:
		return SLOW;
	default:
		return SUSPECT;
	}
}

/* Locked: the best of those that are no worse than worst and not in tried; its number, or -EIO. The current one is the best
 * of its class, then the nearest, then the first. */
static int best(const struct orion_upstreams *all, uint32_t tried, enum class worst, uint64_t now)
{
	enum class found_class = worst;
	int found = -EIO;

	for (uint32_t i = 0; i < all->count; i++) {
		const uint32_t number = (all->current + i) % all->count;
		const struct orion_server *server = &all->servers[number];
		const enum class class = class_of(server, now);

		if (tried & 1u << number || class > found_class || class == NEVER)
			continue;
		if (found >= 0 && class == found_class) {
			const uint64_t distance = orion_health_distance(&server->health);
			const uint64_t least = orion_health_distance(&all->servers[found].health);

			if ((uint32_t)found == all->current || !distance || (least && distance >= least))
				continue;
		}
		found = (int)number;
		found_class = class;
	}
	return found;
}

/* Locked: the next of those that are as good as the best; or that. */
static int next_in_turn(struct orion_upstreams *all, uint32_t tried, int first, uint64_t now)
{
	const struct orion_health *health = &all->servers[first].health;

	if (class_of(&all->servers[first], now) > NEW)
		return first;
	for (uint32_t i = 0; i < all->count; i++) {
		const uint32_t number = all->next_spread++ % all->count;
		const struct orion_server *server = &all->servers[number];

		if (!(tried & 1u << number) && class_of(server, now) <= NEW &&
		    !orion_health_is_better(health, &server->health))
			return (int)number;
	}
	return first;
}

static int choose(struct orion_upstreams *all, uint32_t tried, enum class worst)
{
	const uint64_t now = orion_now_ns();

	pthread_mutex_lock(&all->lock);
	int found = best(all, tried, worst, now);

	if (found >= 0 && all->options.spread)
		found = next_in_turn(all, tried, found, now);
	pthread_mutex_unlock(&all->lock);
	return found;
}

int orion_upstreams_choose(struct orion_upstreams *all, uint32_t tried)
{
	return choose(all, tried, LIAR);
}

int orion_upstreams_choose_well(struct orion_upstreams *all, uint32_t tried)
{
	const int found = choose(all, tried, SLOW);

	/* What is verified may come from a liar rather than from nobody. */
	if (found >= 0)
		return found;
	pthread_mutex_lock(&all->lock);
	for (uint32_t i = 0; i < all->count; i++)
		if (all->servers[i].health.state != ORION_QUARANTINED)
			tried |= 1u << i;
	pthread_mutex_unlock(&all->lock);
	return choose(all, tried, LIAR);
}

uint32_t orion_upstreams_all(struct orion_upstreams *all)
{
	uint32_t found = 0;

	pthread_mutex_lock(&all->lock);
	for (uint32_t i = 0; i < all->count; i++)
		if (orion_server_is_there(&all->servers[i]))
			found |= 1u << i;
	pthread_mutex_unlock(&all->lock);
	return found;
}

bool orion_upstreams_is_up(struct orion_upstreams *all, uint32_t server)
{
	pthread_mutex_lock(&all->lock);
	const bool is_up = server < all->count && orion_health_is_well(&all->servers[server].health) &&
			   !all->servers[server].draining;

	pthread_mutex_unlock(&all->lock);
	return is_up;
}

/* Locked. */
static void switch_to(struct orion_upstreams *all, uint32_t number, const char *why)
{
	const struct orion_server *before = &all->servers[all->current];

	all->current = number;
	all->servers[number].switches++;
	orion_events_note(all->events, ORION_WARNING, ORION_EVENT_SWITCH,
			  "reading from %s instead of %s: %s" ORION_FIELD("server") "%s" ORION_FIELD("before") "%s"
				  ORION_FIELD("reason") "%s",
			  all->servers[number].source, before->source, why, all->servers[number].source, before->source, why);
}

void orion_server_pick(struct orion_upstreams *all, uint64_t now)
{
	const struct orion_server *current = &all->servers[all->current];

	if (!all->count || class_of(current, now) <= NEW)
		return;
	const int found = best(all, 0, class_of(current, now), now);

	if (found >= 0 && (uint32_t)found != all->current)
		switch_to(all, (uint32_t)found,
			  current->draining ? "it is being drained"
			  : current->health.state == ORION_REMOVED ? "it was removed"
			  : current->health.reason[0] ? current->health.reason : "it is slow");
}

void orion_server_rank(struct orion_upstreams *all, uint64_t now)
{
	struct orion_server *nearest = NULL;
	char why[128];

	if (now < all->ranked_at + RANK_EVERY)
		return;
	all->ranked_at = now;
	for (uint32_t i = 0; i < all->count; i++) {
		struct orion_server *server = &all->servers[i];
		const uint64_t distance = orion_health_distance(&server->health);

		if (distance && class_of(server, now) <= SLOW &&
		    (!nearest || distance < orion_health_distance(&nearest->health)))
			nearest = server;
	}
	for (uint32_t i = 0; nearest && i < all->count; i++) {
		struct orion_health *health = &all->servers[i].health;
		const bool slow = orion_health_is_slow(health, &nearest->health);

		if (health->state == ORION_GOOD && slow) {
			health->state = ORION_SLOW;
			health->since = now;
			snprintf(health->reason, sizeof(health->reason), "%.1f ms for a small read, %.60s takes %.1f",
				 (double)orion_health_distance(health) / 1e6, nearest->source,
				 (double)orion_health_distance(&nearest->health) / 1e6);
		} else if (health->state == ORION_SLOW && !slow) {
			health->state = ORION_GOOD;
			health->since = now;
			health->reason[0] = '\0';
		}
	}
	const struct orion_server *current = &all->servers[all->current];

	for (uint32_t i = 0; i < all->count; i++) {
		struct orion_server *server = &all->servers[i];

		if (server == current || class_of(server, now) != TRUSTED || (all->changed_at && now < all->changed_at + STAY) ||
		    !orion_health_is_better(&server->health, &current->health))
			continue;
		if (current->health.lateness > server->health.lateness)
			snprintf(why, sizeof(why), "%.0f%% of its reads are late", 100 * current->health.lateness);
		else
			snprintf(why, sizeof(why), "%.1f ms for a small read in place of %.1f",
				 (double)orion_health_distance(&current->health) / 1e6,
				 (double)orion_health_distance(&server->health) / 1e6);
		all->changed_at = now;
		switch_to(all, i, why);
		break;
	}
	orion_server_pick(all, now);
}

void orion_server_answered(struct orion_server *server, uint64_t now, uint64_t latency, bool measures)
{
	struct orion_upstreams *all = server->all;
	const bool was_new = server->health.state == ORION_UNKNOWN;

	if (!orion_health_answered(&server->health, now, latency, measures))
		return;
	if (!was_new)
		orion_events_note(all->events, ORION_INFO, ORION_EVENT_STATE, "%s answers again" STATE_FIELDS, server->source,
				  server->source, "good");
	orion_server_pick(all, now);
	/* What waits for a server can go on, and what is stuck at others can come here. */
	all->look_at = now;
	orion_clock_wake_by(all, now);
}

void orion_server_suspect(struct orion_server *server, uint64_t now, const char *why)
{
	if (!orion_health_failed(&server->health, now, why))
		return;
	orion_events_note(server->all->events, ORION_WARNING, ORION_EVENT_STATE, "%s is suspect: %s" STATE_FIELDS,
			  server->source, why, server->source, "suspect");
	orion_server_pick(server->all, now);
	orion_clock_wake_by(server->all, now);
}

bool orion_error_is_ours(int error)
{
	return error == -ECANCELED || error == -ENOMEM || error == -EMFILE || error == -ENFILE;
}

void orion_upstreams_failed(struct orion_upstreams *all, uint32_t number, int error, const char *why)
{
	struct orion_server *server = &all->servers[number];

	pthread_mutex_lock(&all->lock);
	/* The clock has counted those. */
	server->errors += error != -ETIMEDOUT;
	orion_server_suspect(server, orion_now_ns(), why);
	pthread_mutex_unlock(&all->lock);
}

/* Locked. */
static void condemn(struct orion_server *server, enum orion_server_state state, const char *why)
{
	const uint64_t now = orion_now_ns();

	if (!orion_health_condemn(&server->health, now, state, why))
		return;
	if (state == ORION_QUARANTINED)
		orion_events_note(server->all->events, ORION_WARNING, ORION_EVENT_QUARANTINE, "%s is quarantined: %s" STATE_FIELDS,
				  server->source, why, server->source, "quarantined");
	else if (state == ORION_FOREIGN)
		orion_events_note(server->all->events, ORION_WARNING, ORION_EVENT_QUARANTINE, "%s is left out: %s" STATE_FIELDS,
				  server->source, why, server->source, "quarantined");
	orion_server_pick(server->all, now);
	orion_clock_wake_by(server->all, now);
}

void orion_upstreams_lied(struct orion_upstreams *all, uint32_t number, const char *proof)
{
	pthread_mutex_lock(&all->lock);
	all->servers[number].mismatches++;
	condemn(&all->servers[number], ORION_QUARANTINED, proof);
	pthread_mutex_unlock(&all->lock);
}

void orion_upstreams_leave_out(struct orion_upstreams *all, uint32_t number, const char *why)
{
	pthread_mutex_lock(&all->lock);
	condemn(&all->servers[number], ORION_FOREIGN, why);
	pthread_mutex_unlock(&all->lock);
}

void orion_upstreams_overtaken(struct orion_upstreams *all, uint32_t number)
{
	pthread_mutex_lock(&all->lock);
	all->servers[number].hedges_won++;
	orion_health_lost(&all->servers[number].health);
	pthread_mutex_unlock(&all->lock);
}

void orion_upstreams_prefer(struct orion_upstreams *all, uint32_t number)
{
	pthread_mutex_lock(&all->lock);
	all->current = number;
	pthread_mutex_unlock(&all->lock);
}

int orion_upstreams_drain(struct orion_upstreams *all, uint32_t number, bool drain)
{
	const uint64_t now = orion_now_ns();
	int error = -ENOENT;

	pthread_mutex_lock(&all->lock);
	if (number < all->count && all->servers[number].health.state != ORION_REMOVED) {
		error = 0;
		all->servers[number].draining = drain;
		orion_events_note(all->events, ORION_INFO, ORION_EVENT_SERVER,
				  drain ? "%s is being drained" : "%s is used again", all->servers[number].source);
		orion_server_pick(all, now);
	}
	pthread_mutex_unlock(&all->lock);
	return error;
}

int orion_upstreams_remove(struct orion_upstreams *all, uint32_t number)
{
	uint32_t others = 0;
	int error = 0;

	pthread_mutex_lock(&all->lock);
	for (uint32_t i = 0; i < all->count; i++)
		others += i != number && orion_server_is_there(&all->servers[i]);
	if (number >= all->count || all->servers[number].health.state == ORION_REMOVED)
		error = -ENOENT;
	else if (!others)
		error = -EBUSY;
	if (!error) {
		struct orion_server *server = &all->servers[number];

		orion_events_note(all->events, ORION_INFO, ORION_EVENT_SERVER, "%s is removed", server->source);
		condemn(server, ORION_REMOVED, "removed");
		server->mount++;
		orion_server_retire(server, server->fd);
		server->fd = -1;
		pthread_cond_broadcast(&server->work);
	}
	pthread_mutex_unlock(&all->lock);
	return error;
}

int orion_upstreams_replace(struct orion_upstreams *all, uint32_t number, int fd)
{
	const uint64_t now = orion_now_ns();
	int error = -ENOENT;

	pthread_mutex_lock(&all->lock);
	if (number < all->count && all->servers[number].health.state != ORION_REMOVED) {
		struct orion_server *server = &all->servers[number];

		error = 0;
		server->mount++;
		orion_server_retire(server, server->fd);
		server->fd = fd;
		/* It may hold something else by now: that is looked at before anything is read. */
		if (server->health.state == ORION_FOREIGN || server->health.state == ORION_DEAD) {
			server->health.state = ORION_SUSPECT;
			server->health.since = now;
		}
		server->health.probe_at = now;
		orion_events_note(all->events, ORION_INFO, ORION_EVENT_MOUNT, "%s is mounted anew", server->source);
		orion_clock_wake_by(all, now);
	}
	pthread_mutex_unlock(&all->lock);
	return error;
}
