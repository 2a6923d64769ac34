/* What the kernel asked of a release, and how long it waited: records of 64 bytes in memory that is taken once.
 *
 * docs/trace.md has the format. A record is there from the moment its request arrives, so that whoever predicts sees it
 * as early as can be; how it went is filled in when it is answered.
 */
#ifndef ORION_TRACE_H
#define ORION_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORION_TRACE_RECORDS 65536 /* unless another limit is given: 4 MiB */
#define ORION_TRACE_RECORDS_MAX (1u << 22)
/* In place of a record's number: none was made. */
#define ORION_TRACE_NONE UINT64_MAX
/* In place of wait_ns: not answered yet. */
#define ORION_TRACE_WAITING UINT64_MAX

enum orion_trace_kind {
	ORION_TRACE_READ,
	ORION_TRACE_LOOKUP,
	ORION_TRACE_FETCH, /* not of the kernel: our own read on a server */
};

/* Of a fetch: what it was for. */
enum orion_trace_reason {
	ORION_TRACE_DEMAND, /* somebody waits for it */
	ORION_TRACE_AROUND, /* it lies around what somebody waits for */
	ORION_TRACE_AHEAD, /* a heuristic wants it */
	ORION_TRACE_BUNDLE,
};

enum orion_trace_outcome {
	ORION_TRACE_HIT, /* all bytes were in RAM */
	ORION_TRACE_MISS, /* a block had to come from a server because it was asked for */
	ORION_TRACE_LATE, /* a block was on its way already, speculatively, and no other was missing */
	ORION_TRACE_ERROR, /* answered with an error, or given up by who asked */
};

/* A request; in brackets, what a fetch has in the same place. */
struct orion_trace_record {
	uint64_t t_ns; /* CLOCK_MONOTONIC when the request was here [when it was queued for the server] */
	uint64_t offset; /* bytes from the file's beginning [in the pack, or the bundle] */
	uint64_t wait_ns; /* from then to its answer; or ORION_TRACE_WAITING */
	uint32_t length; /* bytes asked for, as far as the file goes */
	uint32_t inode; /* in the manifest [the first block's number, or the bundle's first frame] */
	uint32_t pid; /* the thread's; 0: not known [the server's number] */
	uint8_t kind, outcome; /* [ORION_TRACE_HIT: all is good, or ORION_TRACE_ERROR] */
	uint16_t reason; /* 0 [enum orion_trace_reason] */
	char comm[16]; /* the thread's name, padded with NUL; empty: not known [empty] */
	uint32_t blocks_missed; /* blocks of it that were not in RAM [blocks, or frames, that it brings] */
	uint32_t reserved;
};

_Static_assert(sizeof(struct orion_trace_record) == 64, "");

struct orion_trace_options {
	uint32_t limit; /* records, 1 to ORION_TRACE_RECORDS_MAX */
	bool newest; /* when there are more, the oldest are lost, else the newest: a boot's beginning says most */
};

struct orion_trace; /* all functions may be called from any thread */

/* Opens /proc, by which it learns the names of threads later on, whatever the root is then. -EINVAL, -ENOMEM. */
int orion_trace_create(const struct orion_trace_options *options, struct orion_trace **ret);
void orion_trace_destroy(struct orion_trace *trace); /* NULL is allowed */

/* Forgets all records, gives their memory back, and records nothing any more. NULL is allowed. */
void orion_trace_stop(struct orion_trace *trace);
bool orion_trace_is_stopped(struct orion_trace *trace);

/* Records a request that has just arrived; of the record at begun, wait_ns, outcome, comm and blocks_missed need not be
 * set. Its number, or ORION_TRACE_NONE if there is no room, or no trace (NULL). */
uint64_t orion_trace_begin(struct orion_trace *trace, const struct orion_trace_record *begun);
/* The same for a fetch of so many blocks (or frames) that follow each other, from the first one on. */
uint64_t orion_trace_begin_fetch(struct orion_trace *trace, enum orion_trace_reason reason, uint32_t server,
				 uint32_t first, uint32_t count, uint64_t offset, size_t length);
/* Says how it went. A record that is not kept any more, and ORION_TRACE_NONE, are no error. */
void orion_trace_end(struct orion_trace *trace, uint64_t number, enum orion_trace_outcome outcome, uint32_t blocks_missed);

/* Readable when something has begun or ended since orion_trace_rest(), which is called before looking. */
int orion_trace_watch_fd(const struct orion_trace *trace);
void orion_trace_rest(struct orion_trace *trace);

/* Copies records whose numbers are since or more, in order, as many as there is room for; how many. ret_next: the number
 * to go on with; it is larger than since and the count together if records in between are lost. */
size_t orion_trace_since(struct orion_trace *trace, uint64_t since, struct orion_trace_record *ret, size_t capacity,
			 uint64_t *ret_next);

struct orion_trace_counts {
	uint64_t kept, lost; /* records */
	uint64_t started_ns; /* CLOCK_MONOTONIC of orion_trace_create() */
};

void orion_trace_count(struct orion_trace *trace, struct orion_trace_counts *ret);

#endif
