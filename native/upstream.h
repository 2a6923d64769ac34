/* The servers that hold a release, each with threads of its own that read from it.
 *
 * A read on a dead NFS mount blocks in the kernel and cannot be cancelled: nobody but a reader thread ever waits for
 * a server. One thread, the clock, watches them all: a job that is late is told so (its owner asks another server), all jobs
 * of a server that has become suspect are, and after a deadline the thread is left to its fate, another takes its place,
 * and the job's owner is told. The pool of each server is bounded, and no server uses another's. What is believed about a
 * server is in health.h; docs/failover.md tells the whole story.
 */
#ifndef ORION_UPSTREAM_H
#define ORION_UPSTREAM_H

#include "events.h"
#include "health.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORION_SERVERS_MAX 16
#define ORION_SCRATCH (1u << 20)

struct orion_upstream_options {
	uint32_t readers; /* threads for each server */
	uint64_t deadline_ns; /* for one job on one server */
	uint64_t hedge_floor_ns, hedge_cap_ns; /* a job is late after its server's p95, within these */
	double hedge_budget; /* jobs that may be hedged, of all; 0: none */
	bool spread; /* over all servers that are good, in place of the best */
};

struct orion_server_statistics {
	char source[256];
	uint32_t state; /* enum orion_server_state */
	char reason[128];
	bool current, draining;
	uint32_t stuck; /* threads past their deadline */
	uint32_t pending; /* jobs under way and queued */
	uint64_t reads, bytes, errors, timeouts, mismatches;
	uint64_t hedges; /* jobs for which another server was asked as well, because this one was late */
	uint64_t hedges_won; /* of these, answered by the other one first */
	uint64_t resent; /* jobs that were sent again elsewhere because it was suspect */
	uint64_t switches; /* times it became the current one after another */
	uint64_t abandoned; /* threads given up, ever */
	uint64_t p50_ns, p95_ns, p99_ns, ewma_ns; /* latency of the last jobs */
};

struct orion_upstreams;

/* Something that may block on one server. Lives until drop(), which comes after both finish() and the end of run(). */
struct orion_job {
	/* In a reader thread of the server: 0 or a negative errno. It may use scratch. */
	int (*run)(struct orion_job *job, uint32_t server);
	/* Once, with run()'s result from the reader thread, or with -ETIMEDOUT from the clock while run() may still be
	 * under way. May submit other jobs. */
	void (*finish)(struct orion_job *job, int error);
	void (*drop)(struct orion_job *job);
	/* From the clock, while it is queued or runs: it is late, or (resend) its server has become suspect. May submit
	 * another job in its place; whether it did. NULL: it waits. */
	bool (*late)(struct orion_job *job, bool resend);
	bool urgent; /* before those that are not */
	bool measures; /* its latency says what a round trip costs */
	uint8_t *scratch; /* ORION_SCRATCH bytes of the thread's own, on a page's boundary */

	/* The upstreams' own. */
	struct orion_job *next, *previous;
	uint32_t server;
	uint32_t holds; /* who uses it: queue or thread, and the clock */
	uint64_t asked_at; /* when it was queued */
	uint64_t since; /* when it was queued, then when it began */
	bool queued, running, finished, ahead, waited, hedged, resent, probes;
};

int orion_upstreams_create(const struct orion_upstream_options *options, struct orion_events *events,
			   struct orion_upstreams **ret);
/* Waits for jobs under way, but for stuck ones no longer than a deadline. false: some are, and then nothing that they
 * use may be freed, for they may come back. */
bool orion_upstreams_destroy(struct orion_upstreams *upstreams);

/* Adds the server whose release directory fd stands for (taken over). direct: its files are opened with O_DIRECT (NFS,
 * whose page cache would hold everything twice). The server's number, or -ENOSPC. At any time. */
int orion_upstreams_add(struct orion_upstreams *upstreams, int fd, const char *source, bool direct);
/* Asks it for nothing more; what is under way there is sent elsewhere. -EBUSY: it is the last one. */
int orion_upstreams_remove(struct orion_upstreams *upstreams, uint32_t server);
int orion_upstreams_drain(struct orion_upstreams *upstreams, uint32_t server, bool drain);
/* The same server, mounted anew: files are opened below fd (taken over) from now on. */
int orion_upstreams_replace(struct orion_upstreams *upstreams, uint32_t server, int fd);

/* Has servers looked at when nothing else says how they are: probe runs in one of the server's threads, as a job does, and
 * reads something small. 0; -EREMCHG: it serves something else; another negative errno. */
void orion_upstreams_probe(struct orion_upstreams *upstreams, int (*probe)(void *context, uint32_t server, uint8_t *scratch),
			   void *context);
/* Has a function called by the clock when a server is well again, and every so often as long as it returns true. */
void orion_upstreams_watch(struct orion_upstreams *upstreams, bool (*look)(void *context), void *context);
/* It is to be called. */
void orion_upstreams_look(struct orion_upstreams *upstreams);

uint32_t orion_upstreams_count(const struct orion_upstreams *upstreams); /* numbers below it may be removed ones */
const char *orion_upstreams_source(const struct orion_upstreams *upstreams, uint32_t server); /* as it was added */

/* The one place that says which server is asked: the current one, then the nearest of those that are well, then suspects,
 * at last those that lied once; never one that is dead, or whose bit is set in tried. -EIO if none is left. */
int orion_upstreams_choose(struct orion_upstreams *upstreams, uint32_t tried);
/* The same of those that are well; without any, of those that lied once. */
int orion_upstreams_choose_well(struct orion_upstreams *upstreams, uint32_t tried);
/* A bit for each server that can be asked, now or when it is back. */
uint32_t orion_upstreams_all(struct orion_upstreams *upstreams);
bool orion_upstreams_is_up(struct orion_upstreams *upstreams, uint32_t server); /* false as well: there is none */
/* A job failed, with an error that is the server's; why: in words. */
void orion_upstreams_failed(struct orion_upstreams *upstreams, uint32_t server, int error, const char *why);
/* What it gave is not what its digest says: proof in words. */
void orion_upstreams_lied(struct orion_upstreams *upstreams, uint32_t server, const char *proof);
/* Another server answered in its place. */
void orion_upstreams_overtaken(struct orion_upstreams *upstreams, uint32_t server);
/* Whether an error says nothing of a server: it is our own end, or what this process lacks; no other server helps. */
bool orion_error_is_ours(int error);
void orion_upstreams_leave_out(struct orion_upstreams *upstreams, uint32_t server, const char *why);
/* Makes a server the current one, which is asked first. */
void orion_upstreams_prefer(struct orion_upstreams *upstreams, uint32_t server);

void orion_upstreams_submit(struct orion_upstreams *upstreams, uint32_t server, struct orion_job *job);
/* Somebody waits for a job: makes it urgent, if it has not begun yet. */
void orion_upstreams_promote(struct orion_upstreams *upstreams, struct orion_job *job);

/* From within run(): something has come, and the deadline counts from now. */
void orion_upstreams_progress(struct orion_upstreams *upstreams, struct orion_job *job);

/* Whether the server's files are opened with O_DIRECT. */
bool orion_upstreams_direct(const struct orion_upstreams *upstreams, uint32_t server);

/* Flags with which preadv2() of the files of a server that is not direct waits for nothing. */
int orion_upstreams_at_once(const struct orion_upstreams *upstreams, uint32_t server);

/* Opens a file below the server's directory for reading, with O_DIRECT where that is wanted and possible. more:
 * flags beside O_RDONLY. In a job. */
int orion_upstreams_open(struct orion_upstreams *upstreams, uint32_t server, const char *path, int more);
/* The same through the page cache. */
int orion_upstreams_open_cached(struct orion_upstreams *upstreams, uint32_t server, const char *path, int more);

/* One file on each server, opened when it is first needed, and kept open. */
struct orion_kept_file {
	int fd[ORION_SERVERS_MAX]; /* -1: not open */
	uint32_t mount[ORION_SERVERS_MAX]; /* of the server: it may have been mounted anew since */
};

void orion_kept_file_init(struct orion_kept_file *kept);
void orion_kept_file_close(struct orion_kept_file *kept);
/* Its descriptor on a server, which stays the kept file's; as orion_upstreams_open(). In a job. */
int orion_upstreams_keep(struct orion_upstreams *upstreams, uint32_t server, struct orion_kept_file *kept,
			 const char *path, int more);
/* After ESTALE: another file under the same descriptor, from which other threads may be reading at this moment. In a job. */
int orion_upstreams_reopen(struct orion_upstreams *upstreams, uint32_t server, struct orion_kept_file *kept,
			   const char *path, int more);
/* The same if it is open already, or -1; waits for nothing. */
int orion_upstreams_kept(struct orion_upstreams *upstreams, uint32_t server, const struct orion_kept_file *kept);

/* A kept file's descriptor for whoever is not in a job: it stays good until it is returned. */
struct orion_borrowed {
	struct orion_borrowed *next;
	uint32_t server;
	uint64_t since;
};
int orion_upstreams_borrow(struct orion_upstreams *upstreams, uint32_t server, const struct orion_kept_file *kept,
			   struct orion_borrowed *borrowed);
void orion_upstreams_return(struct orion_upstreams *upstreams, struct orion_borrowed *borrowed);

/* Counts a read, for the statistics. */
void orion_upstreams_count_read(struct orion_upstreams *upstreams, uint32_t server, size_t bytes);

/* The round trip that a small job costs on the current server, a running minimum that forgets; 0 if not known. */
uint64_t orion_upstreams_round_trip(struct orion_upstreams *upstreams);

/* Opens a kept file in one of the server's threads, behind all that is urgent, so that whoever needs it finds it open. What
 * goes wrong then is met again by those who need it; nobody is told now. kept must outlive the upstreams. */
void orion_upstreams_keep_early(struct orion_upstreams *upstreams, uint32_t server, struct orion_kept_file *kept,
				const char *path, int more);

/* ret: orion_upstreams_count() of them. */
void orion_upstreams_statistics(struct orion_upstreams *upstreams, struct orion_server_statistics *ret);

#endif
