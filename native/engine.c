/* The parts of the native engine, put together and taken apart. */
#define _GNU_SOURCE
#include "engine.h"

#include "digest.h"
#include "fuse_release.h"
#include "mount.h"
#include "supervision.h"
#include "whole.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MANIFEST_MOST ((size_t)8 << 30)
/* How long nothing may come of a server's manifest until the next one is asked as well: at first, and once it is open. */
#define LOAD_PATIENCE_NS 100000000u
#define LOAD_PATIENCE_OPEN_NS 150000000u
#define PROBE_BYTES 4096
/* Of a manifest that an engine before this one had. */
#define NO_SERVER UINT32_MAX

_Static_assert(sizeof(struct orion_header) <= PROBE_BYTES, "a probe reads the header");

struct orion_engine {
	struct orion_engine_options options;
	struct orion_events *events;
	struct orion_upstreams *upstreams;
	struct orion_store *store;
	struct orion_fetch *fetch;
	struct orion_trace *trace;
	struct orion_bundle *bundle;
	struct orion_served *served;
	struct orion_session *session;
	struct orion_manifest manifest;
	uint8_t *bytes; /* of the manifest */
	size_t length;
	uint32_t from; /* the server that gave it, or NO_SERVER */
	int device;
	int readahead; /* of the mount, while it learns */
	struct orion_kept_file manifests; /* for probes */
	_Atomic uint32_t prepared; /* a bit for each server whose packs were opened early */
	uint64_t loaded_at, verified_at;
	uint64_t mounted_when[ORION_SERVERS_MAX];
	char problem[512];
};

int orion_engine_create(const struct orion_engine_options *options, struct orion_engine **ret)
{
	struct orion_engine *engine = calloc(1, sizeof(*engine));
	int error;

	if (!engine)
		return -ENOMEM;
	if (options->learns && !options->trace_limit) {
		free(engine);
		return -EINVAL;
	}
	engine->options = *options;
	engine->device = -1;
	engine->readahead = -1;
	orion_kept_file_init(&engine->manifests);
	error = orion_events_create(&engine->events);
	if (!error)
		error = orion_upstreams_create(
			&(struct orion_upstream_options){
				.readers = options->readers,
				.deadline_ns = options->deadline_ns,
				.hedge_floor_ns = options->hedge_floor_ns,
				.hedge_cap_ns = options->hedge_cap_ns,
				.hedge_budget = options->hedge_budget,
				.spread = options->spread,
			},
			engine->events, &engine->upstreams);
	if (!error)
		error = orion_store_create(options->cache_size, options->compressed_size, &engine->store);
	if (!error && options->trace_limit)
		error = orion_trace_create(&(struct orion_trace_options){options->trace_limit, options->trace_newest},
					   &engine->trace);
	if (error)
		orion_engine_destroy(engine);
	else
		*ret = engine;
	return error;
}

void orion_engine_destroy(struct orion_engine *engine)
{
	if (!engine)
		return;
	/* First no more pushes, which may wait for an answer; then no new requests, then no more reads under way, which are
	 * answered in the session's name. What is left is ours alone. */
	if (engine->bundle)
		orion_bundle_stop(engine->bundle);
	if (engine->served)
		orion_served_stop(engine->served);
	if (engine->session)
		orion_session_stop(engine->session);
	/* A thread that comes back from a dead server goes on where it was: all of it is left there. */
	if (!orion_upstreams_destroy(engine->upstreams))
		return;
	orion_kept_file_close(&engine->manifests);
	orion_session_destroy(engine->session);
	orion_fetch_destroy(engine->fetch);
	orion_served_destroy(engine->served);
	orion_bundle_destroy(engine->bundle);
	orion_trace_destroy(engine->trace);
	orion_store_destroy(engine->store);
	orion_events_destroy(engine->events);
	if (engine->device >= 0)
		close(engine->device);
	if (engine->readahead >= 0)
		close(engine->readahead);
	if (engine->bytes)
		munmap(engine->bytes, engine->length);
	free(engine);
}

/* Whether files of a server shall be opened with O_DIRECT. What is mounted nowhere is in no list of mounts: then it is asked,
 * which may block. */
static bool is_remote(const struct orion_engine *engine, int fd)
{
	struct statfs status;

	if (orion_is_on_nfs(fd))
		return true;
	return engine->session && fstatfs(fd, &status) == 0 && status.f_type == NFS_SUPER_MAGIC;
}

int orion_engine_add(struct orion_engine *engine, int fd, const char *source)
{
	const int number = orion_upstreams_add(engine->upstreams, fd, source, is_remote(engine, fd));

	if (number < 0) {
		close(fd);
		return number;
	}
	engine->mounted_when[number] = orion_mounted_when(fd);
	atomic_fetch_and(&engine->prepared, ~(1u << number));
	if (engine->fetch)
		orion_fetch_forget(engine->fetch, (uint32_t)number);
	if (engine->session)
		orion_events_note(engine->events, ORION_INFO, ORION_EVENT_SERVER, "%s is added" ORION_FIELD("server") "%s",
				  source, source);
	return number;
}

int orion_engine_remove(struct orion_engine *engine, uint32_t server)
{
	return orion_upstreams_remove(engine->upstreams, server);
}

int orion_engine_drain(struct orion_engine *engine, uint32_t server, bool drain)
{
	return orion_upstreams_drain(engine->upstreams, server, drain);
}

int orion_engine_replace(struct orion_engine *engine, uint32_t server, int fd)
{
	const int error = orion_upstreams_replace(engine->upstreams, server, fd);

	if (!error && engine->fetch)
		orion_fetch_forget(engine->fetch, server);
	return error;
}

__attribute__((format(printf, 3, 4))) static int fail(struct orion_engine *engine, int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(engine->problem, sizeof(engine->problem), format, arguments);
	va_end(arguments);
	return error;
}

static int check_signature(struct orion_engine *engine, uint32_t server, const struct orion_header *header)
{
	const char *source = orion_upstreams_source(engine->upstreams, server);
	uint8_t *signature;
	size_t length;
	int error = orion_whole_get(engine->upstreams, server, "manifest.sig",
				    &(struct orion_whole_options){.most = ORION_SIGNATURE_SIZE}, &signature, &length);

	if (error == -ENOENT)
		return fail(engine, -EKEYREJECTED, "%s: the manifest is not signed", source);
	if (error)
		return fail(engine, error, "%s/manifest.sig: %s", source, strerrordesc_np(-error));
	error = length == ORION_SIGNATURE_SIZE
			? orion_signature_verify(header->digest_kind, header->digest, signature, engine->options.key)
			: -EBADMSG;
	munmap(signature, length);
	if (error == -EINVAL)
		return fail(engine, -EKEYREJECTED, "%s: the release has digests that anybody can forge (xxh3)", source);
	if (error)
		return fail(engine, -EKEYREJECTED, "%s: the manifest's signature is not by the key", source);
	return 0;
}

/* Whether a fetch failed because there is nothing of that name, or something else than a regular file. */
static bool is_no_manifest(int error)
{
	return error == -ENOENT || error == -ELOOP || error == -EISDIR || error == -EINVAL;
}

/* Whether a server has packs/, as a release does. */
static bool has_packs(struct orion_engine *engine, uint32_t server)
{
	uint8_t *bytes;
	size_t length;

	return orion_whole_get(engine->upstreams, server, "packs", &(struct orion_whole_options){0}, &bytes, &length) ==
	       -EISDIR;
}

/* Takes one server's manifest, and believes it or not. -ENOENT: there is a plain tree. */
static int take_manifest(struct orion_engine *engine, uint32_t server, struct orion_whole *whole)
{
	const char *source = orion_upstreams_source(engine->upstreams, server);
	struct orion_manifest manifest;
	uint8_t *bytes;
	size_t length;
	int error = orion_whole_take(whole, &bytes, &length);

	if (is_no_manifest(error) || (error == -ENODATA && !has_packs(engine, server)))
		return fail(engine, -ENOENT, "%s is no release", source);
	if (error)
		return fail(engine, error, "%s/manifest: %s", source, strerrordesc_np(-error));
	engine->loaded_at = orion_now_ns();
	error = orion_manifest_open(bytes, length, &manifest);
	if (error == -EPROTONOSUPPORT)
		fail(engine, error, "%s: the manifest has a version that this program does not know", source);
	else if (error && !has_packs(engine, server))
		error = fail(engine, -ENOENT, "%s is no release", source);
	else if (error)
		fail(engine, error, "%s: the manifest is broken", source);
	else if ((error = orion_manifest_verify(&manifest)))
		fail(engine, error, "%s: the manifest is not what its digest says", source);
	else if (engine->options.signed_only)
		error = check_signature(engine, server, manifest.header);
	if (error) {
		munmap(bytes, length);
		return error;
	}
	engine->verified_at = orion_now_ns();
	engine->manifest = manifest;
	engine->bytes = bytes;
	engine->length = length;
	engine->from = server;
	return 0;
}

/* What says more of the servers together: a release that cannot be used, a plain tree, or no answer. */
static int weight(int error)
{
	switch (error) {
	case -EBADMSG:
	case -EINVAL:
	case -EKEYREJECTED:
	case -EPROTONOSUPPORT:
		return 3;
	case -ENOENT:
		return 2;
	default:
		return 1;
	}
}

static bool is_in_flight(void *context, uint32_t inode, uint64_t offset, uint32_t length)
{
	const struct orion_engine *engine = context;

	return orion_served_is_in_flight(engine->served, inode, offset, length);
}

/* What the bundle gives to the kernel is not asked for: the record would lack it. */
static void found_bundle(void *context)
{
	struct orion_engine *engine = context;

	if (!engine->options.learns)
		return;
	orion_trace_stop(engine->trace);
	orion_served_push(engine->served);
}

static int create_bundle(struct orion_engine *engine)
{
	struct orion_bundle_options options = {
		.role = engine->options.role,
		.signed_only = engine->options.signed_only,
		.trace = engine->trace,
		.is_in_flight = is_in_flight,
		.found = found_bundle,
		.context = engine,
		.learns = engine->options.learns,
		.agreement = engine->options.agreement,
	};

	memcpy(options.key, engine->options.key, sizeof(options.key));

	const int error = orion_bundle_create(&engine->manifest, engine->upstreams, engine->events, &options,
					      &engine->bundle);

	if (!error)
		orion_served_use_bundle(engine->served, engine->bundle);
	return error;
}

/* Servers as they were mounted: the initramfs begins to read the manifest of the first one while it mounts the others
 * (nfsmount -a), and its connection has found its pace by then. */
static void order_servers(const struct orion_engine *engine, uint32_t count, uint32_t ret[ORION_SERVERS_MAX])
{
	for (uint32_t server = 0; server < count; server++) {
		uint32_t at = server;

		for (; at > 0 && engine->mounted_when[ret[at - 1]] > engine->mounted_when[server]; at--)
			ret[at] = ret[at - 1];
		ret[at] = server;
	}
}

/* Opens what will be read first, once. */
static void prepare(struct orion_engine *engine, uint32_t server)
{
	if (!(atomic_fetch_or(&engine->prepared, 1u << server) & 1u << server))
		orion_fetch_prepare(engine->fetch, server);
}

/* What could not be used of a server, and what that says of it. */
static void reject(struct orion_engine *engine, uint32_t server, int error)
{
	orion_events_tell(engine->events, ORION_WARNING, "%s", engine->problem);
	if (error == -EBADMSG)
		orion_upstreams_lied(engine->upstreams, server, "its manifest is damaged");
	else
		orion_upstreams_failed(engine->upstreams, server, error, "its manifest cannot be used");
}

/* The manifest of the first server that gives a good one. Each is asked when those before it have failed, or nothing came of
 * them for a while: a dead one costs no more than that. */
static int race(struct orion_engine *engine, const uint32_t *order, uint32_t count)
{
	struct orion_whole *wholes[ORION_SERVERS_MAX] = {0};
	char problem[sizeof(engine->problem)] = "";
	uint32_t begun = 0, running = 0;
	uint64_t patience = 0;
	int error = -ENODEV;

	while (running || begun < count) {
		const int found = orion_whole_wait(wholes, begun, begun < count ? patience : UINT64_MAX);

		if (found >= 0) {
			const int result = take_manifest(engine, order[found], wholes[found]);

			orion_whole_destroy(wholes[found]);
			wholes[found] = NULL;
			running--;
			patience = running ? LOAD_PATIENCE_NS : 0;
			if (!result) {
				error = 0;
				orion_upstreams_prefer(engine->upstreams, order[found]);
				break;
			}
			reject(engine, order[found], result);
			if (error == -ENODEV || weight(result) > weight(error)) {
				error = result;
				memcpy(problem, engine->problem, sizeof(problem));
			}
		} else if (found == -EINPROGRESS) {
			patience = LOAD_PATIENCE_OPEN_NS;
		} else if (begun < count) {
			const struct orion_whole_options options = {.most = MANIFEST_MOST};
			const int result =
				orion_whole_begin(engine->upstreams, order[begun], "manifest", &options, &wholes[begun]);

			running += !result;
			begun++;
			patience = LOAD_PATIENCE_NS;
			if (result)
				error = result;
		}
	}
	for (uint32_t i = 0; i < begun; i++)
		orion_whole_destroy(wholes[i]);
	if (error)
		memcpy(engine->problem, problem, sizeof(problem));
	return error;
}

/* What serves the manifest that is here. */
static int create_parts(struct orion_engine *engine)
{
	int error = orion_fetch_create(&engine->manifest, engine->store, engine->upstreams, engine->events,
				       &(struct orion_fetch_options){
					       .read_around = engine->options.read_around,
					       .trace = engine->trace,
					       .give_up_ns = engine->options.give_up_ns,
				       },
				       &engine->fetch);

	if (!error && engine->from != NO_SERVER)
		prepare(engine, engine->from);
	if (!error)
		error = orion_served_create(
			&engine->manifest, engine->fetch,
			&(struct orion_served_settings){engine->trace, engine->options.first_touches, engine->options.learns},
			&engine->served);
	if (!error && engine->options.role[0] && !engine->options.first_touches)
		error = create_bundle(engine);
	return error;
}

int orion_engine_load(struct orion_engine *engine)
{
	const uint32_t count = orion_upstreams_count(engine->upstreams);
	uint32_t order[ORION_SERVERS_MAX];

	order_servers(engine, count, order);

	const int error = race(engine, order, count);

	return error ? error : create_parts(engine);
}

static int write_all(int fd, const uint8_t *bytes, size_t length)
{
	for (size_t at = 0; at < length;) {
		const ssize_t written = write(fd, bytes + at, length - at);

		if (written < 0 && errno != EINTR)
			return -errno;
		at += written > 0 ? (size_t)written : 0;
	}
	return 0;
}

/* Has the engine use a kept manifest's bytes; in place of its own, if it has some. */
static int map_kept(struct orion_engine *engine, int fd, size_t length)
{
	/* All at once: a page that is not there yet cannot be had while we are killed, and an answer from it would fail. */
	const int flags = MAP_PRIVATE | MAP_POPULATE | (engine->bytes ? MAP_FIXED : 0);
	void *bytes = mmap(engine->bytes, length, PROT_READ, flags, fd, 0);

	if (bytes == MAP_FAILED)
		return -errno;
	engine->bytes = bytes;
	engine->length = length;
	return 0;
}

int orion_engine_keep(struct orion_engine *engine, int *ret)
{
	const int fd = memfd_create("manifest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int error = fd < 0 ? -errno : write_all(fd, engine->bytes, engine->length);

	if (!error && fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL))
		error = -errno;
	if (!error)
		error = map_kept(engine, fd, engine->length);
	if (error && fd >= 0)
		close(fd);
	if (!error)
		*ret = fd;
	return error;
}

int orion_engine_resume(struct orion_engine *engine, int manifest)
{
	struct stat status;
	int error = fstat(manifest, &status) ? -errno : map_kept(engine, manifest, (size_t)status.st_size);

	/* Its digest and signature were verified by the engine that kept it. */
	if (!error)
		error = orion_manifest_open(engine->bytes, engine->length, &engine->manifest);
	engine->from = NO_SERVER;
	engine->loaded_at = engine->verified_at = orion_now_ns();
	return error ? error : create_parts(engine);
}

const char *orion_engine_problem(const struct orion_engine *engine)
{
	return engine->problem;
}

const struct orion_header *orion_engine_release(const struct orion_engine *engine)
{
	return engine->manifest.header;
}

static int leave_out(struct orion_engine *engine, uint32_t server, const char *why)
{
	orion_upstreams_leave_out(engine->upstreams, server, why);
	return -EREMCHG;
}

/* The beginning of a server's manifest: how many bytes, or a negative errno. */
static ssize_t read_header(struct orion_engine *engine, uint32_t server, uint8_t *scratch)
{
	const int more = O_NOFOLLOW | O_NONBLOCK;
	int fd = orion_upstreams_keep(engine->upstreams, server, &engine->manifests, "manifest", more);
	ssize_t got = fd < 0 ? fd : pread(fd, scratch, PROBE_BYTES, 0);

	if (fd < 0 || got >= 0)
		return got;
	if (errno != ESTALE)
		return -errno;
	fd = orion_upstreams_reopen(engine->upstreams, server, &engine->manifests, "manifest", more);
	got = fd < 0 ? fd : pread(fd, scratch, PROBE_BYTES, 0);
	return fd >= 0 && got < 0 ? -errno : got;
}

/* Reads the header of a server's manifest, which has the digest of all the rest: it answers reads, and with this release. */
static int probe(void *context, uint32_t server, uint8_t *scratch)
{
	struct orion_engine *engine = context;
	const ssize_t got = read_header(engine, server, scratch);
	char text[320];

	if (is_no_manifest((int)got))
		return leave_out(engine, server, "it is no release");
	if (got < 0)
		return (int)got;
	if (got < (ssize_t)sizeof(struct orion_header) || memcmp(scratch, engine->bytes, sizeof(struct orion_header)) != 0) {
		snprintf(text, sizeof(text), "it has another release than %s",
			 engine->from == NO_SERVER ? "the one that is served"
						   : orion_upstreams_source(engine->upstreams, engine->from));
		return leave_out(engine, server, text);
	}
	prepare(engine, server);
	return 0;
}

int orion_engine_start(struct orion_engine *engine, int device)
{
	struct orion_session_options options = {
		.threads = engine->options.threads, .agreement = engine->options.agreement};

	orion_served_options(engine->served, &options);

	const int error = orion_session_create(&options, &engine->session);

	if (error)
		return error;
	engine->device = device;
	orion_upstreams_probe(engine->upstreams, probe, engine);
	return orion_session_start(engine->session, device);
}

/* Has the kernel ask for each page. Not by the answer to INIT: a bundle may be found, and then it shall read ahead. */
static void begin_learning(struct orion_engine *engine, int readahead)
{
	engine->readahead = readahead < 0 ? readahead : fcntl(readahead, F_DUPFD_CLOEXEC, 0);
	if (engine->readahead >= 0) {
		orion_readahead_write(engine->readahead, 0);
		return;
	}
	orion_events_tell(engine->events, ORION_WARNING, "nothing is recorded to be uploaded: the mount's readahead in /sys: %s",
			  strerrordesc_np(-engine->readahead));
	orion_engine_end_learning(engine);
}

int orion_engine_stream(struct orion_engine *engine, int root, int readahead)
{
	/* As deep as a trace of first touches wants it: not at all. */
	if (engine->options.first_touches)
		return 0;
	if (engine->options.learns)
		begin_learning(engine, readahead);
	if (!engine->bundle) {
		if (engine->options.agreement)
			engine->options.agreement->streamed = true;
		if (!orion_engine_is_learning(engine))
			orion_readahead_write(readahead, ORION_READ_MAX);
		return 0;
	}

	const int error = orion_bundle_start(engine->bundle, engine->session, root, readahead);

	if (error)
		orion_engine_end_learning(engine);
	return error;
}

bool orion_engine_is_learning(struct orion_engine *engine)
{
	return engine->options.learns && !orion_trace_is_stopped(engine->trace);
}

void orion_engine_end_learning(struct orion_engine *engine)
{
	if (!orion_engine_is_learning(engine))
		return;
	orion_trace_stop(engine->trace);
	orion_served_push(engine->served);
	orion_readahead_write(engine->readahead, ORION_READ_MAX);
}

struct orion_events *orion_engine_events(struct orion_engine *engine)
{
	return engine->events;
}

struct orion_trace *orion_engine_trace(struct orion_engine *engine)
{
	return engine->trace;
}

struct orion_fetch *orion_engine_fetch(struct orion_engine *engine)
{
	return engine->fetch;
}

const struct orion_manifest *orion_engine_manifest(const struct orion_engine *engine)
{
	return &engine->manifest;
}

uint64_t orion_engine_round_trip(struct orion_engine *engine)
{
	return orion_upstreams_round_trip(engine->upstreams);
}

int orion_engine_current(struct orion_engine *engine)
{
	return orion_upstreams_choose(engine->upstreams, 0);
}

void orion_engine_warn(struct orion_engine *engine, const char *text)
{
	orion_events_tell(engine->events, ORION_WARNING, "%s", text);
}

void orion_engine_tell_restart(struct orion_engine *engine, const char *reason, uint32_t restarts, uint64_t pause_ns)
{
	orion_events_note(engine->events, ORION_WARNING, ORION_EVENT_DAEMON,
			  "the daemon had died (%s); restart %u, after %.1f ms" ORION_FIELD("restarts") "%u" ORION_FIELD(
				  "pause_ms") "%.1f",
			  reason, restarts, (double)pause_ns / 1e6, restarts, (double)pause_ns / 1e6);
}

void orion_engine_tell_mount(struct orion_engine *engine, uint32_t severity, const char *text, const char *source)
{
	orion_events_note(engine->events, (enum orion_severity)severity, ORION_EVENT_MOUNT, "%s" ORION_FIELD("server") "%s", text,
			  source);
}

bool orion_engine_streams(struct orion_engine *engine)
{
	return engine->bundle && orion_bundle_streams(engine->bundle);
}

/* Whether waits may be longer than they are when all is well. */
static bool is_degraded(struct orion_engine *engine)
{
	struct orion_server_statistics servers[ORION_SERVERS_MAX];
	struct orion_fetch_statistics fetch;
	const uint32_t count = orion_upstreams_count(engine->upstreams);
	bool degraded;

	orion_upstreams_statistics(engine->upstreams, servers);
	orion_fetch_statistics(engine->fetch, &fetch);
	degraded = fetch.failed_blocks > 0;
	for (uint32_t i = 0; i < count; i++)
		degraded |= servers[i].state == ORION_DEAD || servers[i].state == ORION_QUARANTINED ||
			    servers[i].state == ORION_FOREIGN || servers[i].errors || servers[i].timeouts ||
			    servers[i].mismatches;
	return degraded;
}

int orion_engine_trace_file(struct orion_engine *engine, uint8_t **ret, size_t *ret_length)
{
	const bool first_touches = engine->options.first_touches || engine->options.learns;

	if (!engine->trace || orion_trace_is_stopped(engine->trace))
		return -ENODATA;
	return orion_trace_file_create(engine->trace, &engine->manifest,
				       (first_touches ? ORION_TRACE_FIRST_TOUCHES : 0) |
					       (is_degraded(engine) ? ORION_TRACE_DEGRADED : 0),
				       ret, ret_length);
}

int orion_engine_ended_fd(const struct orion_engine *engine)
{
	return orion_session_ended_fd(engine->session);
}

void orion_engine_statistics(struct orion_engine *engine, struct orion_engine_statistics *ret)
{
	*ret = (struct orion_engine_statistics){
		.loaded_at = engine->loaded_at,
		.verified_at = engine->verified_at,
		.manifest_bytes = engine->length,
		.server_count = orion_upstreams_count(engine->upstreams),
	};
	orion_store_statistics(engine->store, &ret->store);
	orion_upstreams_statistics(engine->upstreams, ret->servers);
	if (engine->fetch)
		orion_fetch_statistics(engine->fetch, &ret->fetch);
	if (engine->bundle)
		orion_bundle_statistics(engine->bundle, &ret->bundle);
	if (engine->served)
		ret->reads_in_flight = orion_served_in_flight(engine->served);
	if (engine->session) {
		orion_session_statistics(engine->session, &ret->session);
		ret->asked_at = ret->session.first_at;
	}
}
