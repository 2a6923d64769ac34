/* One FUSE mount: the device, the threads that read requests from it, and what is common to all answers. */
#ifndef ORION_FUSE_SESSION_H
#define ORION_FUSE_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "fuse_newer.h"
#include "supervision.h"

/* Requests carry names, never data: the mount is read-only. The kernel wants at least 8 KiB. */
#define ORION_REQUEST_MAX (16u << 10)
/* The longest read that the kernel asks for; the mount has max_read= of as much. */
#define ORION_READ_MAX (1u << 20)
/* The least that the kernel takes; with more, it would want larger requests to be read. */
#define ORION_WRITE_MAX 4096
#define ORION_OPCODES 64

struct orion_session;

/* A request; it lies in the thread's buffer, and is gone when the handler returns. */
struct orion_request {
	struct orion_session *session;
	const struct fuse_in_header *header;
	const uint8_t *body;
	size_t length; /* of the body */
};

struct orion_session_options {
	uint32_t threads;
	uint64_t flags; /* FUSE_… init flags besides those that every mount has */
	bool no_readahead; /* the kernel reads nothing ahead on this mount */
	bool hands_on_init; /* INIT is handled like all others, and not answered by the session */
	/* Of the sessions on one device, each after the other's death: what INIT was answered with; NULL: there is but one. */
	struct orion_agreement *agreement;
	/* Answers a request, now or later, from any thread; FORGET has no answer. */
	void (*handle)(void *context, const struct orion_request *request);
	void *context;
};

struct orion_session_statistics {
	uint64_t upcalls[ORION_OPCODES]; /* by opcode */
	uint64_t first_at; /* CLOCK_MONOTONIC in ns: when the first request after INIT came; 0: not yet */
	bool resends; /* the kernel can send again what a dead session has not answered */
};

int orion_session_create(const struct orion_session_options *options, struct orion_session **ret);
/* Stops it, if that was not done before; the device stays the caller's. After whatever may still answer a request. */
void orion_session_destroy(struct orion_session *session);

/* Serves the mounted /dev/fuse descriptor from threads of its own; with none, requests are handed in, and the descriptor
 * takes the answers. */
int orion_session_start(struct orion_session *session, int device);

/* Ends its threads: no more requests. Those that are under way may be answered until it is destroyed. */
void orion_session_stop(struct orion_session *session);

/* Becomes readable when the mount is gone. */
int orion_session_ended_fd(const struct orion_session *session);
/* Becomes readable when the kernel's INIT was answered. */
int orion_session_ready_fd(const struct orion_session *session);
/* What the kernel and we have agreed on in INIT. */
uint64_t orion_session_flags(const struct orion_session *session);

/* The bytes of one read() from the device as a request; false if they are none. */
bool orion_request_take(struct orion_session *session, const uint8_t *bytes, size_t length, struct orion_request *ret);
/* What the session's threads do with each request. */
void orion_session_handle(struct orion_session *session, const struct orion_request *request);

/* Answers. error: 0 or a negative errno. */
void orion_reply_error(struct orion_session *session, uint64_t unique, int error);
void orion_reply(struct orion_session *session, uint64_t unique, const void *data, size_t length);
/* parts[0] is left free for the header by the caller. */
void orion_reply_parts(struct orion_session *session, uint64_t unique, struct iovec *parts, uint32_t count);

/* Stores bytes of a node into the page cache; waits while the kernel reads one of their pages from us. To be called from
 * a thread that answers nothing. What the kernel does not want, or does not know any more, is no error. */
void orion_session_store(struct orion_session *session, uint64_t node, uint64_t offset, const void *bytes,
			 uint32_t length);

/* The request's argument of a fixed size; NULL if it is shorter. */
const void *orion_request_argument(const struct orion_request *request, size_t size);
/* The name that follows an argument of that size; NULL if it does not end in the request. */
const char *orion_request_name(const struct orion_request *request, size_t after, size_t *ret_length);

void orion_session_statistics(struct orion_session *session, struct orion_session_statistics *ret);

#endif
