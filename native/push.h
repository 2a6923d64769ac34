/* Hands the kernel what it is about to ask for: the rest of a block of which it was given two parts.
 *
 * It goes into the page cache with FUSE_NOTIFY_STORE. The kernel makes a notifier wait for a page that is being read
 * until that READ is answered, so only a thread that answers nothing may notify: this one's. A block's first part
 * proves nothing, and a file that is read here and there shall not fill the memory.
 */
#ifndef ORION_PUSH_H
#define ORION_PUSH_H

#include "store.h"

struct orion_pusher;
struct orion_session;

/* A block, and where the kernel knows it: its file's node and offset. */
struct orion_push {
	struct orion_session *session;
	uint64_t node, offset;
	uint32_t number; /* in the manifest */
	struct orion_block *block; /* held while it waits */
};

/* push: hands it over, in the pusher's own thread, which begins with the first one. */
int orion_pusher_create(void (*push)(void *context, const struct orion_push *push), void *context,
			struct orion_pusher **ret);
/* Nothing is pushed after it. While the session still answers: what is being pushed may have to wait for that. */
void orion_pusher_stop(struct orion_pusher *pusher);
/* After orion_pusher_stop(). */
void orion_pusher_destroy(struct orion_pusher *pusher);

/* The kernel was given a part of a block. Waits for nothing; what there is no room for is not pushed. */
void orion_pusher_given(struct orion_pusher *pusher, const struct orion_push *part);

#endif
