/* Content of a release by blocks: from the store, or from a server with one flight for each block. */
#ifndef ORION_FETCH_H
#define ORION_FETCH_H

#include "manifest.h"
#include "store.h"
#include "trace.h"
#include "upstream.h"

#include <sys/uio.h>

/* The longest read on a server, and the most blocks in it. */
#define ORION_RUN_BYTES (1u << 20)
#define ORION_RUN_BLOCKS 256

/* Bytes to read around a miss: what the round trip is worth. */
#define ORION_READ_AROUND_AUTO (-1)

struct orion_fetch;
struct orion_flight;

struct orion_fetch_options {
	int64_t read_around; /* bytes, or ORION_READ_AROUND_AUTO */
	struct orion_trace *trace; /* where reads on servers are recorded; or NULL */
	uint64_t give_up_ns; /* how long a read waits while no server answers; 0: for ever */
};

struct orion_fetch_statistics {
	uint64_t flights; /* blocks on their way now */
	uint64_t demand_blocks, demand_bytes; /* fetched because somebody waited */
	uint64_t ahead_blocks, ahead_bytes; /* fetched speculatively */
	uint64_t ahead_used; /* of these, demanded while on their way or from the store afterwards */
	uint64_t failed_blocks; /* no good copy anywhere, or nobody answered for as long as a read may wait */
	uint64_t waiting; /* blocks that somebody waits for and no server can be asked for now */
	uint64_t stalls; /* reads that took so long that somebody notices: 0.2 s */
	uint64_t longest_wait_ns; /* of a read, so far */
};

/* One block's part of a read. */
struct orion_slot {
	struct orion_read *read;
	struct orion_slot *next; /* waits for the same flight */
	struct orion_flight *flight; /* NULL once it has landed */
	struct orion_block *block; /* held; NULL for a hole, and while it is missing */
	uint32_t number; /* of the block; or ORION_HOLE */
	uint32_t skip, length; /* the bytes of the block that are asked for */
};

/* A read of a file; made by orion_read_create(). */
struct orion_read {
	void (*done)(struct orion_read *read); /* the caller's */
	void *context; /* the caller's */
	uint32_t inode;
	uint64_t offset;
	bool kept; /* the caller's: the kernel keeps what it gets (no O_DIRECT) */
	bool alone; /* the caller's: nothing is read around it */
	int error; /* 0 or a negative errno, once it is done */
	uint32_t missed; /* blocks that were not in RAM */
	uint32_t late; /* of these, those that were on their way speculatively */
	uint64_t since; /* when it was begun */
	size_t length; /* bytes, less than asked for only at the file's end */
	uint32_t part_count; /* leading ones included */
	struct iovec *parts; /* the bytes, until orion_read_destroy() */
	uint32_t leading, slot_count, missing;
	struct orion_slot slots[];
};

int orion_fetch_create(const struct orion_manifest *manifest, struct orion_store *store,
		       struct orion_upstreams *upstreams, struct orion_events *events,
		       const struct orion_fetch_options *options, struct orion_fetch **ret);
/* A number has another server from now on, or another mount of it: what the one before had no good copy of is asked again. */
void orion_fetch_forget(struct orion_fetch *fetch, uint32_t server);

/* After orion_upstreams_destroy(), which ends what is under way; not if something is stuck. */
void orion_fetch_destroy(struct orion_fetch *fetch);

/* Prepares to read size bytes of a file from offset on; leading parts are left for the caller in parts (a reply's
 * header). -EISDIR, -EINVAL, -ESTALE, -ENOMEM, -EIO. */
int orion_read_create(struct orion_fetch *fetch, uint32_t inode, uint64_t offset, uint32_t size, uint32_t leading,
		      struct orion_read **ret);
void orion_read_destroy(struct orion_read *read);

/* Begins to read. true: it is done, and done() is not called. false: done() will be or was called, once, by this or by
 * another thread. Never waits for a server. */
bool orion_fetch_read(struct orion_fetch *fetch, struct orion_read *read);

/* Gives a read up: true if done() will not be called any more; false if it was, or is being, called. */
bool orion_fetch_cancel(struct orion_fetch *fetch, struct orion_read *read);

/* Fetches blocks (numbers of the manifest) that nobody waits for yet, from a server if it is up, behind all that somebody
 * waits for. In the given order; neighbours are read together. departed[i]: whether blocks[i] did; those that are here, on
 * their way, in the kernel or too many did not. */
void orion_fetch_prefetch(struct orion_fetch *fetch, uint32_t server, const uint32_t *blocks, size_t count,
			  bool *departed);

enum orion_presence { ORION_ABSENT, ORION_COMING, ORION_PRESENT };

/* Where a block is at this moment: PRESENT also if the kernel has it whole; ABSENT for what is none. */
enum orion_presence orion_fetch_find(struct orion_fetch *fetch, uint32_t block);

/* A block that is in the store as it is, or is remembered, held for the caller; or NULL. Counts as no use of it. */
struct orion_block *orion_fetch_peek(struct orion_fetch *fetch, uint32_t block);

/* Remembers the blocks that were read last also when the kernel has them whole: for those who look into them. */
void orion_fetch_remember(struct orion_fetch *fetch, bool remember);

/* Opens what is likely to be read first on a server, in the background. */
void orion_fetch_prepare(struct orion_fetch *fetch, uint32_t server);

/* The kernel's page cache has all of a block: until some of it is asked for again, it is not read around a miss. */
void orion_fetch_given(struct orion_fetch *fetch, uint32_t block);

void orion_fetch_statistics(struct orion_fetch *fetch, struct orion_fetch_statistics *ret);

#endif
