/* Streams a bundle (bundle_file.h) to the kernel's page cache while a node boots, ahead of those who will ask.
 *
 * Large reads in the order of the boot, several at a time; each frame is verified, and its pages are stored with
 * FUSE_NOTIFY_STORE by a thread that answers nothing. The kernel must know an inode before pages of it can be stored, so
 * that thread looks the files up first, as any process would. Without a bundle, or when it ends early, a node boots the
 * same, more slowly.
 */
#ifndef ORION_BUNDLE_H
#define ORION_BUNDLE_H

#include "bundle_file.h"
#include "events.h"
#include "store.h"
#include "trace.h"
#include "upstream.h"

#include <sys/uio.h>

struct orion_agreement;
struct orion_bundle;
struct orion_session;

struct orion_bundle_options {
	const char *role; /* which bundle of the release */
	bool signed_only; /* key is set */
	uint8_t key[ORION_PUBLIC_KEY_SIZE]; /* whose signature it must have */
	struct orion_trace *trace; /* where reads on servers are recorded; or NULL */
	/* Whether somebody waits for bytes of a file just now: then they are not stored, as the kernel would wait too. */
	bool (*is_in_flight)(void *context, uint32_t inode, uint64_t offset, uint32_t length);
	/* There is one that can be used; called once, before anything of it is asked for, by the bundle's thread. */
	void (*found)(void *context);
	void *context;
	bool learns; /* without a bundle the kernel's readahead stays as it is */
	struct orion_agreement *agreement; /* where it is noted that the stream has ended; or NULL */
};

struct orion_bundle_statistics {
	uint64_t frames, landed, failed; /* 0 frames: there is no bundle */
	uint64_t packed_bytes; /* that came from servers */
	uint64_t stored_bytes; /* that went to the kernel unasked */
	uint64_t asked_bytes; /* that it asked for while they were here */
	uint64_t began_at, ended_at; /* CLOCK_MONOTONIC in ns; 0: not yet */
};

int orion_bundle_create(const struct orion_manifest *manifest, struct orion_upstreams *upstreams,
			struct orion_events *events, const struct orion_bundle_options *options, struct orion_bundle **ret);
/* Begins; the session must be serving the mount that root (O_PATH) and readahead (mount.h) are descriptors of, which stay
 * the caller's. Looks at the machine's memory, and lets the kernel read ahead on the mount when the stream has ended:
 * before that, pages that nobody wants would come in the way of those that are wanted. */
int orion_bundle_start(struct orion_bundle *bundle, struct orion_session *session, int root, int readahead);
/* Nothing is stored after it. While the session still answers. Reads under way end with the upstreams. */
void orion_bundle_stop(struct orion_bundle *bundle);
/* After the upstreams are destroyed. */
void orion_bundle_destroy(struct orion_bundle *bundle);

/* Somebody who waits for a frame. */
struct orion_bundle_wait {
	void (*ready)(struct orion_bundle_wait *wait); /* the caller's: it has landed, or will not; from any thread */
	struct orion_bundle_wait *next;
	uint32_t frame;
};

#define ORION_BUNDLE_PARTS 32

/* Bytes of a file that are here; blocks are held until orion_bundle_answer_release(). */
struct orion_bundle_answer {
	uint32_t count;
	struct orion_block *blocks[ORION_BUNDLE_PARTS];
	struct iovec parts[ORION_BUNDLE_PARTS];
};

enum orion_bundle_has { ORION_BUNDLE_NOT, ORION_BUNDLE_HERE, ORION_BUNDLE_COMES };

/* Whether the bundle has all these bytes. HERE: answer is filled. COMES: some are on their way, and wait->ready() will be
 * called, once: ask again then. */
enum orion_bundle_has orion_bundle_ask(struct orion_bundle *bundle, uint32_t inode, uint64_t offset, uint32_t length,
				       struct orion_bundle_answer *answer, struct orion_bundle_wait *wait);
void orion_bundle_answer_release(struct orion_bundle_answer *answer);
/* Waits no more: true if ready() will not be called; false if it was, or is being, called. */
bool orion_bundle_cancel(struct orion_bundle *bundle, struct orion_bundle_wait *wait);

/* Whether frames are still to come: then nobody else should guess what is wanted. */
bool orion_bundle_streams(struct orion_bundle *bundle);

void orion_bundle_statistics(struct orion_bundle *bundle, struct orion_bundle_statistics *ret);

#endif
