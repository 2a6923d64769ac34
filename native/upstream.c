/* Servers, their threads and queues. */
#define _GNU_SOURCE
#include "upstream_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <unistd.h>

/* A thread needs little, and all its pages are locked. */
#define STACK_BYTES (128u << 10)
/* Jobs that may be hedged at once, when none were for long. */
#define TOKENS_MOST 10.0

void orion_queue_append(struct orion_queue *queue, struct orion_job *job)
{
	job->next = NULL;
	job->previous = queue->last;
	if (queue->last)
		queue->last->next = job;
	else
		queue->first = job;
	queue->last = job;
}

void orion_queue_take(struct orion_queue *queue, struct orion_job *job)
{
	if (job->previous)
		job->previous->next = job->next;
	else
		queue->first = job->next;
	if (job->next)
		job->next->previous = job->previous;
	else
		queue->last = job->previous;
	job->next = job->previous = NULL;
}

void orion_job_release(struct orion_upstreams *all, struct orion_job *job)
{
	if (--job->holds)
		return;
	pthread_mutex_unlock(&all->lock);
	job->drop(job);
	pthread_mutex_lock(&all->lock);
}

static void *serve(void *argument);

/* At the end nobody would wait for it: a job that fails then may be handed to a server that has ended. */
int orion_server_start_thread(struct orion_server *server, uint32_t most)
{
	pthread_attr_t attributes;
	pthread_t thread;

	if (server->all->ending)
		return -ECANCELED;
	if (server->threads >= most)
		return -EAGAIN;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	const int error = pthread_create(&thread, &attributes, serve, server);

	pthread_attr_destroy(&attributes);
	if (!error)
		server->threads++;
	return -error;
}

/* Locked: the next job, taken out of its queue; NULL if there is none for now. */
static struct orion_job *next_job(struct orion_server *server)
{
	struct orion_queue *queue = server->urgent.first ? &server->urgent : &server->other;
	struct orion_job *job = queue->first;

	/* What is urgent shall not wait until reads that nobody waits for come back. */
	if (!job || (!job->urgent && server->ahead > server->all->options.readers / 2))
		return NULL;
	orion_queue_take(queue, job);
	server->queued--;
	return job;
}

/* Locked: what a job's end says of its server. */
static void take_note(struct orion_server *server, const struct orion_job *job, int error)
{
	const uint64_t now = orion_now_ns();
	const struct orion_job *oldest = server->running.first;

	if (!job->probes)
		server->last_end = now;
	/* A probe that comes back while reads do not proves nothing. */
	else if (oldest && now - oldest->since > orion_health_patience(&server->health, server->all->options.deadline_ns))
		return;
	/* How long one was stuck says nothing of what is usual. */
	if (!error)
		orion_server_answered(server, now, job->finished || job->resent ? 0 : now - job->since, job->measures);
}

/* Locked, unlocked while the job runs. */
static void run_job(struct orion_server *server, struct orion_worker *worker, struct orion_job *job, uint8_t *scratch)
{
	struct orion_upstreams *all = server->all;
	struct orion_retired *reaped;

	orion_queue_append(&server->running, job);
	job->running = true;
	job->scratch = scratch;
	job->ahead = !job->urgent;
	server->ahead += job->ahead;
	/* On a server that says nothing, to wait for a thread is to wait for the server. */
	if (orion_now_ns() - server->last_end < all->options.deadline_ns)
		job->since = orion_now_ns();
	worker->since = all->turn;
	worker->busy = true;
	pthread_mutex_unlock(&all->lock);

	const int error = job->run(job, server->number);

	pthread_mutex_lock(&all->lock);
	const bool too_late = job->finished;

	worker->busy = false;
	server->ahead -= job->ahead;
	if (too_late)
		server->stuck--;
	else
		orion_queue_take(&server->running, job);
	take_note(server, job, error);
	job->finished = true;
	reaped = orion_server_reap(server);
	pthread_mutex_unlock(&all->lock);
	orion_retired_close(reaped);
	if (!too_late)
		job->finish(job, error);
	pthread_mutex_lock(&all->lock);
	orion_job_release(all, job);
}

/* One of a server's threads. */
static void *serve(void *argument)
{
	struct orion_server *server = argument;
	struct orion_upstreams *all = server->all;
	struct orion_worker worker = {0}, **link;
	uint8_t *scratch = mmap(NULL, ORION_SCRATCH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	pthread_mutex_lock(&all->lock);
	worker.next = server->workers;
	server->workers = &worker;
	while (scratch != MAP_FAILED) {
		struct orion_job *job = next_job(server);

		if (job) {
			run_job(server, &worker, job, scratch);
			continue;
		}
		/* More threads than there should be: this one was stuck, and has been replaced. */
		if (all->ending || server->health.state == ORION_REMOVED ||
		    server->threads - server->stuck > all->options.readers)
			break;
		server->idle++;
		pthread_cond_wait(&server->work, &all->lock);
		server->idle--;
	}
	for (link = &server->workers; *link != &worker; link = &(*link)->next)
		;
	*link = worker.next;
	server->threads--;
	pthread_cond_broadcast(&all->ended);
	pthread_mutex_unlock(&all->lock);
	if (scratch != MAP_FAILED)
		munmap(scratch, ORION_SCRATCH);
	return NULL;
}

int orion_upstreams_create(const struct orion_upstream_options *options, struct orion_events *events,
			   struct orion_upstreams **ret)
{
	struct orion_upstreams *all = calloc(1, sizeof(*all));
	pthread_condattr_t monotonic;

	if (!all)
		return -ENOMEM;
	all->options = *options;
	all->events = events;
	all->tokens = options->hedge_budget > 0 ? TOKENS_MOST : 0;
	all->look_at = all->wakes_at = UINT64_MAX;
	pthread_mutex_init(&all->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&all->tick, &monotonic);
	pthread_cond_init(&all->ended, &monotonic);
	pthread_condattr_destroy(&monotonic);

	const int error = pthread_create(&all->clock, NULL, orion_clock, all);

	if (error) {
		free(all);
		return -error;
	}
	*ret = all;
	return 0;
}

/* Locked: ends jobs that nobody has begun. */
static void cancel_queued(struct orion_server *server, struct orion_queue *queue)
{
	struct orion_job *job;

	while ((job = queue->first)) {
		orion_queue_take(queue, job);
		server->queued--;
		job->finished = true;
		pthread_mutex_unlock(&server->all->lock);
		job->finish(job, -ECANCELED);
		pthread_mutex_lock(&server->all->lock);
		orion_job_release(server->all, job); /* or the clock does, which has it in hand */
	}
}

bool orion_upstreams_destroy(struct orion_upstreams *all)
{
	bool stuck = false;

	if (!all)
		return true;
	pthread_mutex_lock(&all->lock);
	all->ending = true;
	pthread_cond_signal(&all->tick);

	const uint64_t until = orion_now_ns() + all->options.deadline_ns;
	const struct timespec time = {(time_t)(until / ORION_SECOND), (long)(until % ORION_SECOND)};

	for (uint32_t i = 0; i < all->count; i++) {
		struct orion_server *server = &all->servers[i];

		cancel_queued(server, &server->urgent);
		cancel_queued(server, &server->other);
		pthread_cond_broadcast(&server->work);
		while (server->threads > server->stuck && !stuck)
			stuck = pthread_cond_timedwait(&all->ended, &all->lock, &time) == ETIMEDOUT;
		stuck = stuck || server->threads;
	}
	pthread_mutex_unlock(&all->lock);
	pthread_join(all->clock, NULL);
	/* A thread that is stuck in the kernel still uses all this. */
	if (stuck)
		return false;
	for (uint32_t i = 0; i < all->count; i++) {
		orion_retired_close(all->servers[i].retired);
		if (all->servers[i].fd >= 0)
			close(all->servers[i].fd);
		pthread_cond_destroy(&all->servers[i].work);
	}
	pthread_cond_destroy(&all->tick);
	pthread_cond_destroy(&all->ended);
	pthread_mutex_destroy(&all->lock);
	free(all);
	return true;
}

/* What a local source has in its page cache is read at once; a tmpfs has nothing else, and does not know the flag. */
static int flags_at_once(int fd)
{
	struct statfs status;

	return fstatfs(fd, &status) == 0 && status.f_type == TMPFS_MAGIC ? 0 : RWF_NOWAIT;
}

/* Locked: a place that nobody has, or has left for good; NULL if there is none. */
static struct orion_server *free_place(struct orion_upstreams *all)
{
	for (uint32_t i = 0; i < all->count; i++) {
		struct orion_server *server = &all->servers[i];

		if (server->health.state == ORION_REMOVED && !server->threads && !server->queued)
			return server;
	}
	return all->count < ORION_SERVERS_MAX ? &all->servers[all->count] : NULL;
}

int orion_upstreams_add(struct orion_upstreams *all, int fd, const char *source, bool direct)
{
	const int at_once = direct ? 0 : flags_at_once(fd);
	const uint64_t now = orion_now_ns();

	pthread_mutex_lock(&all->lock);
	struct orion_server *server = free_place(all);

	if (!server) {
		pthread_mutex_unlock(&all->lock);
		return -ENOSPC;
	}
	const uint32_t number = (uint32_t)(server - all->servers);

	if (number == all->count)
		pthread_cond_init(&server->work, NULL);
	/* Files of whoever was here before stay open until somebody wants the same of this one. */
	const struct orion_server before = *server;

	*server = (struct orion_server){
		.all = all,
		.number = number,
		.work = before.work,
		.fd = fd,
		.mount = before.mount + 1,
		.direct = direct,
		.at_once = at_once,
		.workers = before.workers,
		.borrowed = before.borrowed,
		.retired = before.retired,
	};
	snprintf(server->source, sizeof(server->source), "%s", source);
	orion_health_init(&server->health, now);
	if (number == all->count)
		all->count++;
	orion_clock_wake_by(all, now);
	pthread_mutex_unlock(&all->lock);
	return (int)number;
}

void orion_upstreams_probe(struct orion_upstreams *all, int (*probe)(void *context, uint32_t server, uint8_t *scratch),
			   void *context)
{
	pthread_mutex_lock(&all->lock);
	all->probe_context = context;
	all->probe = probe;
	orion_clock_wake_by(all, 0);
	pthread_mutex_unlock(&all->lock);
}

void orion_upstreams_watch(struct orion_upstreams *all, bool (*look)(void *context), void *context)
{
	pthread_mutex_lock(&all->lock);
	all->look_context = context;
	all->look = look;
	pthread_mutex_unlock(&all->lock);
}

void orion_upstreams_look(struct orion_upstreams *all)
{
	const uint64_t now = orion_now_ns();

	pthread_mutex_lock(&all->lock);
	if (all->look_at > now)
		all->look_at = now;
	orion_clock_wake_by(all, now);
	pthread_mutex_unlock(&all->lock);
}

uint32_t orion_upstreams_count(const struct orion_upstreams *all)
{
	return all->count;
}

const char *orion_upstreams_source(const struct orion_upstreams *all, uint32_t server)
{
	return all->servers[server].source;
}

/* Locked: whether anybody will ever take a job that is queued. Every thread that it may have can be stuck, or none could be
 * started. */
static bool has_taker(struct orion_server *server, const struct orion_job *job)
{
	const uint32_t most = ORION_STUCK_FACTOR * server->all->options.readers + (job->probes ? ORION_PROBE_THREADS : 0);

	/* One that is idle may not have woken up yet for a job before this one. */
	if (server->queued > server->idle && server->threads - server->stuck < server->all->options.readers)
		orion_server_start_thread(server, most);
	return !server->all->ending && server->threads > server->stuck;
}

void orion_upstreams_submit(struct orion_upstreams *all, uint32_t number, struct orion_job *job)
{
	struct orion_server *server = &all->servers[number];
	const uint64_t now = orion_now_ns();
	bool refused, ending;

	job->server = number;
	job->asked_at = job->since = now;
	job->holds = 1;
	job->waited = job->urgent && !job->probes;
	pthread_mutex_lock(&all->lock);
	job->queued = true;
	orion_queue_append(job->urgent ? &server->urgent : &server->other, job);
	server->queued++;
	ending = all->ending;
	refused = server->health.state >= ORION_FOREIGN || !has_taker(server, job);
	if (refused) {
		orion_queue_take(job->urgent ? &server->urgent : &server->other, job);
		server->queued--;
		job->finished = true; /* before anybody can promote it: it is in no queue */
	} else {
		pthread_cond_signal(&server->work);
	}
	if (!job->probes) {
		all->active_at = now;
		all->tokens += all->options.hedge_budget;
		if (all->tokens > TOKENS_MOST)
			all->tokens = TOKENS_MOST;
	}
	/* The clock finds out by itself what is due later. */
	if (!refused)
		orion_clock_wake_by(all, now + all->options.hedge_floor_ns + 1);
	pthread_mutex_unlock(&all->lock);
	if (refused) {
		job->finish(job, ending ? -ECANCELED : -EHOSTDOWN);
		job->drop(job);
	}
}

void orion_upstreams_promote(struct orion_upstreams *all, struct orion_job *job)
{
	pthread_mutex_lock(&all->lock);
	if (!job->urgent && job->queued && !job->running && !job->finished) {
		orion_queue_take(&all->servers[job->server].other, job);
		orion_queue_append(&all->servers[job->server].urgent, job);
		pthread_cond_signal(&all->servers[job->server].work);
	}
	if (!job->running)
		job->urgent = true;
	if (!job->waited) {
		job->waited = true;
		orion_clock_wake_by(all, orion_now_ns() + all->options.hedge_floor_ns + 1);
	}
	pthread_mutex_unlock(&all->lock);
}

void orion_upstreams_progress(struct orion_upstreams *all, struct orion_job *job)
{
	pthread_mutex_lock(&all->lock);
	if (!job->finished)
		job->since = orion_now_ns();
	pthread_mutex_unlock(&all->lock);
}

bool orion_upstreams_direct(const struct orion_upstreams *all, uint32_t number)
{
	return all->servers[number].direct;
}

int orion_upstreams_at_once(const struct orion_upstreams *all, uint32_t number)
{
	return all->servers[number].at_once;
}

void orion_upstreams_count_read(struct orion_upstreams *all, uint32_t number, size_t bytes)
{
	pthread_mutex_lock(&all->lock);
	all->servers[number].reads++;
	all->servers[number].bytes += bytes;
	pthread_mutex_unlock(&all->lock);
}

uint64_t orion_upstreams_round_trip(struct orion_upstreams *all)
{
	pthread_mutex_lock(&all->lock);
	const uint64_t found = all->servers[all->current].health.round_trip;

	pthread_mutex_unlock(&all->lock);
	return found;
}

static uint32_t length_of(const struct orion_queue *queue)
{
	uint32_t length = 0;

	for (const struct orion_job *job = queue->first; job; job = job->next)
		length++;
	return length;
}

void orion_upstreams_statistics(struct orion_upstreams *all, struct orion_server_statistics *ret)
{
	pthread_mutex_lock(&all->lock);
	for (uint32_t i = 0; i < all->count; i++) {
		const struct orion_server *server = &all->servers[i];
		const struct orion_health *health = &server->health;

		ret[i] = (struct orion_server_statistics){
			.state = health->state,
			.current = all->current == i,
			.draining = server->draining,
			.stuck = server->stuck,
			.pending = server->queued + length_of(&server->running),
			.reads = server->reads,
			.bytes = server->bytes,
			.errors = server->errors,
			.timeouts = server->timeouts,
			.mismatches = server->mismatches,
			.hedges = server->hedges,
			.hedges_won = server->hedges_won,
			.resent = server->resent,
			.switches = server->switches,
			.abandoned = server->abandoned,
			.p50_ns = health->p50,
			.p95_ns = health->p95,
			.p99_ns = health->p99,
			.ewma_ns = health->ewma,
		};
		memcpy(ret[i].source, server->source, sizeof(ret[i].source));
		memcpy(ret[i].reason, health->reason, sizeof(ret[i].reason));
	}
	pthread_mutex_unlock(&all->lock);
}
