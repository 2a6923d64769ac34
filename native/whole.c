/* Whole files on their way into anonymous mappings. */
#define _GNU_SOURCE
#include "whole.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Pieces in which a file is read; the NFS client splits one into as many calls at a time as it may. What is told ahead comes
 * by itself: there smaller ones show sooner that it does. */
#define PIECE (8u << 20)
#define PIECE_AHEAD (256u << 10)
/* How much of a file the kernel can be told to read at once; it forgets what is beyond its readahead. */
#define ADVICE (128u << 10)

struct orion_whole {
	struct orion_job job; /* first: the upstreams' */
	struct orion_upstreams *all;
	char path[256];
	struct orion_whole_options options;
	uint8_t *bytes; /* the mapping */
	size_t mapped, length;
	/* Guarded by news. */
	bool is_done;
	int error;
	uint32_t steps; /* grows with each that it takes */
	uint32_t steps_seen;
	uint32_t holders; /* who waits, and the job */
};

/* Who waits for one may wait for several: what they share is rare enough for one lock. */
static pthread_mutex_t news = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news_came;
static pthread_once_t news_once = PTHREAD_ONCE_INIT;

static void make_news(void)
{
	pthread_condattr_t monotonic;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&news_came, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

void orion_whole_destroy(struct orion_whole *whole)
{
	if (!whole)
		return;
	pthread_mutex_lock(&news);
	const bool last = --whole->holders == 0;

	pthread_mutex_unlock(&news);
	if (!last)
		return;
	if (whole->bytes)
		munmap(whole->bytes, whole->mapped);
	free(whole);
}

static void step(struct orion_whole *whole)
{
	pthread_mutex_lock(&news);
	whole->steps++;
	pthread_cond_broadcast(&news_came);
	pthread_mutex_unlock(&news);
	orion_upstreams_progress(whole->all, &whole->job);
}

/* Only the first result counts. */
static void deliver(struct orion_whole *whole, int error)
{
	pthread_mutex_lock(&news);
	if (!whole->is_done) {
		whole->error = error;
		whole->is_done = true;
		pthread_cond_broadcast(&news_came);
	}
	pthread_mutex_unlock(&news);
}

static int make_room(struct orion_whole *whole, int fd)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct stat status;

	if (fstat(fd, &status))
		return -errno;
	if (!S_ISREG(status.st_mode))
		return S_ISDIR(status.st_mode) ? -EISDIR : -EINVAL;
	if ((uint64_t)status.st_size > whole->options.most)
		return -EFBIG;
	if (status.st_size == 0)
		return -ENODATA;
	whole->length = (size_t)status.st_size;
	if (whole->options.want && whole->length > whole->options.want)
		whole->length = whole->options.want;
	whole->mapped = (whole->length + page - 1) / page * page;
	void *bytes = mmap(NULL, whole->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (bytes == MAP_FAILED)
		return -ENOMEM;
	whole->bytes = bytes;
	return 0;
}

static int read_whole(struct orion_whole *whole, uint32_t server, int fd)
{
	/* Through the page cache of NFS, where the initramfs has it come already; in many calls at a time, as far as is told
	 * beforehand, and only that. */
	const bool advise = !whole->options.kept && orion_upstreams_direct(whole->all, server);
	const size_t piece = advise ? PIECE_AHEAD : PIECE;
	size_t advised = 0;
	int error = make_room(whole, fd);

	if (advise)
		(void)posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	for (size_t at = 0; !error && at < whole->length;) {
		const size_t left = whole->length - at;

		for (; advise && advised < whole->length && advised < at + 2 * PIECE; advised += ADVICE)
			(void)posix_fadvise(fd, (off_t)advised, ADVICE, POSIX_FADV_WILLNEED);
		/* To the page's end: O_DIRECT on a local disk reads whole sectors only. */
		const ssize_t got = pread(fd, whole->bytes + at, left < piece ? whole->mapped - at : piece, (off_t)at);

		if (got < 0)
			error = -errno;
		else if (got == 0)
			error = -EIO; /* It became shorter. */
		else
			at += (size_t)got < left ? (size_t)got : left;
		step(whole);
	}
	return error;
}

static int run(struct orion_job *job, uint32_t server)
{
	struct orion_whole *whole = (struct orion_whole *)job;
	const int more = O_NOFOLLOW | O_NONBLOCK;
	struct orion_kept_file *kept = whole->options.kept;
	const int fd = kept ? orion_upstreams_keep(whole->all, server, kept, whole->path, more)
			    : orion_upstreams_open_cached(whole->all, server, whole->path, more);

	if (fd < 0)
		return fd;
	step(whole);
	const int error = read_whole(whole, server, fd);

	if (kept)
		return error;
	/* NFS has to ask the server to close a file: who waits need not wait for that as well. */
	deliver(whole, error);
	if (orion_upstreams_direct(whole->all, server))
		(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
	return error;
}

static void finish(struct orion_job *job, int error)
{
	deliver((struct orion_whole *)job, error);
}

static void drop(struct orion_job *job)
{
	orion_whole_destroy((struct orion_whole *)job);
}

int orion_whole_begin(struct orion_upstreams *all, uint32_t server, const char *path,
		      const struct orion_whole_options *options, struct orion_whole **ret)
{
	struct orion_whole *whole = calloc(1, sizeof(*whole));

	if (!whole)
		return -ENOMEM;
	pthread_once(&news_once, make_news);
	whole->job = (struct orion_job){.run = run, .finish = finish, .drop = drop, .urgent = true};
	whole->all = all;
	whole->options = *options;
	whole->holders = 2;
	snprintf(whole->path, sizeof(whole->path), "%s", path);
	*ret = whole;
	orion_upstreams_submit(all, server, &whole->job);
	return 0;
}

/* Locked: one that has ended, or else whether one got on. */
static int any_news(struct orion_whole *const *all, uint32_t count)
{
	int found = -ETIMEDOUT;

	for (uint32_t i = 0; i < count; i++) {
		if (!all[i])
			continue;
		if (all[i]->is_done)
			return (int)i;
		if (all[i]->steps != all[i]->steps_seen)
			found = -EINPROGRESS;
		all[i]->steps_seen = all[i]->steps;
	}
	return found;
}

int orion_whole_wait(struct orion_whole *const *all, uint32_t count, uint64_t patience_ns)
{
	const uint64_t until = patience_ns == UINT64_MAX ? UINT64_MAX : orion_now_ns() + patience_ns;
	const struct timespec time = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
	int found, late = 0;

	pthread_mutex_lock(&news);
	while ((found = any_news(all, count)) == -ETIMEDOUT && !late) {
		if (until == UINT64_MAX)
			pthread_cond_wait(&news_came, &news);
		else
			late = pthread_cond_timedwait(&news_came, &news, &time);
	}
	pthread_mutex_unlock(&news);
	return found;
}

int orion_whole_take(struct orion_whole *whole, uint8_t **ret, size_t *ret_length)
{
	pthread_mutex_lock(&news);
	const int error = whole->error;

	if (!error) {
		*ret = whole->bytes;
		*ret_length = whole->length;
		whole->bytes = NULL;
	}
	pthread_mutex_unlock(&news);
	return error;
}

int orion_whole_get(struct orion_upstreams *all, uint32_t server, const char *path,
		    const struct orion_whole_options *options, uint8_t **ret, size_t *ret_length)
{
	struct orion_whole *whole;
	int error = orion_whole_begin(all, server, path, options, &whole);

	if (error)
		return error;
	while (orion_whole_wait(&whole, 1, UINT64_MAX) < 0)
		;
	error = orion_whole_take(whole, ret, ret_length);
	orion_whole_destroy(whole);
	return error;
}
