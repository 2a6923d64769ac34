/* Servers, their threads and queues, and the clock that watches them. */
#define _GNU_SOURCE
#include "upstream.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <unistd.h>

/* A thread needs little, and all its pages are locked. */
#define STACK_BYTES (128u << 10)
/* Threads of one server, stuck ones included, for each that it should have. */
#define STUCK_FACTOR 4
#define LATENCIES 128
/* A deadline is looked at this many times while it runs. */
#define LOOKS_PER_DEADLINE 8
#define SECOND 1000000000u
/* Pieces in which a whole file is read; the NFS client splits one into as many calls at a time as it may. */
#define PIECE (8u << 20)
/* How much of a file the kernel can be told to read at once; it forgets what is beyond its readahead. */
#define ADVICE (128u << 10)
#define READ_FLAGS (O_RDONLY | O_CLOEXEC | O_NOCTTY)

struct queue {
	struct orion_job *first, *last;
};

struct server {
	struct orion_upstreams *all;
	uint32_t number;
	int fd;
	bool direct;
	int at_once;
	char source[256];
	pthread_cond_t work; /* a job was queued, or the end has come */
	/* All guarded by all->lock. */
	enum orion_server_state state;
	struct queue urgent, other, running;
	uint32_t threads, idle, stuck, queued;
	uint32_t ahead; /* running jobs that were not urgent when they began */
	uint64_t last_end;
	uint64_t reads, bytes, errors, timeouts, mismatches;
	uint64_t latencies[LATENCIES];
	uint32_t latency_count;
	uint64_t round_trip;
};

struct orion_upstreams {
	struct orion_upstream_options options;
	struct orion_events *events;
	uint32_t count;
	pthread_t clock;
	pthread_mutex_t lock; /* of all servers' state */
	pthread_cond_t ended; /* a thread has ended */
	pthread_cond_t tick; /* wakes the clock: there is a job to watch, or the end has come */
	bool ending, watching;
	uint32_t current;
	struct server servers[ORION_SERVERS_MAX];
};

static void append(struct queue *queue, struct orion_job *job)
{
	job->next = NULL;
	job->previous = queue->last;
	if (queue->last)
		queue->last->next = job;
	else
		queue->first = job;
	queue->last = job;
}

static void take(struct queue *queue, struct orion_job *job)
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

static void *serve(void *argument);

/* Locked. At the end nobody would wait for it: a job that fails then may be handed to a server that has ended. */
static int start_thread(struct server *server)
{
	pthread_attr_t attributes;
	pthread_t thread;

	if (server->all->ending)
		return -ECANCELED;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	const int error = pthread_create(&thread, &attributes, serve, server);

	pthread_attr_destroy(&attributes);
	if (!error)
		server->threads++;
	return -error;
}

static void note_latency(struct server *server, const struct orion_job *job, uint64_t latency)
{
	server->latencies[server->latency_count++ % LATENCIES] = latency;
	if (!job->measures)
		return;
	/* A running minimum: what waits in no queue is the network's; it forgets by a sixteenth each time. */
	if (!server->round_trip || latency < server->round_trip)
		server->round_trip = latency;
	else
		server->round_trip += (latency - server->round_trip) / 16;
}

/* Locked: whether nobody else uses an overdue job; the clock tells its owner while the thread comes back. */
static bool leave(struct orion_job *job)
{
	const bool last = job->left;

	job->left = true;
	return last;
}

/* One of a server's threads. */
static void *serve(void *argument)
{
	struct server *server = argument;
	struct orion_upstreams *all = server->all;
	uint8_t *scratch = mmap(NULL, ORION_SCRATCH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	pthread_mutex_lock(&all->lock);
	while (scratch != MAP_FAILED) {
		struct queue *queue = server->urgent.first ? &server->urgent : &server->other;
		struct orion_job *job = queue->first;

		/* What is urgent shall not wait until reads that nobody waits for come back. */
		if (!job || (!job->urgent && server->ahead > all->options.readers / 2)) {
			/* More threads than there should be: this one was stuck, and has been replaced. */
			if (all->ending || server->threads - server->stuck > all->options.readers)
				break;
			server->idle++;
			pthread_cond_wait(&server->work, &all->lock);
			server->idle--;
			continue;
		}
		take(queue, job);
		server->queued--;
		append(&server->running, job);
		job->running = true;
		job->scratch = scratch;
		job->ahead = !job->urgent;
		server->ahead += job->ahead;
		/* On a server that says nothing, to wait for a thread is to wait for the server. */
		if (orion_now_ns() - server->last_end < all->options.deadline_ns)
			job->since = orion_now_ns();
		pthread_mutex_unlock(&all->lock);

		const int error = job->run(job, server->number);

		pthread_mutex_lock(&all->lock);
		const bool too_late = job->finished;
		bool last = true;

		server->last_end = orion_now_ns();
		server->ahead -= job->ahead;
		if (too_late) {
			server->stuck--;
			last = leave(job);
		} else {
			take(&server->running, job);
			job->finished = true;
			if (!error)
				note_latency(server, job, server->last_end - job->since);
		}
		pthread_mutex_unlock(&all->lock);
		if (!too_late)
			job->finish(job, error);
		if (last)
			job->drop(job);
		pthread_mutex_lock(&all->lock);
	}
	server->threads--;
	pthread_cond_broadcast(&all->ended);
	pthread_mutex_unlock(&all->lock);
	if (scratch != MAP_FAILED)
		munmap(scratch, ORION_SCRATCH);
	return NULL;
}

/* Locked: the first job of a server that has waited too long, taken out; NULL if there is none. */
static struct orion_job *overdue(struct server *server, uint64_t now)
{
	const uint64_t deadline = server->all->options.deadline_ns;
	struct orion_job *job = server->running.first;

	while (job && now - job->since < deadline)
		job = job->next;
	if (job) {
		take(&server->running, job);
		server->stuck++;
		if (server->threads < STUCK_FACTOR * server->all->options.readers)
			start_thread(server);
		return job;
	}
	/* Much to do makes no dead server: a queue is given up only when no job ended for a whole deadline. */
	if (now - server->last_end < deadline)
		return NULL;
	for (struct queue *queue = &server->urgent;; queue = &server->other) {
		job = queue->first;
		if (job && now - job->since >= deadline) {
			take(queue, job);
			server->queued--;
			return job;
		}
		if (queue == &server->other)
			return NULL;
	}
}

static bool has_jobs(const struct server *server)
{
	return server->urgent.first || server->other.first || server->running.first;
}

/* The thread that watches the deadlines; it sleeps while there is nothing to watch. */
static void *watch(void *argument)
{
	struct orion_upstreams *all = argument;

	pthread_mutex_lock(&all->lock);
	while (!all->ending) {
		bool any = false;

		for (uint32_t i = 0; i < all->count; i++) {
			struct server *server = &all->servers[i];
			struct orion_job *job;

			while ((job = overdue(server, orion_now_ns()))) {
				job->finished = true;
				server->timeouts++;
				pthread_mutex_unlock(&all->lock);
				job->finish(job, -ETIMEDOUT);
				pthread_mutex_lock(&all->lock);
				if (job->running && !leave(job))
					continue; /* The thread that runs it drops it when it comes back. */
				pthread_mutex_unlock(&all->lock);
				job->drop(job);
				pthread_mutex_lock(&all->lock);
			}
			any = any || has_jobs(server);
		}
		all->watching = any;
		if (any) {
			const uint64_t until = orion_now_ns() + all->options.deadline_ns / LOOKS_PER_DEADLINE;
			const struct timespec time = {(time_t)(until / SECOND), (long)(until % SECOND)};

			pthread_cond_timedwait(&all->tick, &all->lock, &time);
		} else {
			pthread_cond_wait(&all->tick, &all->lock);
		}
	}
	pthread_mutex_unlock(&all->lock);
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
	pthread_mutex_init(&all->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&all->tick, &monotonic);
	pthread_cond_init(&all->ended, &monotonic);
	pthread_condattr_destroy(&monotonic);

	const int error = pthread_create(&all->clock, NULL, watch, all);

	if (error) {
		free(all);
		return -error;
	}
	*ret = all;
	return 0;
}

/* Locked: ends jobs that nobody has begun. */
static void cancel_queued(struct server *server, struct queue *queue)
{
	struct orion_job *job;

	while ((job = queue->first)) {
		take(queue, job);
		server->queued--;
		job->finished = true;
		pthread_mutex_unlock(&server->all->lock);
		job->finish(job, -ECANCELED);
		job->drop(job);
		pthread_mutex_lock(&server->all->lock);
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
	const struct timespec time = {(time_t)(until / SECOND), (long)(until % SECOND)};

	for (uint32_t i = 0; i < all->count; i++) {
		struct server *server = &all->servers[i];

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

int orion_upstreams_add(struct orion_upstreams *all, int fd, const char *source, bool direct)
{
	if (all->count == ORION_SERVERS_MAX)
		return -ENOSPC;

	struct server *server = &all->servers[all->count];

	server->all = all;
	server->number = all->count;
	server->fd = fd;
	server->direct = direct;
	server->at_once = direct ? 0 : flags_at_once(fd);
	snprintf(server->source, sizeof(server->source), "%s", source);
	pthread_cond_init(&server->work, NULL);
	pthread_mutex_lock(&all->lock);
	all->count++;
	pthread_mutex_unlock(&all->lock);
	return 0;
}

uint32_t orion_upstreams_count(const struct orion_upstreams *all)
{
	return all->count;
}

const char *orion_upstreams_source(const struct orion_upstreams *all, uint32_t server)
{
	return all->servers[server].source;
}

int orion_upstreams_choose(struct orion_upstreams *all, uint32_t tried)
{
	int found = -EIO;

	pthread_mutex_lock(&all->lock);
	for (uint32_t state = ORION_UP; found < 0 && state <= ORION_SUSPECT; state++)
		for (uint32_t i = 0; found < 0 && i < all->count; i++) {
			const uint32_t number = (all->current + i) % all->count;

			if (!(tried & 1u << number) && all->servers[number].state == state)
				found = (int)number;
		}
	pthread_mutex_unlock(&all->lock);
	return found;
}

bool orion_upstreams_is_up(struct orion_upstreams *all, uint32_t server)
{
	pthread_mutex_lock(&all->lock);
	const bool is_up = server < all->count && all->servers[server].state == ORION_UP;

	pthread_mutex_unlock(&all->lock);
	return is_up;
}

bool orion_error_is_ours(int error)
{
	return error == -ECANCELED || error == -ENOMEM || error == -EMFILE || error == -ENFILE;
}

void orion_upstreams_report(struct orion_upstreams *all, uint32_t number, bool ok, bool mismatch)
{
	struct server *server = &all->servers[number];

	pthread_mutex_lock(&all->lock);
	if (mismatch)
		server->mismatches++;
	else if (!ok)
		server->errors++;
	if (ok && server->state == ORION_SUSPECT)
		server->state = ORION_UP;
	if (!ok && server->state == ORION_UP)
		server->state = ORION_SUSPECT;
	if (!ok && all->current == number)
		for (uint32_t i = 1; i < all->count; i++) {
			const uint32_t next = (number + i) % all->count;

			if (all->servers[next].state == ORION_UP) {
				all->current = next;
				break;
			}
		}
	pthread_mutex_unlock(&all->lock);
}

void orion_upstreams_leave_out(struct orion_upstreams *all, uint32_t number)
{
	pthread_mutex_lock(&all->lock);
	all->servers[number].state = ORION_LEFT_OUT;
	for (uint32_t i = 0; i < all->count && all->servers[all->current].state == ORION_LEFT_OUT; i++)
		all->current = (all->current + 1) % all->count;
	pthread_mutex_unlock(&all->lock);
}

void orion_upstreams_prefer(struct orion_upstreams *all, uint32_t number)
{
	pthread_mutex_lock(&all->lock);
	all->current = number;
	pthread_mutex_unlock(&all->lock);
}

void orion_upstreams_submit(struct orion_upstreams *all, uint32_t number, struct orion_job *job)
{
	struct server *server = &all->servers[number];
	bool refused;

	job->server = number;
	job->since = orion_now_ns();
	pthread_mutex_lock(&all->lock);
	job->queued = true;
	append(job->urgent ? &server->urgent : &server->other, job);
	server->queued++;
	/* One that is idle may not have woken up yet for a job before this one. */
	if (server->queued > server->idle && server->threads < all->options.readers)
		start_thread(server);
	/* Every thread that it may have is stuck, or none could be started: nobody would ever take it. */
	refused = all->ending || server->threads == server->stuck;
	if (refused) {
		take(job->urgent ? &server->urgent : &server->other, job);
		server->queued--;
		job->finished = true; /* before anybody can promote it: it is in no queue */
	} else {
		pthread_cond_signal(&server->work);
	}
	if (!all->watching) {
		all->watching = true;
		pthread_cond_signal(&all->tick);
	}
	pthread_mutex_unlock(&all->lock);
	if (refused) {
		job->finish(job, -EIO);
		job->drop(job);
	}
}

void orion_upstreams_promote(struct orion_upstreams *all, struct orion_job *job)
{
	pthread_mutex_lock(&all->lock);
	if (!job->urgent && job->queued && !job->running && !job->finished) {
		take(&all->servers[job->server].other, job);
		append(&all->servers[job->server].urgent, job);
		pthread_cond_signal(&all->servers[job->server].work);
	}
	if (!job->running)
		job->urgent = true;
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

int orion_upstreams_open(struct orion_upstreams *all, uint32_t number, const char *path, int more)
{
	const struct server *server = &all->servers[number];
	const int flags = READ_FLAGS | more;
	int fd = -1;

	if (server->direct)
		fd = openat(server->fd, path, flags | O_DIRECT);
	if (fd < 0 && (!server->direct || errno == EINVAL))
		fd = openat(server->fd, path, flags);
	return fd < 0 ? -errno : fd;
}

void orion_kept_file_init(struct orion_kept_file *kept)
{
	for (uint32_t server = 0; server < ORION_SERVERS_MAX; server++)
		kept->fd[server] = -1;
}

void orion_kept_file_close(struct orion_kept_file *kept)
{
	for (uint32_t server = 0; server < ORION_SERVERS_MAX; server++)
		if (kept->fd[server] >= 0)
			close(kept->fd[server]);
}

int orion_upstreams_kept(struct orion_upstreams *all, uint32_t number, const struct orion_kept_file *kept)
{
	pthread_mutex_lock(&all->lock);
	const int fd = kept->fd[number];

	pthread_mutex_unlock(&all->lock);
	return fd;
}

int orion_upstreams_keep(struct orion_upstreams *all, uint32_t number, struct orion_kept_file *kept, const char *path,
			 int more)
{
	int fd = orion_upstreams_kept(all, number, kept);

	if (fd >= 0)
		return fd;
	const int opened = orion_upstreams_open(all, number, path, more);

	if (opened < 0)
		return opened;
	pthread_mutex_lock(&all->lock);
	if (kept->fd[number] < 0)
		kept->fd[number] = opened;
	fd = kept->fd[number];
	pthread_mutex_unlock(&all->lock);
	/* Another thread was quicker. Closing may ask the server. */
	if (fd != opened)
		close(opened);
	return fd;
}

/* A kept file that is opened before anybody needs it. */
struct early {
	struct orion_job job; /* first: the upstreams' */
	struct orion_upstreams *all;
	struct orion_kept_file *kept;
	int more;
	char path[256];
};

static int run_early(struct orion_job *job, uint32_t server)
{
	const struct early *early = (struct early *)job;
	const int fd = orion_upstreams_keep(early->all, server, early->kept, early->path, early->more);

	return fd < 0 ? fd : 0;
}

static void finish_early(struct orion_job *job, int error)
{
	(void)job;
	(void)error;
}

static void drop_early(struct orion_job *job)
{
	free(job);
}

void orion_upstreams_keep_early(struct orion_upstreams *all, uint32_t number, struct orion_kept_file *kept,
				const char *path, int more)
{
	struct early *early = orion_upstreams_kept(all, number, kept) < 0 ? calloc(1, sizeof(*early)) : NULL;

	if (!early)
		return;
	early->job = (struct orion_job){.run = run_early, .finish = finish_early, .drop = drop_early};
	early->all = all;
	early->kept = kept;
	early->more = more;
	snprintf(early->path, sizeof(early->path), "%s", path);
	orion_upstreams_submit(all, number, &early->job);
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
	const uint64_t found = all->servers[all->current].round_trip;

	pthread_mutex_unlock(&all->lock);
	return found;
}

/* A whole file on its way into an anonymous mapping. */
struct whole {
	struct orion_job job; /* first: the upstreams' */
	struct orion_upstreams *all;
	char path[256];
	struct orion_kept_file *kept; /* NULL: a descriptor of its own */
	size_t most, want;
	uint8_t *bytes; /* the mapping */
	size_t mapped, length;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t done;
	bool is_done;
	int error;
	uint32_t holders; /* who waits, and the job */
};

static void let_whole_go(struct whole *whole)
{
	pthread_mutex_lock(&whole->lock);
	const bool last = --whole->holders == 0;

	pthread_mutex_unlock(&whole->lock);
	if (!last)
		return;
	if (whole->bytes)
		munmap(whole->bytes, whole->mapped);
	pthread_cond_destroy(&whole->done);
	pthread_mutex_destroy(&whole->lock);
	free(whole);
}

/* Only the first result counts. */
static void deliver_whole(struct whole *whole, int error)
{
	pthread_mutex_lock(&whole->lock);
	if (!whole->is_done) {
		whole->error = error;
		whole->is_done = true;
		pthread_cond_signal(&whole->done);
	}
	pthread_mutex_unlock(&whole->lock);
}

static int read_whole(struct whole *whole, uint32_t server, int fd)
{
	/* Through the page cache of NFS, where the initramfs has it come already; in many calls at a time, as far as is told
	 * beforehand, and only that. */
	const bool advise = !whole->kept && whole->all->servers[server].direct;
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t advised = 0;
	struct stat status;
	int error = 0;

	if (fstat(fd, &status))
		error = -errno;
	else if (!S_ISREG(status.st_mode))
		error = S_ISDIR(status.st_mode) ? -EISDIR : -EINVAL;
	else if ((uint64_t)status.st_size > whole->most)
		error = -EFBIG;
	else if (status.st_size == 0)
		error = -ENODATA;
	if (!error) {
		whole->length = (size_t)status.st_size;
		if (whole->want && whole->length > whole->want)
			whole->length = whole->want;
		whole->mapped = (whole->length + page - 1) / page * page;
		void *bytes = mmap(NULL, whole->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (bytes == MAP_FAILED)
			error = -ENOMEM;
		else
			whole->bytes = bytes;
	}
	if (advise)
		(void)posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	for (size_t at = 0; !error && at < whole->length;) {
		const size_t left = whole->length - at;

		for (; advise && advised < whole->length && advised < at + 2 * PIECE; advised += ADVICE)
			(void)posix_fadvise(fd, (off_t)advised, ADVICE, POSIX_FADV_WILLNEED);
		/* To the page's end: O_DIRECT on a local disk reads whole sectors only. */
		const ssize_t got = pread(fd, whole->bytes + at, left < PIECE ? whole->mapped - at : PIECE, (off_t)at);

		if (got < 0)
			error = -errno;
		else if (got == 0)
			error = -EIO; /* It became shorter. */
		else
			at += (size_t)got < left ? (size_t)got : left;
		orion_upstreams_progress(whole->all, &whole->job);
	}
	return error;
}

static int run_whole(struct orion_job *job, uint32_t server)
{
	struct whole *whole = (struct whole *)job;
	const struct server *from = &whole->all->servers[server];
	const int more = O_NOFOLLOW | O_NONBLOCK;
	int fd, error;

	if (whole->kept)
		fd = orion_upstreams_keep(whole->all, server, whole->kept, whole->path, more);
	else if ((fd = openat(from->fd, whole->path, READ_FLAGS | more)) < 0)
		fd = -errno;
	if (fd < 0)
		return fd;
	error = read_whole(whole, server, fd);
	if (whole->kept)
		return error;
	/* NFS has to ask the server to close a file: who waits need not wait for that as well. */
	deliver_whole(whole, error);
	if (from->direct)
		(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
	return error;
}

static void finish_whole(struct orion_job *job, int error)
{
	deliver_whole((struct whole *)job, error);
}

static void drop_whole(struct orion_job *job)
{
	let_whole_go((struct whole *)job);
}

int orion_upstreams_fetch(struct orion_upstreams *all, uint32_t server, const char *path, size_t most, size_t want,
			  struct orion_kept_file *kept, uint8_t **ret, size_t *ret_length)
{
	struct whole *whole = calloc(1, sizeof(*whole));

	if (!whole)
		return -ENOMEM;
	whole->job = (struct orion_job){.run = run_whole, .finish = finish_whole, .drop = drop_whole, .urgent = true};
	whole->all = all;
	whole->kept = kept;
	whole->most = most;
	whole->want = want;
	whole->holders = 2;
	snprintf(whole->path, sizeof(whole->path), "%s", path);
	pthread_mutex_init(&whole->lock, NULL);
	pthread_cond_init(&whole->done, NULL);
	orion_upstreams_submit(all, server, &whole->job);

	pthread_mutex_lock(&whole->lock);
	while (!whole->is_done)
		pthread_cond_wait(&whole->done, &whole->lock);
	const int error = whole->error;

	if (!error) {
		*ret = whole->bytes;
		*ret_length = whole->length;
		whole->bytes = NULL;
	}
	pthread_mutex_unlock(&whole->lock);
	let_whole_go(whole);
	return error;
}

static int compare(const void *left, const void *right)
{
	const uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return a < b ? -1 : a > b;
}

void orion_upstreams_statistics(struct orion_upstreams *all, struct orion_server_statistics *ret)
{
	pthread_mutex_lock(&all->lock);
	for (uint32_t i = 0; i < all->count; i++) {
		const struct server *server = &all->servers[i];
		const uint32_t count = server->latency_count < LATENCIES ? server->latency_count : LATENCIES;
		uint64_t sorted[LATENCIES];

		memcpy(sorted, server->latencies, sizeof(sorted));
		qsort(sorted, count, sizeof(*sorted), compare);
		ret[i] = (struct orion_server_statistics){
			.state = server->state,
			.current = all->current == i,
			.stuck = server->stuck,
			.reads = server->reads,
			.bytes = server->bytes,
			.errors = server->errors,
			.timeouts = server->timeouts,
			.mismatches = server->mismatches,
			.p50_ns = count ? sorted[(count - 1) / 2] : 0,
			.p95_ns = count ? sorted[(count - 1) * 95 / 100] : 0,
		};
		memcpy(ret[i].source, server->source, sizeof(ret[i].source));
	}
	pthread_mutex_unlock(&all->lock);
}
