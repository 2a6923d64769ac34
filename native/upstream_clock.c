/* The clock: what is late, what is overdue, who is suspect, who is to be looked at. */
#define _GNU_SOURCE
#include "upstream_parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How often those who wait for any server are looked at. */
#define LOOK_EVERY (100u * 1000000ull)
#define LEAST_SLEEP 100000u
/* Servers are idle when nobody has asked them for so long. */
#define IDLE_AFTER (5ull * ORION_SECOND)

void orion_clock_wake_by(struct orion_upstreams *all, uint64_t at)
{
	if (at >= all->wakes_at)
		return;
	all->wakes_at = at;
	pthread_cond_signal(&all->tick);
}

/* Locked, unlocked meanwhile: what a job's owner does about it, and its end. */
static bool tell_late(struct orion_upstreams *all, struct orion_job *job, bool resend)
{
	job->holds++;
	pthread_mutex_unlock(&all->lock);
	const bool asked = job->late(job, resend);

	pthread_mutex_lock(&all->lock);
	orion_job_release(all, job);
	return asked;
}

/* Locked: the first job of a server that has waited too long, taken out; NULL if there is none. */
static struct orion_job *overdue(struct orion_server *server, uint64_t now)
{
	const uint64_t deadline = server->all->options.deadline_ns;
	struct orion_job *job = server->running.first;

	while (job && now - job->since < deadline)
		job = job->next;
	if (job) {
		orion_queue_take(&server->running, job);
		server->stuck++;
		server->abandoned++;
		orion_server_start_thread(server, ORION_STUCK_FACTOR * server->all->options.readers);
		return job;
	}
	/* Much to do makes no dead server: a queue is given up only when no job ended for a whole deadline. */
	if (now - server->last_end < deadline)
		return NULL;
	for (struct orion_queue *queue = &server->urgent;; queue = &server->other) {
		job = queue->first;
		if (job && now - job->since >= deadline) {
			orion_queue_take(queue, job);
			server->queued--;
			return job;
		}
		if (queue == &server->other)
			return NULL;
	}
}

/* Locked, unlocked now and then. */
static void end_overdue(struct orion_server *server)
{
	struct orion_upstreams *all = server->all;
	struct orion_job *job;

	while ((job = overdue(server, orion_now_ns()))) {
		job->finished = true;
		server->timeouts++;
		/* The thread that runs it gives up its own hold; what nobody runs was the queue's, and is ours now. */
		job->holds += job->running;
		pthread_mutex_unlock(&all->lock);
		job->finish(job, -ETIMEDOUT);
		pthread_mutex_lock(&all->lock);
		orion_job_release(all, job);
	}
}

/* The job that has waited longest; without any that runs, one that waits for a thread. */
static const struct orion_job *oldest_job(const struct orion_server *server)
{
	return server->running.first  ? server->running.first
	       : server->urgent.first ? server->urgent.first
				      : server->other.first;
}

/* Whether nothing came of it for longer than can be chance; when that will be. */
static bool is_silent(const struct orion_server *server, uint64_t now, uint64_t *ret_when)
{
	const struct orion_job *oldest = oldest_job(server);
	uint64_t since;

	if (!oldest)
		return false;
	since = oldest->since > server->last_end ? oldest->since : server->last_end;
	*ret_when = since + orion_health_patience(&server->health, server->all->options.deadline_ns);
	return now >= *ret_when;
}

/* Locked: the first job for which another server shall be asked, by queue; or NULL. */
static struct orion_job *first_late(struct orion_server *server, uint64_t now, bool resend, uint64_t *next)
{
	const struct orion_upstream_options *options = &server->all->options;
	const uint64_t after = orion_health_hedge_after(&server->health, options->hedge_floor_ns, options->hedge_cap_ns);
	const struct orion_queue *queues[] = {&server->running, &server->urgent, &server->other};

	for (int i = 0; i < 3; i++)
		for (struct orion_job *job = queues[i]->first; job; job = job->next) {
			if (!job->late || job->resent)
				continue;
			if (resend)
				return job;
			if (!job->waited || job->hedged)
				continue;
			if (now - job->asked_at >= after)
				return job;
			if (job->asked_at + after < *next)
				*next = job->asked_at + after;
		}
	return NULL;
}

static void resend_all(struct orion_server *server, uint64_t now)
{
	struct orion_job *job;
	uint64_t ignored = UINT64_MAX;

	while ((job = first_late(server, now, true, &ignored))) {
		job->resent = true;
		if (tell_late(server->all, job, true))
			server->resent++;
	}
}

/* Who could be asked in place of a server. */
static bool has_alternative(const struct orion_server *server)
{
	const struct orion_upstreams *all = server->all;

	for (uint32_t i = 0; i < all->count; i++)
		if (i != server->number && orion_health_is_well(&all->servers[i].health) && !all->servers[i].draining)
			return true;
	return false;
}

static void hedge(struct orion_server *server, uint64_t now, uint64_t *next)
{
	struct orion_upstreams *all = server->all;
	struct orion_job *job;

	if (!has_alternative(server))
		return;
	while (all->tokens >= 1 && (job = first_late(server, now, false, next))) {
		const bool has_thread = job->running;

		job->hedged = true;
		if (!tell_late(all, job, false))
			continue;
		all->tokens -= 1;
		server->hedges++;
		/* Its thread may be busy for long: those behind it shall not be late as well. */
		if (has_thread)
			orion_server_start_thread(server, ORION_STUCK_FACTOR * all->options.readers);
	}
}

struct probe {
	struct orion_job job; /* first: the upstreams' */
	struct orion_upstreams *all;
};

static int run_probe(struct orion_job *job, uint32_t server)
{
	const struct probe *probe = (struct probe *)job;

	return probe->all->probe(probe->all->probe_context, server, job->scratch);
}

static void finish_probe(struct orion_job *job, int error)
{
	struct orion_upstreams *all = ((struct probe *)job)->all;
	struct orion_server *server = &all->servers[job->server];
	const uint64_t now = orion_now_ns();

	pthread_mutex_lock(&all->lock);
	server->probing = false;
	if (error && error != -EREMCHG && !orion_error_is_ours(error) && orion_server_is_there(server)) {
		server->errors += error != -ETIMEDOUT;
		orion_server_suspect(server, now, error == -ETIMEDOUT ? "no answer" : strerrordesc_np(-error));
	}
	orion_health_schedule_probe(&server->health, now, now - all->active_at < IDLE_AFTER);
	orion_clock_wake_by(all, server->health.probe_at);
	pthread_mutex_unlock(&all->lock);
}

static void drop_probe(struct orion_job *job)
{
	free(job);
}

/* Locked, unlocked meanwhile. */
static void begin_probe(struct orion_server *server)
{
	struct probe *probe = calloc(1, sizeof(*probe));
	struct orion_upstreams *all = server->all;

	if (!probe)
		return;
	*probe = (struct probe){
		.job = {.run = run_probe, .finish = finish_probe, .drop = drop_probe, .urgent = true, .measures = true, .probes = true},
		.all = all,
	};
	server->probing = true;
	pthread_mutex_unlock(&all->lock);
	orion_upstreams_submit(all, server->number, &probe->job);
	pthread_mutex_lock(&all->lock);
}

/* Locked: one server; when to look at it next. */
static uint64_t watch_server(struct orion_server *server, bool recovered)
{
	struct orion_upstreams *all = server->all;
	uint64_t now = orion_now_ns(), next = UINT64_MAX, silent_at = UINT64_MAX;
	char why[64];

	if (server->running.first || server->queued) {
		end_overdue(server);
		now = orion_now_ns();
		next = now + all->options.deadline_ns / 8;
	}
	if (orion_health_is_well(&server->health) && is_silent(server, now, &silent_at)) {
		snprintf(why, sizeof(why), "no answer for %.0f ms", (double)(now - oldest_job(server)->since) / 1e6);
		orion_server_suspect(server, now, why);
	}
	if (silent_at > now && silent_at < next)
		next = silent_at;
	if (orion_health_tick(&server->health, now))
		orion_events_note(all->events, ORION_WARNING, ORION_EVENT_STATE,
				  "%s is dead: %s" ORION_FIELD("server") "%s" ORION_FIELD("state") "dead", server->source,
				  server->health.reason, server->source);
	if (!orion_health_is_well(&server->health)) {
		if (recovered)
			for (struct orion_job *job = server->running.first; job; job = job->next)
				job->resent = false;
		resend_all(server, now);
	} else if (all->options.hedge_budget > 0) {
		hedge(server, now, &next);
	}
	if (server->health.state == ORION_SUSPECT && now + ORION_SECOND / 4 < next)
		next = now + ORION_SECOND / 4;
	if (all->probe && !server->probing && server->health.state < ORION_QUARANTINED) {
		/* Its reads say more. */
		if (now >= server->health.probe_at && server->health.state <= ORION_SLOW &&
		    now - server->health.answered_at < ORION_SECOND)
			orion_health_schedule_probe(&server->health, now, true);
		if (now >= server->health.probe_at)
			begin_probe(server);
		else if (server->health.probe_at < next)
			next = server->health.probe_at;
	}
	return next;
}

/* Locked, unlocked meanwhile. */
static void look(struct orion_upstreams *all)
{
	if (orion_now_ns() < all->look_at)
		return;
	all->look_at = UINT64_MAX;
	if (!all->look)
		return;
	pthread_mutex_unlock(&all->lock);
	const bool again = all->look(all->look_context);

	pthread_mutex_lock(&all->lock);
	if (again && all->look_at == UINT64_MAX)
		all->look_at = orion_now_ns() + LOOK_EVERY;
}

void *orion_clock(void *upstreams)
{
	struct orion_upstreams *all = upstreams;

	pthread_mutex_lock(&all->lock);
	while (!all->ending) {
		const bool recovered = all->look_at <= orion_now_ns();
		uint64_t next = UINT64_MAX;

		/* Whoever woke it may have asked for a moment that is still to come. */
		if (all->wakes_at <= orion_now_ns())
			all->wakes_at = UINT64_MAX;
		look(all);
		for (uint32_t i = 0; i < all->count; i++) {
			struct orion_server *server = &all->servers[i];
			const uint64_t at = server->health.state == ORION_REMOVED && !server->running.first && !server->queued
						    ? UINT64_MAX
						    : watch_server(server, recovered);

			next = at < next ? at : next;
		}
		orion_server_rank(all, orion_now_ns());
		next = all->look_at < next ? all->look_at : next;
		/* Something may have been asked for meanwhile that is due before. */
		if (next < all->wakes_at)
			all->wakes_at = next;
		if (all->ending)
			break;
		/* Others want the lock as well, however much is due. */
		const uint64_t soon = orion_now_ns() + LEAST_SLEEP;
		const uint64_t until = all->wakes_at > soon ? all->wakes_at : soon;

		if (until == UINT64_MAX) {
			pthread_cond_wait(&all->tick, &all->lock);
		} else {
			const struct timespec time = {(time_t)(until / ORION_SECOND), (long)(until % ORION_SECOND)};

			pthread_cond_timedwait(&all->tick, &all->lock, &time);
		}
	}
	pthread_mutex_unlock(&all->lock);
	return NULL;
}
