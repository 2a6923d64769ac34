/* A release that is served without a kernel: its servers are directories, requests are handed in, and answers pile up in
 * a file, each as long as its header says. For a test and a fuzz target.
 */
#ifndef STAGE_H
#define STAGE_H

#include "fuse_release.h"
#include "sample_manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

/* A server with good packs, one whose first block is damaged, one whose pack is cut short, one without any; and another good
 * one. */
enum stage_server { STAGE_GOOD, STAGE_DAMAGED, STAGE_SHORT, STAGE_EMPTY, STAGE_COPY, STAGE_SERVERS };

struct stage_options {
	size_t cache_size, compressed_size;
	int64_t read_around;
	bool direct; /* as if over NFS */
	struct orion_served_settings served;
	uint64_t deadline_ns, give_up_ns; /* 0: 10 minutes; for ever */
	double hedge_budget;
	bool spread;
	uint32_t server_count;
	enum stage_server servers[ORION_SERVERS_MAX];
};

struct stage {
	struct orion_manifest manifest;
	struct orion_store *store;
	struct orion_upstreams *upstreams;
	struct orion_fetch *fetch;
	struct orion_served *served;
	struct orion_session *session;
	int answers;
};

/* A tmpfs: O_DIRECT works there at any offset. */
static char stage_top[] = "/dev/shm/orion-stage-XXXXXX";

static inline void stage_require(bool condition)
{
	if (!condition)
		abort();
}

static inline int stage_remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

static inline void stage_remove_servers(void)
{
	nftw(stage_top, stage_remove_one, 20, FTW_DEPTH | FTW_PHYS);
}

/* Once, before all else; they are gone when the process exits. */
static inline void stage_make_servers(void)
{
	uint8_t content[SAMPLE_CONTENT];
	char path[100];

	stage_require(mkdtemp(stage_top) && atexit(stage_remove_servers) == 0);
	sample_content(content);
	for (int i = 0; i < STAGE_SERVERS; i++) {
		const int at = snprintf(path, sizeof path, "%s/%d", stage_top, i);

		stage_require(mkdir(path, 0755) == 0);
		if (i == STAGE_EMPTY)
			continue;
		stpcpy(path + at, "/packs");
		stage_require(mkdir(path, 0755) == 0);
		stpcpy(path + at, "/packs/" SAMPLE_PACK);
		const int fd = open(path, O_WRONLY | O_CREAT, 0644);
		const size_t length = i == STAGE_SHORT ? BLOCK + 1 : sizeof content;

		content[7] ^= i == STAGE_DAMAGED;
		stage_require(fd >= 0 && write(fd, content, length) == (ssize_t)length && close(fd) == 0);
		content[7] ^= i == STAGE_DAMAGED;
	}
}

/* manifest: what orion_manifest_open() has let pass. */
static inline void stage_open(struct stage *stage, const struct orion_manifest *manifest,
			      const struct stage_options *options)
{
	struct orion_session_options session = {.threads = 0};
	char path[100];

	stage->manifest = *manifest;
	stage->answers = memfd_create("answers", MFD_CLOEXEC);
	stage_require(stage->answers >= 0 && fcntl(stage->answers, F_SETFL, O_APPEND) == 0);
	stage_require(orion_store_create(options->cache_size, options->compressed_size, &stage->store) == 0);
	stage_require(orion_upstreams_create(&(struct orion_upstream_options){
						     .readers = 2,
						     .deadline_ns = options->deadline_ns ? options->deadline_ns : 600000000000,
						     .hedge_floor_ns = 20000000,
						     .hedge_cap_ns = 500000000,
						     .hedge_budget = options->hedge_budget,
						     .spread = options->spread,
					     },
					     NULL, &stage->upstreams) == 0);
	for (uint32_t i = 0; i < options->server_count; i++) {
		snprintf(path, sizeof path, "%s/%d", stage_top, options->servers[i]);
		stage_require(orion_upstreams_add(stage->upstreams, open(path, O_PATH | O_CLOEXEC), path,
						  options->direct) == (int)i);
	}
	stage_require(orion_fetch_create(&stage->manifest, stage->store, stage->upstreams, NULL,
					 &(struct orion_fetch_options){.read_around = options->read_around,
								 .trace = options->served.trace,
								 .give_up_ns = options->give_up_ns},
					 &stage->fetch) == 0);
	stage_require(orion_served_create(&stage->manifest, stage->fetch, &options->served, &stage->served) == 0);
	orion_served_options(stage->served, &session);
	stage_require(orion_session_create(&session, &stage->session) == 0);
	stage_require(orion_session_start(stage->session, stage->answers) == 0);
}

/* Hands in what the kernel would; false if it is no request. */
static inline bool stage_send(struct stage *stage, const uint8_t *bytes, size_t length)
{
	struct orion_request request;
	const bool is_request = orion_request_take(stage->session, bytes, length, &request);

	if (is_request)
		orion_session_handle(stage->session, &request);
	return is_request;
}

/* Ends all of it but the answers, in the engine's order. */
static inline void stage_close(struct stage *stage)
{
	orion_served_stop(stage->served);
	orion_session_stop(stage->session);
	stage_require(orion_upstreams_destroy(stage->upstreams));
	stage_require(orion_served_in_flight(stage->served) == 0);
	orion_session_destroy(stage->session);
	orion_fetch_destroy(stage->fetch);
	orion_served_destroy(stage->served);
	orion_store_destroy(stage->store);
}

#endif
