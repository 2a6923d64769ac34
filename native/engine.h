/* The native engine for releases: from the servers' directories to a served mount, with no Python in any answer. */
#ifndef ORION_ENGINE_H
#define ORION_ENGINE_H

#include "events.h"
#include "bundle.h"
#include "digest.h"
#include "fetch.h"
#include "fuse_session.h"
#include "trace_file.h"

struct orion_engine_options {
	uint64_t cache_size, compressed_size; /* bytes: the store's two levels */
	uint64_t deadline_ns; /* for one read on one server: then its thread is given up */
	uint64_t hedge_floor_ns, hedge_cap_ns; /* when another server is asked as well */
	double hedge_budget; /* such additional reads, of all; 0: none */
	uint64_t give_up_ns; /* how long a read waits while no server answers; 0: for ever */
	bool spread; /* over all servers that are good */
	int64_t read_around; /* bytes, or ORION_READ_AROUND_AUTO */
	uint32_t readers; /* threads for each server */
	uint32_t threads; /* that answer the kernel */
	uint32_t trace_limit; /* records of requests that are kept; 0: none */
	bool trace_newest; /* beyond that the oldest are lost, not the newest */
	bool first_touches; /* each page is asked for when it is touched: no readahead, nothing given unasked */
	/* As first_touches, and ready to stream a bundle all the same: as soon as one is found, and at
	 * orion_engine_end_learning(), all is as it would be without it, and nothing is recorded any more. */
	bool learns;
	char role[ORION_BUNDLE_ROLE_MAX]; /* whose bundle is streamed; empty: none */
	bool signed_only; /* key is set */
	uint8_t key[ORION_PUBLIC_KEY_SIZE]; /* whose signature the manifest must have */
	struct orion_agreement *agreement; /* of the engines on one device, each after the other's death; or NULL */
};

struct orion_engine_statistics {
	struct orion_store_statistics store;
	struct orion_fetch_statistics fetch;
	struct orion_bundle_statistics bundle;
	struct orion_session_statistics session;
	uint64_t reads_in_flight;
	/* CLOCK_MONOTONIC in ns: the manifest's bytes were there; it was verified; the first request after INIT was
	 * there. 0: not yet. */
	uint64_t loaded_at, verified_at, asked_at;
	uint64_t manifest_bytes;
	uint32_t server_count;
	struct orion_server_statistics servers[ORION_SERVERS_MAX];
};

struct orion_engine;

int orion_engine_create(const struct orion_engine_options *options, struct orion_engine **ret);
/* After the mount was taken away, or the device will never answer again. */
void orion_engine_destroy(struct orion_engine *engine);

/* Adds a server's release directory, which fd stands for (O_PATH; taken over), before the load or at any time after the
 * start. Its number, or -ENOSPC. */
int orion_engine_add(struct orion_engine *engine, int fd, const char *source);
/* Asks a server for nothing more. -EBUSY: it is the last one. -ENOENT: there is none of that number. */
int orion_engine_remove(struct orion_engine *engine, uint32_t server);
/* Asks it for nothing new, or again. */
int orion_engine_drain(struct orion_engine *engine, uint32_t server, bool drain);
/* It was mounted anew: fd (taken over) stands for the same directory there. */
int orion_engine_replace(struct orion_engine *engine, uint32_t server, int fd);

/* Gets the manifest from the first server that has a good one. A negative errno: orion_engine_problem() says why;
 * -ENOENT: whichever server answers has a plain tree. */
int orion_engine_load(struct orion_engine *engine);
const char *orion_engine_problem(const struct orion_engine *engine);

/* For the engine after this one's death: the manifest moves into a file in memory that nobody can change. After
 * orion_engine_load(), before orion_engine_start(). ret: a descriptor of it, the caller's. */
int orion_engine_keep(struct orion_engine *engine, int *ret);
/* In place of orion_engine_load(): the release that an engine before this one served, from what orion_engine_keep() gave
 * (the caller's still). No server is asked. */
int orion_engine_resume(struct orion_engine *engine, int manifest);

/* After orion_engine_load(). */
const struct orion_header *orion_engine_release(const struct orion_engine *engine);

/* Serves a mounted device in threads of its own, and takes it over. Meanwhile the other servers' manifests are compared
 * with the one that is served; who has another is left out. */
int orion_engine_start(struct orion_engine *engine, int device);

/* Streams the bundle, if there is one, to the mount, and lets the kernel read ahead there when that is done. After
 * orion_engine_start(). root: a descriptor of the mount's root (O_PATH), which nothing but a bundle needs; readahead: as
 * orion_readahead_open() gave it; both the caller's. */
int orion_engine_stream(struct orion_engine *engine, int root, int readahead);

/* Whether it learns, and neither found a bundle nor was ended. */
bool orion_engine_is_learning(struct orion_engine *engine);
/* The kernel reads ahead again, and the records are forgotten. */
void orion_engine_end_learning(struct orion_engine *engine);

struct orion_events *orion_engine_events(struct orion_engine *engine);
/* The requests so far; NULL if trace_limit is 0. */
struct orion_trace *orion_engine_trace(struct orion_engine *engine);
/* The same as a file's bytes, for orion_trace_file_destroy(). After orion_engine_load(). -ENODATA if trace_limit is 0,
 * or learning has ended. */
int orion_engine_trace_file(struct orion_engine *engine, uint8_t **ret, size_t *ret_length);
/* For those who predict, after orion_engine_load(). */
struct orion_fetch *orion_engine_fetch(struct orion_engine *engine);
const struct orion_manifest *orion_engine_manifest(const struct orion_engine *engine);
uint64_t orion_engine_round_trip(struct orion_engine *engine); /* ns of a small read; 0: not known */
bool orion_engine_streams(struct orion_engine *engine); /* whether a bundle is still to come */
int orion_engine_current(struct orion_engine *engine); /* the server that demand asks; -EIO: none */
void orion_engine_warn(struct orion_engine *engine, const char *text); /* an event */
/* The event of an engine that goes on after another one's death: what that died of, how many did before, and for how long
 * nobody answered. */
void orion_engine_tell_restart(struct orion_engine *engine, const char *reason, uint32_t restarts, uint64_t pause_ns);
/* Another one, about the mount of a server; severity: enum orion_severity. */
void orion_engine_tell_mount(struct orion_engine *engine, uint32_t severity, const char *text, const char *source);

/* Readable when the mount is gone. */
int orion_engine_ended_fd(const struct orion_engine *engine);
void orion_engine_statistics(struct orion_engine *engine, struct orion_engine_statistics *ret);

#endif
