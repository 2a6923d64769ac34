/* The records, and the names of threads. */
#define _GNU_SOURCE
#include "trace.h"

#include "events.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

/* Threads whose /proc/PID/comm stays open; a power of two. To read it again costs a sixth of opening it, and tells of an
 * exec(), which changes the name. A file of a thread that has ended gives an error, whoever has its number now. */
#define NAMES 16

struct name {
	uint32_t pid;
	int fd; /* -1: none */
};

struct orion_trace {
	struct orion_trace_options options;
	uint64_t started_ns;
	int proc; /* -1: there was none */
	int watch; /* an eventfd */
	pthread_mutex_t lock; /* of what follows */
	bool stopped; /* there are no records then */
	uint64_t told, lost;
	bool woken; /* watch is readable already */
	struct name names[NAMES];
	struct orion_trace_record *records; /* number n at n % limit */
};

static size_t bytes_of(const struct orion_trace *trace)
{
	return trace->options.limit * sizeof(struct orion_trace_record);
}

int orion_trace_create(const struct orion_trace_options *options, struct orion_trace **ret)
{
	if (!options->limit || options->limit > ORION_TRACE_RECORDS_MAX)
		return -EINVAL;
	struct orion_trace *trace = calloc(1, sizeof(*trace));

	if (!trace)
		return -ENOMEM;
	trace->options = *options;
	/* Pages that no record ever reaches are never taken. */
	void *records = mmap(NULL, bytes_of(trace), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	trace->watch = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (records == MAP_FAILED || trace->watch < 0) {
		if (records != MAP_FAILED)
			munmap(records, bytes_of(trace));
		if (trace->watch >= 0)
			close(trace->watch);
		free(trace);
		return -ENOMEM;
	}
	trace->records = records;
	trace->started_ns = orion_now_ns();
	trace->proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < NAMES; i++)
		trace->names[i].fd = -1;
	pthread_mutex_init(&trace->lock, NULL);
	*ret = trace;
	return 0;
}

void orion_trace_destroy(struct orion_trace *trace)
{
	if (!trace)
		return;
	for (int i = 0; i < NAMES; i++)
		if (trace->names[i].fd >= 0)
			close(trace->names[i].fd);
	if (trace->proc >= 0)
		close(trace->proc);
	close(trace->watch);
	if (!trace->stopped)
		munmap(trace->records, bytes_of(trace));
	pthread_mutex_destroy(&trace->lock);
	free(trace);
}

void orion_trace_stop(struct orion_trace *trace)
{
	if (!trace)
		return;
	pthread_mutex_lock(&trace->lock);
	if (!trace->stopped)
		munmap(trace->records, bytes_of(trace));
	trace->stopped = true;
	trace->told = 0;
	trace->lost = 0;
	pthread_mutex_unlock(&trace->lock);
}

bool orion_trace_is_stopped(struct orion_trace *trace)
{
	pthread_mutex_lock(&trace->lock);
	const bool stopped = trace->stopped;

	pthread_mutex_unlock(&trace->lock);
	return stopped;
}

/* Locked: a thread's name; empty if it cannot be learned. Nothing here asks any file system but procfs. */
static void find_comm(struct orion_trace *trace, uint32_t pid, char ret[16])
{
	struct name *name = &trace->names[pid % NAMES];
	char path[32];
	ssize_t length = -1;

	memset(ret, 0, 16);
	if (!pid || trace->proc < 0)
		return;
	if (name->fd >= 0 && name->pid == pid)
		length = pread(name->fd, ret, 15, 0);
	if (length <= 0) {
		if (name->fd >= 0)
			close(name->fd);
		snprintf(path, sizeof(path), "%u/comm", pid);
		name->pid = pid;
		name->fd = openat(trace->proc, path, O_RDONLY | O_CLOEXEC);
		if (name->fd >= 0)
			length = pread(name->fd, ret, 15, 0);
	}
	if (length > 0 && ret[length - 1] == '\n')
		ret[length - 1] = 0;
}

/* Locked: tells who follows, once until orion_trace_rest(). */
static void wake(struct orion_trace *trace)
{
	if (!trace->woken)
		trace->woken = eventfd_write(trace->watch, 1) == 0;
}

uint64_t orion_trace_begin(struct orion_trace *trace, const struct orion_trace_record *begun)
{
	if (!trace)
		return ORION_TRACE_NONE;
	uint64_t number = ORION_TRACE_NONE;

	pthread_mutex_lock(&trace->lock);
	if (trace->stopped) {
		/* Whoever asks has nothing to complete. */
	} else if (trace->told < trace->options.limit || trace->options.newest) {
		number = trace->told++;
		struct orion_trace_record *record = &trace->records[number % trace->options.limit];

		trace->lost += number >= trace->options.limit;
		*record = *begun;
		record->wait_ns = ORION_TRACE_WAITING;
		if (record->kind != ORION_TRACE_FETCH)
			find_comm(trace, record->pid, record->comm);
		wake(trace);
	} else {
		trace->lost++;
	}
	pthread_mutex_unlock(&trace->lock);
	return number;
}

uint64_t orion_trace_begin_fetch(struct orion_trace *trace, enum orion_trace_reason reason, uint32_t server,
				 uint32_t first, uint32_t count, uint64_t offset, size_t length)
{
	if (!trace)
		return ORION_TRACE_NONE;
	return orion_trace_begin(trace, &(struct orion_trace_record){
		.t_ns = orion_now_ns(),
		.offset = offset,
		.length = (uint32_t)length,
		.inode = first,
		.pid = server,
		.kind = ORION_TRACE_FETCH,
		.reason = (uint16_t)reason,
		.blocks_missed = count,
	});
}

void orion_trace_end(struct orion_trace *trace, uint64_t number, enum orion_trace_outcome outcome, uint32_t blocks_missed)
{
	if (number == ORION_TRACE_NONE)
		return;
	const uint64_t now = orion_now_ns();

	pthread_mutex_lock(&trace->lock);
	if (!trace->stopped && trace->told - number <= trace->options.limit) {
		struct orion_trace_record *record = &trace->records[number % trace->options.limit];

		record->wait_ns = now > record->t_ns ? now - record->t_ns : 0;
		record->outcome = (uint8_t)outcome;
		record->blocks_missed = blocks_missed;
	}
	wake(trace);
	pthread_mutex_unlock(&trace->lock);
}

int orion_trace_watch_fd(const struct orion_trace *trace)
{
	return trace->watch;
}

void orion_trace_rest(struct orion_trace *trace)
{
	eventfd_t count;

	pthread_mutex_lock(&trace->lock);
	eventfd_read(trace->watch, &count);
	trace->woken = false;
	pthread_mutex_unlock(&trace->lock);
}

size_t orion_trace_since(struct orion_trace *trace, uint64_t since, struct orion_trace_record *ret, size_t capacity,
			 uint64_t *ret_next)
{
	const uint64_t limit = trace->options.limit;
	size_t count = 0;

	pthread_mutex_lock(&trace->lock);
	if (trace->told > limit && since < trace->told - limit)
		since = trace->told - limit;
	for (; since < trace->told && count < capacity; since++)
		ret[count++] = trace->records[since % limit];
	pthread_mutex_unlock(&trace->lock);
	*ret_next = since;
	return count;
}

void orion_trace_count(struct orion_trace *trace, struct orion_trace_counts *ret)
{
	pthread_mutex_lock(&trace->lock);
	*ret = (struct orion_trace_counts){
		.kept = trace->told < trace->options.limit ? trace->told : trace->options.limit,
		.lost = trace->lost,
		.started_ns = trace->started_ns,
	};
	pthread_mutex_unlock(&trace->lock);
}
