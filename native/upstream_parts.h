/* What the parts of the upstreams share: jobs and threads (upstream.c), the clock (upstream_clock.c), which server is asked
 * (upstream_choice.c), and files that are kept open (upstream_files.c).
 */
#ifndef ORION_UPSTREAM_PARTS_H
#define ORION_UPSTREAM_PARTS_H

#include "upstream.h"

#include <pthread.h>

#define ORION_SECOND 1000000000u
#define ORION_READ_FLAGS (O_RDONLY | O_CLOEXEC | O_NOCTTY)
/* Threads of one server, stuck ones included, for each that it should have; and as many more for probes. */
#define ORION_STUCK_FACTOR 4
#define ORION_PROBE_THREADS 2

struct orion_queue {
	struct orion_job *first, *last;
};

/* One of a server's threads, or somebody who has borrowed a descriptor: what it began before a file was retired may still
 * use that. */
struct orion_worker {
	struct orion_worker *next;
	bool busy;
	uint64_t since; /* all->turn when it began what it does */
};

/* A descriptor that nobody takes up any more; to be closed when all who may still use it have ended. */
struct orion_retired {
	struct orion_retired *next;
	int fd;
	uint64_t turn;
};

struct orion_server {
	struct orion_upstreams *all;
	uint32_t number;
	pthread_cond_t work; /* a job was queued, or the end has come */
	/* All guarded by all->lock. */
	int fd;
	uint32_t mount; /* counts how often it was mounted anew */
	bool direct, draining, probing;
	int at_once;
	char source[256];
	struct orion_health health;
	struct orion_queue urgent, other, running;
	struct orion_worker *workers;
	struct orion_borrowed *borrowed;
	struct orion_retired *retired;
	uint32_t threads, idle, stuck, queued;
	uint32_t ahead; /* running jobs that were not urgent when they began */
	uint64_t last_end;
	uint64_t reads, bytes, errors, timeouts, mismatches, hedges, hedges_won, resent, switches, abandoned;
};

struct orion_upstreams {
	struct orion_upstream_options options;
	struct orion_events *events;
	pthread_t clock;
	int (*probe)(void *context, uint32_t server, uint8_t *scratch); /* set before any job */
	void *probe_context;
	pthread_mutex_t lock; /* of all that follows, and of all servers */
	pthread_cond_t ended; /* a thread has ended */
	pthread_cond_t tick; /* wakes the clock */
	bool (*look)(void *context);
	void *look_context;
	uint64_t look_at; /* when to call it; UINT64_MAX: not */
	uint64_t wakes_at; /* when the clock will wake by itself */
	uint64_t ranked_at, changed_at; /* when the current server was last compared, and last changed for a better one */
	uint64_t active_at; /* the last job that was not a probe */
	double tokens; /* jobs that may be hedged now */
	bool ending;
	uint64_t turn; /* grows with each retired descriptor */
	uint32_t count, current, next_spread;
	struct orion_server servers[ORION_SERVERS_MAX];
};

void orion_queue_append(struct orion_queue *queue, struct orion_job *job);
void orion_queue_take(struct orion_queue *queue, struct orion_job *job);

/* Locked, all that follows. */
int orion_server_start_thread(struct orion_server *server, uint32_t most);
/* Gives a hold up; a job that nobody uses any more is dropped, unlocked meanwhile. */
void orion_job_release(struct orion_upstreams *all, struct orion_job *job);
void orion_clock_wake_by(struct orion_upstreams *all, uint64_t at);
bool orion_server_is_there(const struct orion_server *server); /* neither removed nor foreign */
/* Makes the best server the current one, if the one that is cannot be it; tells why. */
void orion_server_pick(struct orion_upstreams *all, uint64_t now);
void orion_server_rank(struct orion_upstreams *all, uint64_t now);
/* It has become suspect: all that is in flight there is late. */
void orion_server_suspect(struct orion_server *server, uint64_t now, const char *why);
/* A good answer. */
void orion_server_answered(struct orion_server *server, uint64_t now, uint64_t latency, bool measures);
void orion_server_retire(struct orion_server *server, int fd);
/* Takes out what can be closed now: to be given to orion_retired_close(), unlocked. */
struct orion_retired *orion_server_reap(struct orion_server *server);
void orion_retired_close(struct orion_retired *retired);

void *orion_clock(void *upstreams);

#endif
