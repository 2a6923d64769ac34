/* Records from several threads, what is lost, names of threads, and the file that a release's trace becomes. */
#define _GNU_SOURCE
#include "check.h"
#include "stage.h"
#include "trace_file.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define WRITERS 4
#define EACH 5000

static struct orion_trace *trace_of(uint32_t limit, bool newest)
{
	struct orion_trace *trace;

	CHECK(orion_trace_create(&(struct orion_trace_options){limit, newest}, &trace) == 0);
	return trace;
}

static uint64_t add(struct orion_trace *trace, uint64_t offset)
{
	const uint64_t number = orion_trace_begin(trace, &(struct orion_trace_record){.t_ns = 1, .offset = offset});

	orion_trace_end(trace, number, ORION_TRACE_MISS, 1);
	return number;
}

static void test_limits(void)
{
	struct orion_trace *trace;

	CHECK(orion_trace_create(&(struct orion_trace_options){0, false}, &trace) == -EINVAL);
	CHECK(orion_trace_create(&(struct orion_trace_options){ORION_TRACE_RECORDS_MAX + 1, false}, &trace) == -EINVAL);
	orion_trace_destroy(NULL);
	CHECK(orion_trace_begin(NULL, &(struct orion_trace_record){0}) == ORION_TRACE_NONE);
	orion_trace_end(NULL, ORION_TRACE_NONE, ORION_TRACE_HIT, 0);
}

static void test_first_are_kept(void)
{
	struct orion_trace *trace = trace_of(3, false);
	struct orion_trace_record found[4];
	struct orion_trace_counts counts;
	uint64_t next;

	for (uint64_t i = 0; i < 5; i++)
		CHECK(add(trace, i) == (i < 3 ? i : ORION_TRACE_NONE));
	orion_trace_count(trace, &counts);
	CHECK(counts.kept == 3 && counts.lost == 2 && counts.started_ns > 0);
	CHECK(orion_trace_since(trace, 0, found, 2, &next) == 2 && next == 2 && found[1].offset == 1);
	CHECK(found[0].outcome == ORION_TRACE_MISS && found[0].wait_ns > 0 && found[0].blocks_missed == 1);
	CHECK(orion_trace_since(trace, next, found, 4, &next) == 1 && next == 3 && found[0].offset == 2);
	CHECK(orion_trace_since(trace, next, found, 4, &next) == 0 && next == 3);
	orion_trace_destroy(trace);
}

static void test_newest_are_kept(void)
{
	struct orion_trace *trace = trace_of(3, true);
	struct orion_trace_record found[4];
	struct orion_trace_counts counts;
	uint64_t next;
	const uint64_t open = orion_trace_begin(trace, &(struct orion_trace_record){.offset = 99});

	CHECK(orion_trace_since(trace, 0, found, 4, &next) == 1 && found[0].wait_ns == ORION_TRACE_WAITING);
	for (uint64_t i = 1; i < 5; i++)
		CHECK(add(trace, i) == i);
	orion_trace_end(trace, open, ORION_TRACE_ERROR, 7); /* another record has its place */
	orion_trace_count(trace, &counts);
	CHECK(counts.kept == 3 && counts.lost == 2);
	CHECK(orion_trace_since(trace, 0, found, 4, &next) == 3 && next == 5);
	CHECK(found[0].offset == 2 && found[2].offset == 4 && found[1].outcome == ORION_TRACE_MISS);
	orion_trace_destroy(trace);
}

static bool is_woken(const struct orion_trace *trace)
{
	return poll(&(struct pollfd){.fd = orion_trace_watch_fd(trace), .events = POLLIN}, 1, 0) == 1;
}

static void test_watching(void)
{
	struct orion_trace *trace = trace_of(3, true);

	CHECK(!is_woken(trace));
	const uint64_t number = orion_trace_begin(trace, &(struct orion_trace_record){.offset = 1});

	CHECK(is_woken(trace));
	orion_trace_rest(trace);
	CHECK(!is_woken(trace));
	orion_trace_end(trace, number, ORION_TRACE_HIT, 0);
	CHECK(is_woken(trace));
	orion_trace_destroy(trace);
}

/* What is under way when it stops is answered later. */
static void test_nothing_is_kept_after_the_stop(void)
{
	struct orion_trace *trace = trace_of(3, false);
	struct orion_trace_record found[4];
	struct orion_trace_counts counts;
	uint64_t next;

	orion_trace_stop(NULL);
	CHECK(add(trace, 0) == 0 && !orion_trace_is_stopped(trace));
	const uint64_t under_way = orion_trace_begin(trace, &(struct orion_trace_record){.t_ns = 1});

	orion_trace_stop(trace);
	orion_trace_stop(trace);
	CHECK(orion_trace_is_stopped(trace) && add(trace, 2) == ORION_TRACE_NONE);
	orion_trace_end(trace, 0, ORION_TRACE_HIT, 0);
	orion_trace_end(trace, under_way, ORION_TRACE_HIT, 0);
	orion_trace_count(trace, &counts);
	CHECK(counts.kept == 0 && counts.lost == 0);
	CHECK(orion_trace_since(trace, 0, found, 4, &next) == 0);
	orion_trace_destroy(trace);
}

static void test_names(void)
{
	struct orion_trace *trace = trace_of(8, false);
	struct orion_trace_record found[8];
	const uint32_t self = (uint32_t)syscall(SYS_gettid);
	uint32_t child = 0;
	uint64_t next;

	CHECK(prctl(PR_SET_NAME, "fifteen letters") == 0);
	orion_trace_begin(trace, &(struct orion_trace_record){.pid = self});
	CHECK(prctl(PR_SET_NAME, "b") == 0); /* as exec() does */
	orion_trace_begin(trace, &(struct orion_trace_record){.pid = self});
	orion_trace_begin(trace, &(struct orion_trace_record){.pid = 0});
	/* One whose number has the same place in the table, and is gone afterwards. */
	while (child % 16 != self % 16 || !child) {
		child = (uint32_t)fork();
		if (!child)
			_exit(0);
		if (child % 16 == self % 16)
			orion_trace_begin(trace, &(struct orion_trace_record){.pid = child});
		CHECK(waitpid((pid_t)child, NULL, 0) == (pid_t)child);
	}
	orion_trace_begin(trace, &(struct orion_trace_record){.pid = child});
	orion_trace_begin(trace, &(struct orion_trace_record){.pid = self});
	CHECK(orion_trace_since(trace, 0, found, 8, &next) == 6);
	CHECK(strcmp(found[0].comm, "fifteen letters") == 0 && strcmp(found[1].comm, "b") == 0);
	CHECK(!*found[2].comm && strcmp(found[3].comm, "b") == 0 && !*found[4].comm && strcmp(found[5].comm, "b") == 0);
	orion_trace_destroy(trace);
}

static void *write_many(void *argument)
{
	const uint32_t self = (uint32_t)syscall(SYS_gettid);

	for (uint32_t i = 0; i < EACH; i++) {
		const struct orion_trace_record record = {.inode = self, .length = i, .pid = self};
		const uint64_t number = orion_trace_begin(argument, &record);

		orion_trace_end(argument, number, ORION_TRACE_LATE, i);
	}
	return NULL;
}

static void test_many_writers(void)
{
	struct orion_trace *trace = trace_of(WRITERS * EACH, false);
	struct orion_trace_record *found = calloc(WRITERS * EACH, sizeof(*found));
	uint32_t written[WRITERS][2] = {0}; /* thread, records */
	pthread_t threads[WRITERS];
	uint64_t next;
	size_t count = 0;

	CHECK(found);
	for (int i = 0; i < WRITERS; i++)
		CHECK(pthread_create(&threads[i], NULL, write_many, trace) == 0);
	while (count < WRITERS * EACH)
		count = orion_trace_since(trace, 0, found, WRITERS * EACH, &next);
	for (int i = 0; i < WRITERS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(orion_trace_since(trace, 0, found, WRITERS * EACH, &next) == WRITERS * EACH && next == WRITERS * EACH);
	for (size_t i = 0; i < WRITERS * EACH; i++) {
		int who = 0;

		while (written[who][0] && written[who][0] != found[i].inode)
			CHECK(++who < WRITERS);
		written[who][0] = found[i].inode;
		CHECK(found[i].length == written[who][1]++ && found[i].blocks_missed == found[i].length);
		CHECK(found[i].outcome == ORION_TRACE_LATE && *found[i].comm);
	}
	free(found);
	orion_trace_destroy(trace);
}

/* A request that the stage hands in, and waits for. */
static void ask(struct stage *stage, uint32_t opcode, enum inode inode, const void *body, size_t length)
{
	_Alignas(8) uint8_t request[128];
	const struct fuse_in_header header = {.len = (uint32_t)(sizeof header + length), .opcode = opcode, .unique = 2,
					      .nodeid = (uint64_t)inode + 1, .pid = (uint32_t)getpid()};

	memcpy(request, &header, sizeof header);
	memcpy(request + sizeof header, body, length);
	CHECK(stage_send(stage, request, header.len));
	while (orion_served_in_flight(stage->served))
		sched_yield();
}

static void read_from(struct stage *stage, enum inode inode, uint64_t offset, uint32_t size)
{
	ask(stage, FUSE_READ, inode, &(struct fuse_read_in){.offset = offset, .size = size}, sizeof(struct fuse_read_in));
}

static struct sample *open_stage(struct stage *stage, enum stage_server server, struct orion_trace *trace)
{
	struct sample *sample = make_sample();
	const struct stage_options options = {
		.cache_size = 1 << 20, .server_count = 1, .servers = {server}, .served = {trace, true, false}};
	struct orion_manifest manifest;

	CHECK(orion_manifest_open((const uint8_t *)sample, sizeof *sample, &manifest) == 0);
	stage_open(stage, &manifest, &options);
	return sample;
}

static void test_requests(void)
{
	struct orion_trace *trace = trace_of(8, false);
	struct orion_trace_record found[8];
	struct stage stage;
	uint64_t next;
	struct sample *sample = open_stage(&stage, STAGE_GOOD, trace);

	ask(&stage, FUSE_LOOKUP, ROOT, "twin", 5);
	ask(&stage, FUSE_LOOKUP, ROOT, "bin", 4); /* no file: not recorded */
	ask(&stage, FUSE_LOOKUP, ROOT, "none", 5);
	read_from(&stage, SH, BLOCK + 100, 3 * BLOCK);
	read_from(&stage, SH, BLOCK, 10); /* part of a block that is there now */
	read_from(&stage, SPARSE, 0, BLOCK); /* a hole */
	CHECK(orion_trace_since(trace, 0, found, 8, &next) == 5);
	CHECK(found[0].kind == ORION_TRACE_LOOKUP && found[0].inode == SH && found[0].pid == (uint32_t)getpid());
	CHECK(found[1].kind == ORION_TRACE_READ && found[1].inode == SH && found[1].offset == BLOCK + 100);
	CHECK(found[1].length == BLOCK && found[1].outcome == ORION_TRACE_MISS && found[1].blocks_missed == 2);
	CHECK(found[1].t_ns >= found[0].t_ns && found[1].wait_ns > 0 && *found[1].comm);
	CHECK(found[2].kind == ORION_TRACE_FETCH && found[2].reason == ORION_TRACE_DEMAND);
	CHECK(found[2].outcome == ORION_TRACE_HIT && found[2].wait_ns != ORION_TRACE_WAITING);
	CHECK(found[2].inode == 1 && found[2].blocks_missed == 2 && !found[2].pid && !*found[2].comm);
	CHECK(found[2].length == sample->blocks[1].length + sample->blocks[2].length);
	CHECK(found[3].outcome == ORION_TRACE_HIT && !found[3].blocks_missed && found[3].length == 10);
	CHECK(found[4].outcome == ORION_TRACE_HIT && found[4].inode == SPARSE);
	stage_close(&stage);
	close(stage.answers);
	free(sample);
	sample = open_stage(&stage, STAGE_DAMAGED, trace);
	read_from(&stage, SH, 0, BLOCK);
	CHECK(orion_trace_since(trace, next, found, 8, &next) == 2 && found[0].outcome == ORION_TRACE_ERROR);
	CHECK(found[1].kind == ORION_TRACE_FETCH && found[1].outcome == ORION_TRACE_ERROR);
	stage_close(&stage);
	close(stage.answers);
	free(sample);
	orion_trace_destroy(trace);
}

/* A block that is fetched ahead of its reads: its pack cannot be opened while somebody has a lease on it. */
static void test_late(void)
{
	static const uint32_t block = 3; /* SPARSE's second */
	const struct fuse_read_in in = {.offset = BLOCK, .size = 100};
	struct orion_trace *trace = trace_of(8, false);
	struct orion_trace_record found[8];
	struct stage stage;
	bool departed;
	char path[100];
	uint64_t next;
	struct sample *sample = open_stage(&stage, STAGE_GOOD, trace);
	_Alignas(8) uint8_t request[sizeof(struct fuse_in_header) + sizeof in];
	const struct fuse_in_header header = {
		.len = sizeof request, .opcode = FUSE_READ, .unique = 2, .nodeid = SPARSE + 1};

	snprintf(path, sizeof path, "%s/%d/packs/" SAMPLE_PACK, stage_top, STAGE_GOOD);
	const int pack = open(path, O_RDWR | O_CLOEXEC);

	CHECK(signal(SIGIO, SIG_IGN) != SIG_ERR && pack >= 0 && fcntl(pack, F_SETLEASE, F_WRLCK) == 0);
	orion_fetch_prefetch(stage.fetch, 0, &block, 1, &departed);
	CHECK(departed && orion_fetch_find(stage.fetch, block) == ORION_COMING && !orion_fetch_peek(stage.fetch, block));
	memcpy(request, &header, sizeof header);
	memcpy(request + sizeof header, &in, sizeof in);
	for (int i = 0; i < 2; i++)
		CHECK(stage_send(&stage, request, sizeof request));
	CHECK(orion_trace_since(trace, 0, found, 8, &next) == 3 && found[2].wait_ns == ORION_TRACE_WAITING);
	CHECK(found[0].kind == ORION_TRACE_FETCH && found[0].reason == ORION_TRACE_AHEAD && found[0].inode == block);
	CHECK(orion_served_in_flight(stage.served) == 2);
	CHECK(fcntl(pack, F_SETLEASE, F_UNLCK) == 0 && close(pack) == 0);
	while (orion_served_in_flight(stage.served))
		sched_yield();
	stage_close(&stage);
	close(stage.answers);
	CHECK(orion_trace_since(trace, 0, found, 8, &next) == 3 && found[0].outcome == ORION_TRACE_HIT);
	for (int i = 1; i < 3; i++)
		CHECK(found[i].outcome == ORION_TRACE_LATE && found[i].blocks_missed == 1 && found[i].wait_ns > 0);
	free(sample);
	orion_trace_destroy(trace);
}

/* Takes a number of bytes off the front of what is left. */
static const void *take(const uint8_t **bytes, size_t *left, size_t length)
{
	const uint8_t *taken = *bytes;

	CHECK(*left >= length);
	*bytes += length;
	*left -= length;
	return taken;
}

static uint32_t take_u32(const uint8_t **bytes, size_t *left)
{
	uint32_t value;

	memcpy(&value, take(bytes, left, sizeof value), sizeof value);
	return value;
}

static void check_file(const uint8_t *bytes, size_t left, const struct sample *sample)
{
	struct orion_trace_header header;
	uint16_t length;
	uint64_t size;

	memcpy(&header, take(&bytes, &left, sizeof header), sizeof header);
	CHECK(memcmp(header.magic, ORION_TRACE_MAGIC, 8) == 0 && header.version == 2 && header.record_count == 5);
	CHECK(header.flags == (ORION_TRACE_FIRST_TOUCHES | ORION_TRACE_DEGRADED) && header.lost == 1);
	CHECK(header.block_size == BLOCK && strcmp(header.name, "sample") == 0 && strcmp(header.label, "1") == 0);
	CHECK(memcmp(header.digest, sample->header.digest, sizeof header.digest) == 0);
	take(&bytes, &left, 5 * sizeof(struct orion_trace_record));
	CHECK(memcmp(take(&bytes, &left, 8), ORION_TRACE_NAMES_MAGIC, 8) == 0);
	CHECK(take_u32(&bytes, &left) == 2 && take_u32(&bytes, &left) == SH);
	memcpy(&length, take(&bytes, &left, sizeof length), sizeof length);
	CHECK(length == 4 && memcmp(take(&bytes, &left, length), "twin", 4) == 0);
	memcpy(&size, take(&bytes, &left, sizeof size), sizeof size);
	CHECK(size == 2 * BLOCK + 100 && take_u32(&bytes, &left) == SPARSE);
	memcpy(&length, take(&bytes, &left, sizeof length), sizeof length);
	CHECK(length == 6 && memcmp(take(&bytes, &left, length), "sparse", 6) == 0);
	take(&bytes, &left, sizeof size);
	/* SH: blocks 0 to 2, each once; SPARSE: block 0, a hole, and block 1. */
	CHECK(take_u32(&bytes, &left) == 5);
	for (uint32_t i = 0; i < 5; i++) {
		static const uint8_t hole[ORION_DIGEST_MAX];
		const int block = (int[]){0, 1, 2, -1, 3}[i];

		CHECK(take_u32(&bytes, &left) == (i < 3 ? SH : SPARSE));
		CHECK(take_u32(&bytes, &left) == i % 3);
		CHECK(memcmp(bytes, block < 0 ? hole : sample->digests[block], 16) == 0);
		take(&bytes, &left, ORION_DIGEST_MAX);
	}
	CHECK(left == 0);
}

static void add_read(struct orion_trace *trace, enum inode inode, uint64_t offset, uint32_t length)
{
	const struct orion_trace_record record = {.inode = inode, .offset = offset, .length = length};

	orion_trace_end(trace, orion_trace_begin(trace, &record), ORION_TRACE_HIT, 0);
}

static void test_file(void)
{
	struct orion_trace *trace = trace_of(6, false);
	struct sample *sample = make_sample();
	struct orion_manifest manifest;
	uint8_t *bytes;
	size_t length;

	CHECK(orion_manifest_open((const uint8_t *)sample, sizeof *sample, &manifest) == 0);
	/* Its number is a block's, and names no file. */
	const uint64_t fetch = orion_trace_begin(
		trace, &(struct orion_trace_record){.kind = ORION_TRACE_FETCH, .inode = EMPTY, .length = 1});

	orion_trace_end(trace, fetch, ORION_TRACE_HIT, 1);
	add_read(trace, SPARSE, 100, BLOCK);
	add_read(trace, SH, 2 * BLOCK, 100);
	add_read(trace, SH, 0, 2 * BLOCK);
	orion_trace_begin(trace, &(struct orion_trace_record){.inode = EMPTY}); /* not answered: left out */
	add_read(trace, SH, BLOCK, BLOCK + 100);
	add_read(trace, SH, 0, 1); /* lost */
	CHECK(orion_trace_file_create(trace, &manifest, ORION_TRACE_FIRST_TOUCHES, &bytes, &length) == 0);
	check_file(bytes, length, sample);
	orion_trace_file_destroy(bytes);
	orion_trace_destroy(trace);
	free(sample);
}

/* Directories that hold each other, names that lead nowhere, inodes that do not exist. */
static void test_file_of_a_hostile_manifest(void)
{
	struct orion_trace *trace = trace_of(8, false);
	struct sample *sample = make_sample();
	struct orion_manifest manifest;
	uint8_t *bytes;
	size_t length;

	sample->dirents[6] = sample->dirents[7];
	sample->inodes[BIN].parent = SUB;
	sample->inodes[SUB] = (struct orion_inode){
		.mode = S_IFDIR | 0700, .nlink = 2, .parent = BIN, .first = 0, .count = UINT32_MAX};
	sample->dirents[0].inode = BIN;
	sample->dirents[3].inode = UINT32_MAX - 1;
	sample->extents[0].block = 77;
	CHECK(orion_manifest_open((const uint8_t *)sample, sizeof *sample, &manifest) == 0);
	for (uint32_t inode = 0; inode < INODES + 2u; inode++)
		add_read(trace, inode, UINT64_MAX - 5, UINT32_MAX);
	add_read(trace, SH, 0, BLOCK);
	if (orion_trace_file_create(trace, &manifest, 0, &bytes, &length) == 0)
		orion_trace_file_destroy(bytes);
	orion_trace_destroy(trace);
	free(sample);
}

int main(void)
{
	stage_make_servers();
	test_limits();
	test_first_are_kept();
	test_newest_are_kept();
	test_watching();
	test_nothing_is_kept_after_the_stop();
	test_names();
	test_many_writers();
	test_requests();
	test_late();
	test_file();
	test_file_of_a_hostile_manifest();
	puts("test_trace: ok");
	return 0;
}
