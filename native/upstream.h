/* The servers that hold a release, each with threads of its own that read from it.
 *
 * A read on a dead NFS mount blocks in the kernel and cannot be cancelled: nobody but a reader thread ever waits for
 * a server. A job has a deadline; when it passes, the thread is left to its fate, another takes its place, and the
 * job's owner is told. The pool of each server is bounded, and no server uses another's.
 */
#ifndef ORION_UPSTREAM_H
#define ORION_UPSTREAM_H

#include "events.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORION_SERVERS_MAX 16
#define ORION_SCRATCH (1u << 20)

enum orion_server_state {
	ORION_UP,
	ORION_SUSPECT, /* its last job failed: asked after all that are up */
	ORION_LEFT_OUT, /* serves something else: never asked */
};

struct orion_upstream_options {
	uint32_t readers; /* threads for each server */
	uint64_t deadline_ns; /* for one job on one server */
};

struct orion_server_statistics {
	char source[256];
	uint32_t state; /* enum orion_server_state */
	bool current;
	uint32_t stuck; /* threads past their deadline */
	uint64_t reads, bytes, errors, timeouts, mismatches;
	uint64_t p50_ns, p95_ns; /* latency of the last jobs */
};

struct orion_upstreams;

/* Something that may block on one server. Lives until drop(), which comes after both finish() and the end of run(). */
struct orion_job {
	/* In a reader thread of the server: 0 or a negative errno. It may use scratch. */
	int (*run)(struct orion_job *job, uint32_t server);
	/* Once, with run()'s result from the reader thread, or with -ETIMEDOUT from the deadlines' thread while run() may
	 * still be under way. May submit other jobs. */
	void (*finish)(struct orion_job *job, int error);
	void (*drop)(struct orion_job *job);
	bool urgent; /* before those that are not */
	bool measures; /* its latency says what a round trip costs */
	uint8_t *scratch; /* ORION_SCRATCH bytes of the thread's own, on a page's boundary */

	/* The upstreams' own. */
	struct orion_job *next, *previous;
	uint32_t server;
	uint64_t since; /* when it was queued, then when it began */
	bool queued, running, finished, left, ahead;
};

int orion_upstreams_create(const struct orion_upstream_options *options, struct orion_events *events,
			   struct orion_upstreams **ret);
/* Waits for jobs under way, but for stuck ones no longer than a deadline. false: some are, and then nothing that they
 * use may be freed, for they may come back. */
bool orion_upstreams_destroy(struct orion_upstreams *upstreams);

/* Adds the server whose release directory fd stands for (taken over). direct: its files are opened with O_DIRECT (NFS,
 * whose page cache would hold everything twice). To be done before any job. */
int orion_upstreams_add(struct orion_upstreams *upstreams, int fd, const char *source, bool direct);
uint32_t orion_upstreams_count(const struct orion_upstreams *upstreams);
const char *orion_upstreams_source(const struct orion_upstreams *upstreams, uint32_t server); /* as it was added */

/* The one place that says which server is asked: the current one, then those that are up, then suspects; never one
 * whose bit is set in tried. -EIO if none is left. */
int orion_upstreams_choose(struct orion_upstreams *upstreams, uint32_t tried);
bool orion_upstreams_is_up(struct orion_upstreams *upstreams, uint32_t server); /* false as well: there is none */
/* What came of asking a server; mismatch: it answered with something else than what was asked for. */
void orion_upstreams_report(struct orion_upstreams *upstreams, uint32_t server, bool ok, bool mismatch);
/* Whether an error says nothing of a server: it is our own end, or what this process lacks; no other server helps. */
bool orion_error_is_ours(int error);
void orion_upstreams_leave_out(struct orion_upstreams *upstreams, uint32_t server);
/* Makes a server the current one, which is asked first. */
void orion_upstreams_prefer(struct orion_upstreams *upstreams, uint32_t server);

void orion_upstreams_submit(struct orion_upstreams *upstreams, uint32_t server, struct orion_job *job);
/* Makes a job urgent that has not begun yet. */
void orion_upstreams_promote(struct orion_upstreams *upstreams, struct orion_job *job);

/* From within run(): something has come, and the deadline counts from now. */
void orion_upstreams_progress(struct orion_upstreams *upstreams, struct orion_job *job);

/* Whether the server's files are opened with O_DIRECT. */
bool orion_upstreams_direct(const struct orion_upstreams *upstreams, uint32_t server);

/* Flags with which preadv2() of the files of a server that is not direct waits for nothing. */
int orion_upstreams_at_once(const struct orion_upstreams *upstreams, uint32_t server);

/* Opens a file below the server's directory for reading, with O_DIRECT where that is wanted and possible. more:
 * flags beside O_RDONLY. Blocks. */
int orion_upstreams_open(struct orion_upstreams *upstreams, uint32_t server, const char *path, int more);

/* One file on each server, opened when it is first needed, and kept open. */
struct orion_kept_file {
	int fd[ORION_SERVERS_MAX]; /* -1: not open */
};

void orion_kept_file_init(struct orion_kept_file *kept);
void orion_kept_file_close(struct orion_kept_file *kept);
/* Its descriptor on a server, which stays the kept file's; as orion_upstreams_open(). Any thread may ask. */
int orion_upstreams_keep(struct orion_upstreams *upstreams, uint32_t server, struct orion_kept_file *kept,
			 const char *path, int more);
/* The same if it is open already, or -1; waits for nothing. */
int orion_upstreams_kept(struct orion_upstreams *upstreams, uint32_t server, const struct orion_kept_file *kept);

/* Counts a read, for the statistics. */
void orion_upstreams_count_read(struct orion_upstreams *upstreams, uint32_t server, size_t bytes);

/* The round trip that a small job costs on the current server, a running minimum that forgets; 0 if not known. */
uint64_t orion_upstreams_round_trip(struct orion_upstreams *upstreams);

/* Opens a kept file in one of the server's threads, behind all that is urgent, so that whoever needs it finds it open. What
 * goes wrong then is met again by those who need it; nobody is told now. kept must outlive the upstreams. */
void orion_upstreams_keep_early(struct orion_upstreams *upstreams, uint32_t server, struct orion_kept_file *kept,
				const char *path, int more);

/* Reads a file of one server, in one of its threads: bytes are an anonymous mapping for the caller to munmap(). want:
 * only that many bytes of its beginning; 0: all. kept: read from this one, which stays open; NULL: what the page cache has
 * of it is used, and leaves it. -ETIMEDOUT when nothing comes for a deadline; -EFBIG if the file has more than most bytes,
 * -ENODATA if it has none; -EISDIR, -ELOOP (a symlink) or -EINVAL if it is no regular file. */
int orion_upstreams_fetch(struct orion_upstreams *upstreams, uint32_t server, const char *path, size_t most, size_t want,
			  struct orion_kept_file *kept, uint8_t **ret, size_t *ret_length);

/* ret: orion_upstreams_count() of them. */
void orion_upstreams_statistics(struct orion_upstreams *upstreams, struct orion_server_statistics *ret);

#endif
