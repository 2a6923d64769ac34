/* Between the kernel and libfuse. */
#define _GNU_SOURCE
#include "fuse_live.h"

#include "answers.h"
#include "forwarded.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* A reply may have a whole read in it, and several shall fit into the pair. */
#define PAIR_BYTES (8 << 20)
#define REPLY_MAX (ORION_READ_MAX + 4096)
#define THREADS 2
/* How often processes that got a signal while they wait are looked at: they may be killed later. */
#define WATCH_MS 100
/* Numbers of requests of our own, whose answers nobody wants: the kernel's are small and even. */
#define OUR_REQUESTS (1ull << 63)

struct orion_live {
	struct orion_session *session;
	struct orion_answers *answers;
	struct orion_forwarded *requests;
	int device;
	int ours, libfuses; /* the ends of the pair */
	int watch; /* an eventfd: there is somebody to watch */
	_Atomic uint64_t init; /* the kernel's INIT, whose reply is amended */
	_Atomic uint32_t offered; /* flags in it */
	_Atomic uint64_t forwarded, remembered;
	pthread_t replier;
	bool replies; /* the replier runs */
};

/* Whoever is being killed is let go at once: the answer may be hours away. */
static void let_go(struct orion_live *live)
{
	uint64_t unique;

	while (orion_forwarded_killed(live->requests, &unique))
		orion_reply_error(live->session, unique, -EINTR);
}

static void interrupt(struct orion_live *live, const struct orion_request *request)
{
	const struct fuse_interrupt_in *in = orion_request_argument(request, sizeof(*in));

	if (!in)
		return;
	orion_forwarded_interrupt(live->requests, in->unique);
	let_go(live);
	if (orion_forwarded_watches(live->requests))
		eventfd_write(live->watch, 1);
}

static void hand_on(struct orion_live *live, const struct orion_request *request)
{
	live->forwarded++;
	orion_forwarded_add(live->requests, request->header);
	while (send(live->ours, request->header, request->header->len, MSG_NOSIGNAL) < 0) {
		if (errno == EINTR)
			continue;
		/* libfuse is gone: nobody else would answer. */
		if (request->header->opcode != FUSE_FORGET && request->header->opcode != FUSE_BATCH_FORGET)
			orion_reply_error(live->session, request->header->unique, -EIO);
		break;
	}
}

static void forget(struct orion_live *live, const struct orion_request *request)
{
	const struct fuse_batch_forget_in *in = orion_request_argument(request, sizeof(*in));
	const struct fuse_forget_one *one = (const void *)(request->body + sizeof(*in));

	if (request->header->opcode == FUSE_FORGET) {
		orion_answers_forget(live->answers, request->header->nodeid);
		return;
	}
	for (uint32_t i = 0; in && i < in->count && (const uint8_t *)(one + i + 1) <= request->body + request->length; i++)
		orion_answers_forget(live->answers, one[i].nodeid);
}

static void note_init(struct orion_live *live, const struct orion_request *request)
{
	const struct fuse_init_in *in = orion_request_argument(request, offsetof(struct fuse_init_in, flags2));

	if (in)
		live->offered = in->flags;
	live->init = request->header->unique;
}

static void handle(void *context, const struct orion_request *request)
{
	struct orion_live *live = context;
	struct orion_asked asked;
	struct orion_answer answer;

	switch (request->header->opcode) {
	case FUSE_INIT:
		note_init(live, request);
		break;
	case FUSE_INTERRUPT:
		/* libfuse would do nothing about it. */
		interrupt(live, request);
		return;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
		forget(live, request);
		break;
	default:
		if (!orion_answers_covers(live->answers, request->header, request->body, request->length, &asked))
			break;
		if (orion_answers_find(live->answers, &asked, &answer)) {
			live->remembered++;
			if (answer.error)
				orion_reply_error(request->session, request->header->unique, answer.error);
			else
				orion_reply(request->session, request->header->unique, answer.bytes, answer.length);
			return;
		}
		orion_answers_expect(live->answers, request->header->unique, &asked);
	}
	hand_on(live, request);
}

/* libfuse knows less of what the kernel can do than we. */
static void amend_init(struct orion_live *live, struct fuse_init_out *out)
{
	out->max_readahead = ORION_READ_MAX;
	out->max_pages = ORION_READ_MAX >> 12;
	out->max_write = ORION_WRITE_MAX;
	out->flags |= (FUSE_MAX_PAGES | FUSE_PARALLEL_DIROPS) & live->offered;
}

/* Takes back what libfuse believes that the kernel has, by an answer that the kernel does not get any more. */
static void undo(struct orion_live *live, const struct fuse_in_header *asked, const uint8_t *data, size_t length)
{
	struct {
		struct fuse_in_header header;
		union {
			struct fuse_forget_in forget;
			struct fuse_release_in release;
		} body;
	} request = {.header = {.unique = OUR_REQUESTS, .nodeid = asked->nodeid}};
	const struct fuse_entry_out *entry = (const void *)data;
	const struct fuse_open_out *opened = (const void *)data;

	if (asked->opcode == FUSE_LOOKUP && length >= sizeof(*entry) && entry->nodeid) {
		request.header.opcode = FUSE_FORGET;
		request.header.nodeid = entry->nodeid;
		request.header.len = sizeof(request.header) + sizeof(request.body.forget);
		request.body.forget.nlookup = 1;
	} else if (asked->opcode == FUSE_OPEN && length >= sizeof(*opened)) {
		request.header.opcode = FUSE_RELEASE;
		request.header.len = sizeof(request.header) + sizeof(request.body.release);
		request.body.release.fh = opened->fh;
	} else {
		return;
	}
	while (send(live->ours, &request, request.header.len, MSG_NOSIGNAL) < 0 && errno == EINTR)
		;
}

/* Until libfuse has an answer, or has closed its end. */
static void wait_for_reply(struct orion_live *live)
{
	struct pollfd ready[] = {{.fd = live->ours, .events = POLLIN}, {.fd = live->watch, .events = POLLIN}};
	eventfd_t ignored;

	for (;;) {
		const int found = poll(ready, 2, orion_forwarded_watches(live->requests) ? WATCH_MS : -1);

		if (found > 0 && ready[0].revents)
			return;
		if (found > 0)
			eventfd_read(live->watch, &ignored);
		let_go(live);
	}
}

/* The thread that hands libfuse's answers to the kernel. */
static void *reply(void *argument)
{
	struct orion_live *live = argument;
	uint8_t *buffer = malloc(REPLY_MAX);
	struct fuse_out_header *header = (struct fuse_out_header *)buffer;
	const size_t data = sizeof(*header);

	while (buffer) {
		struct fuse_in_header asked = {0};

		wait_for_reply(live);
		const ssize_t got = recv(live->ours, buffer, REPLY_MAX, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < (ssize_t)data)
			break; /* libfuse has closed its end, or we have */
		if (!orion_forwarded_take(live->requests, header->unique, &asked)) {
			if (!header->error)
				undo(live, &asked, buffer + data, (size_t)got - data);
			continue;
		}
		if (header->unique & OUR_REQUESTS)
			continue;
		if (live->init && header->unique == live->init && !header->error &&
		    (size_t)got >= data + sizeof(struct fuse_init_out)) {
			amend_init(live, (struct fuse_init_out *)(buffer + data));
			live->init = 0;
		} else {
			orion_answers_came(live->answers, header->unique, header->error, buffer + data, (size_t)got - data);
		}
		/* ENOENT: the request was interrupted and is gone. ENODEV: so is the mount. */
		while (write(live->device, buffer, (size_t)got) < 0 && errno == EINTR)
			;
	}
	free(buffer);
	return NULL;
}

/* Asks for a send buffer as an ordinary user may; whether a whole reply goes into it. */
static bool fits_reply(int end, int size)
{
	socklen_t length = sizeof(size);

	if (setsockopt(end, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) ||
	    getsockopt(end, SOL_SOCKET, SO_SNDBUF, &size, &length))
		return false;
	return (unsigned)size >= REPLY_MAX + 4096;
}

int orion_live_create(uint64_t ttl_ns, struct orion_live **ret)
{
	struct orion_live *live = calloc(1, sizeof(*live));
	const int size = PAIR_BYTES;
	int pair[2], error = 0;

	if (!live)
		return -ENOMEM;
	live->device = -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
		free(live);
		return -errno;
	}
	live->ours = pair[0];
	live->libfuses = pair[1];
	live->watch = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (live->watch < 0)
		error = -errno;
	for (int i = 0; i < 2; i++)
		/* Only root may have more than the system's limit. Without, a long reply would be lost: no engine then. */
		if (setsockopt(pair[i], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) && !fits_reply(pair[i], size))
			error = -ENOBUFS;
	if (!error)
		error = orion_answers_create(ttl_ns, &live->answers);
	if (!error)
		error = orion_forwarded_create(&live->requests);
	if (!error)
		error = orion_session_create(
			&(struct orion_session_options){
				.threads = THREADS, .hands_on_init = true, .handle = handle, .context = live},
			&live->session);
	if (error)
		orion_live_destroy(live);
	else
		*ret = live;
	return error;
}

void orion_live_destroy(struct orion_live *live)
{
	if (!live)
		return;
	orion_session_destroy(live->session);
	shutdown(live->ours, SHUT_RDWR);
	if (live->replies)
		pthread_join(live->replier, NULL);
	orion_answers_destroy(live->answers);
	orion_forwarded_destroy(live->requests);
	close(live->ours);
	if (live->watch >= 0)
		close(live->watch);
	if (live->device >= 0)
		close(live->device);
	free(live);
}

int orion_live_fd(const struct orion_live *live)
{
	return live->libfuses;
}

int orion_live_start(struct orion_live *live, int device)
{
	live->device = device;

	const int error = pthread_create(&live->replier, NULL, reply, live);

	if (error)
		return -error;
	live->replies = true;
	return orion_session_start(live->session, device);
}

int orion_live_ended_fd(const struct orion_live *live)
{
	return orion_session_ended_fd(live->session);
}

void orion_live_statistics(struct orion_live *live, struct orion_live_statistics *ret)
{
	orion_session_statistics(live->session, &ret->session);
	ret->forwarded = live->forwarded;
	ret->remembered = live->remembered;
}
