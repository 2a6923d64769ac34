/* A release's answers, and what becomes of them when its manifest is not as a builder would have left it. */
#define _GNU_SOURCE
#include "check.h"
#include "stage.h"

#include <sched.h>
#include <stdatomic.h>

/* The longest answer that is asked for here. */
#define ANSWER_MAX (4 * BLOCK)

struct answer {
	struct fuse_out_header header;
	uint8_t bytes[ANSWER_MAX];
};

static struct stage stage;

static void open_stage(const struct sample *sample, enum stage_server server)
{
	const struct stage_options options = {
		.cache_size = 1 << 20, .compressed_size = 1 << 20, .server_count = 1, .servers = {server}};
	struct orion_manifest manifest;

	CHECK(orion_manifest_open((const uint8_t *)sample, sizeof *sample, &manifest) == 0);
	stage_open(&stage, &manifest, &options);
}

static void close_stage(void)
{
	stage_close(&stage);
	close(stage.answers);
}

/* The answer is there; blocks that are pushed (unique 0) may be as well. */
static bool find_answer(struct answer *ret)
{
	for (off_t at = 0;; at += ret->header.len) {
		const ssize_t got = pread(stage.answers, ret, sizeof *ret, at);

		/* Or only its beginning yet. */
		if (got < (ssize_t)sizeof ret->header || got < ret->header.len)
			return false;
		if (ret->header.unique)
			return true;
	}
}

/* The answer to the only request that is under way: its error, or the length of what it brings. */
static int ask(uint32_t opcode, enum inode inode, const void *body, size_t length, struct answer *ret)
{
	_Alignas(8) uint8_t request[256];
	const struct fuse_in_header header = {
		.len = (uint32_t)(sizeof header + length), .opcode = opcode, .unique = 2, .nodeid = (uint64_t)inode + 1};

	memcpy(request, &header, sizeof header);
	memcpy(request + sizeof header, body, length);
	CHECK(ftruncate(stage.answers, 0) == 0);
	CHECK(stage_send(&stage, request, header.len));
	while (!find_answer(ret))
		sched_yield();
	CHECK(ret->header.unique == 2);
	CHECK(!ret->header.error || ret->header.len == sizeof ret->header);
	return ret->header.error ? ret->header.error : (int)(ret->header.len - sizeof ret->header);
}

static int ask_to_read(enum inode inode, uint64_t offset, uint32_t size, struct answer *ret)
{
	return ask(FUSE_READ, inode, &(struct fuse_read_in){.offset = offset, .size = size}, sizeof(struct fuse_read_in),
		   ret);
}

/* Where it is, or the error. */
static int64_t ask_to_seek(enum inode inode, uint64_t offset, uint32_t whence)
{
	struct answer answer;
	struct fuse_lseek_out out;
	const int got = ask(FUSE_LSEEK, inode, &(struct fuse_lseek_in){.offset = offset, .whence = whence},
			    sizeof(struct fuse_lseek_in), &answer);

	if (got < 0)
		return got;
	CHECK(got == sizeof out);
	memcpy(&out, answer.bytes, sizeof out);
	return (int64_t)out.offset;
}

static void test_answers(void)
{
	struct sample *sample = make_sample();
	uint8_t content[SAMPLE_CONTENT];
	struct fuse_entry_out entry;
	struct answer answer;

	sample_content(content);
	open_stage(sample, STAGE_GOOD);
	CHECK(ask(FUSE_LOOKUP, ROOT, "twin", 5, &answer) == sizeof entry);
	memcpy(&entry, answer.bytes, sizeof entry);
	CHECK(entry.nodeid == SH + 1 && entry.attr.size == 2 * BLOCK + 100 && entry.attr.nlink == 2);
	CHECK(ask(FUSE_LOOKUP, ROOT, "twin", 4, &answer) == -EINVAL);
	CHECK(ask(FUSE_READLINK, LINK, "", 0, &answer) == 6 && memcmp(answer.bytes, "bin/sh", 6) == 0);
	for (int turn = 0; turn < 2; turn++) {
		CHECK(ask_to_read(SH, 0, ANSWER_MAX, &answer) == 2 * BLOCK + 100);
		CHECK(memcmp(answer.bytes, content, 2 * BLOCK + 100) == 0);
		CHECK(ask_to_read(SPARSE, 10, 2 * BLOCK, &answer) == 2 * BLOCK && answer.bytes[BLOCK - 11] == 0);
		CHECK(memcmp(answer.bytes + BLOCK - 10, content + 2 * BLOCK + 100, BLOCK) == 0);
	}
	CHECK(ask_to_read(EMPTY, 0, 1, &answer) == 0 && ask_to_read(ROOT, 0, 1, &answer) == -EISDIR);
	close_stage();
	free(sample);
}

static void test_servers(void)
{
	struct sample *sample = make_sample();
	struct answer answer;

	open_stage(sample, STAGE_DAMAGED);
	CHECK(ask_to_read(SH, 0, BLOCK, &answer) == -EIO && ask_to_read(SH, BLOCK, BLOCK, &answer) == BLOCK);
	close_stage();
	open_stage(sample, STAGE_SHORT);
	CHECK(ask_to_read(SH, 0, BLOCK, &answer) == BLOCK && ask_to_read(SH, BLOCK, BLOCK, &answer) == -EIO);
	close_stage();
	open_stage(sample, STAGE_EMPTY);
	CHECK(ask_to_read(SH, 0, BLOCK, &answer) == -EIO);
	close_stage();
	free(sample);
}

/* A block of 100 bytes and one of 4096 that claim to be the same: each is what it is, or nothing. */
static void test_one_digest_for_two_blocks(void)
{
	struct sample *sample = make_sample();
	struct answer answer;

	memcpy(sample->digests[3], sample->digests[2], 16);
	open_stage(sample, STAGE_GOOD);
	for (int turn = 0; turn < 2; turn++) {
		CHECK(ask_to_read(SH, 2 * BLOCK, 50, &answer) == 50); /* half of it: it is kept */
		CHECK(ask_to_read(SPARSE, BLOCK, BLOCK, &answer) == -EIO);
	}
	close_stage();
	free(sample);
}

/* Blocks that no file leads to, which only a list of numbers names. */
static void test_fetch_ahead_of_broken_blocks(void)
{
	static const uint32_t numbers[] = {0, 1, 2, 3, 4, UINT32_MAX};
	struct sample *sample = make_sample();
	struct orion_fetch_statistics statistics;
	bool departed[6];

	sample->blocks[0].pack = 1;
	sample->blocks[1].length = UINT32_MAX;
	sample->blocks[2].offset = UINT64_MAX - 50;
	open_stage(sample, STAGE_GOOD);
	orion_fetch_prefetch(stage.fetch, 0, numbers, sizeof numbers / sizeof *numbers, departed);
	do {
		sched_yield();
		orion_fetch_statistics(stage.fetch, &statistics);
	} while (statistics.flights);
	CHECK(statistics.ahead_blocks == 1 && statistics.failed_blocks == 0);
	for (int i = 0; i < 6; i++) {
		struct orion_block *block = orion_fetch_peek(stage.fetch, numbers[i]);

		CHECK(departed[i] == (i == 3) && !!block == departed[i]);
		CHECK(orion_fetch_find(stage.fetch, numbers[i]) == (departed[i] ? ORION_PRESENT : ORION_ABSENT));
		orion_block_release(block);
	}
	close_stage();
	free(sample);
}

/* The last hole has 16 TiB: it is one step, not four milliards. */
static void note_done(struct orion_read *read)
{
	*(_Atomic bool *)read->context = true;
}

/* A read of the kernel's, which keeps what it gets. */
static void read_kept(uint64_t offset, uint32_t size, bool alone)
{
	struct orion_fetch_statistics seen;
	struct orion_read *read;
	static _Atomic bool done;

	CHECK(orion_read_create(stage.fetch, SH, offset, size, 0, &read) == 0);
	done = false;
	read->kept = true;
	read->alone = alone;
	read->done = note_done;
	read->context = (void *)&done;
	if (!orion_fetch_read(stage.fetch, read))
		while (!done)
			sched_yield();
	CHECK(read->error == 0 && read->length == size);
	orion_read_destroy(read);
	do
		orion_fetch_statistics(stage.fetch, &seen);
	while (seen.flights);
}

static bool is_stored(uint32_t number)
{
	struct orion_block *block = orion_fetch_peek(stage.fetch, number);

	orion_block_release(block);
	return block;
}

/* What the kernel has whole is not read around a miss, until it asks for some of it again. */
static void test_not_around_what_the_kernel_has(void)
{
	const struct stage_options options = {.cache_size = 1 << 20,
					      .compressed_size = 1 << 20,
					      .read_around = 4 * BLOCK,
					      .direct = true,
					      .server_count = 1,
					      .servers = {STAGE_GOOD}};
	struct sample *sample = make_sample();
	struct orion_manifest manifest;
	struct orion_block_of_file first;

	CHECK(orion_manifest_open((const uint8_t *)sample, sizeof *sample, &manifest) == 0);
	CHECK(orion_manifest_block(&manifest, SH, 0, &first) == 0);
	for (int dropped = 0; dropped < 2; dropped++) {
		stage_open(&stage, &manifest, &options);
		read_kept(0, BLOCK, true);
		if (dropped) {
			read_kept(0, 100, true);
			read_kept(100, BLOCK - 100, true);
		}
		CHECK(!is_stored(first.number));
		CHECK(orion_fetch_find(stage.fetch, first.number) == (dropped ? ORION_ABSENT : ORION_PRESENT));
		read_kept(BLOCK, BLOCK, false);
		CHECK(is_stored(first.number) == dropped && orion_fetch_find(stage.fetch, first.number) == ORION_PRESENT);
		close_stage();
	}
	/* A push says so as well. */
	stage_open(&stage, &manifest, &options);
	orion_fetch_given(stage.fetch, first.number);
	read_kept(BLOCK, BLOCK, false);
	CHECK(!is_stored(first.number));
	close_stage();
	free(sample);
}

static void test_seek(void)
{
	struct sample *sample = make_sample();
	const uint64_t size = (2 + 0xfffffff0ull) * BLOCK;

	sample->inodes[SPARSE].size = size;
	sample->extents[3].count = 0xfffffff0u;
	open_stage(sample, STAGE_GOOD);
	CHECK(ask_to_seek(SPARSE, 5, SEEK_HOLE) == 5 && ask_to_seek(SPARSE, 5, SEEK_DATA) == BLOCK);
	CHECK(ask_to_seek(SPARSE, BLOCK + 5, SEEK_DATA) == BLOCK + 5);
	CHECK(ask_to_seek(SPARSE, BLOCK + 5, SEEK_HOLE) == 2 * BLOCK);
	CHECK(ask_to_seek(SPARSE, 2 * BLOCK, SEEK_DATA) == -ENXIO);
	CHECK(ask_to_seek(SPARSE, size - 1, SEEK_HOLE) == (int64_t)size - 1 && ask_to_seek(SPARSE, size, SEEK_HOLE) == -ENXIO);
	CHECK(ask_to_seek(SH, 1, SEEK_HOLE) == 2 * BLOCK + 100 && ask_to_seek(SH, 1, SEEK_DATA) == 1);
	CHECK(ask_to_seek(SH, 1, SEEK_SET) == -EINVAL && ask_to_seek(EMPTY, 0, SEEK_DATA) == -ENXIO);
	close_stage();
	/* Blocks that no extent has. */
	sample->extents[3].count = 1;
	open_stage(sample, STAGE_GOOD);
	CHECK(ask_to_seek(SPARSE, 2 * BLOCK, SEEK_DATA) == -EIO && ask_to_seek(SPARSE, size - 1, SEEK_HOLE) == -EIO);
	close_stage();
	free(sample);
}

/* While the first server's end is waited for, what fails on the second one is handed back to it. */
static void test_end_while_servers_fail(void)
{
	const struct stage_options options = {.server_count = 2, .servers = {STAGE_EMPTY, STAGE_EMPTY}};
	struct sample *sample = make_sample();
	struct orion_manifest manifest;

	CHECK(orion_manifest_open((const uint8_t *)sample, sizeof *sample, &manifest) == 0);
	for (int turn = 0; turn < 500; turn++) {
		static const uint32_t numbers[] = {3, 2, 1, 0};
		bool departed;

		stage_open(&stage, &manifest, &options);
		/* Each by itself, half of them on the one server, half on the other. */
		for (int i = 0; i < 4; i++) {
			orion_fetch_prefetch(stage.fetch, UINT32_MAX, numbers + i, 1, &departed);
			orion_upstreams_prefer(stage.upstreams, (uint32_t)(i + 1) % 2);
		}
		close_stage();
	}
	free(sample);
}

static _Atomic int waiting;

/* Keeps a reader thread until the answer is there. */
static int wait_for_answer(struct orion_job *job, uint32_t server)
{
	struct answer answer;

	(void)job;
	(void)server;
	waiting++;
	while (!find_answer(&answer))
		sched_yield();
	return 0;
}

static void ignore_end(struct orion_job *job, int error)
{
	(void)job;
	(void)error;
}

static void ignore_drop(struct orion_job *job)
{
	(void)job;
}

/* A read that was tried at once, in vain, is cancelled before a thread has taken it: nothing was read. */
static void test_cancelled_before_it_was_read(void)
{
	const struct {
		struct fuse_in_header header;
		struct fuse_read_in in;
	} request = {
		{.len = sizeof request, .opcode = FUSE_READ, .unique = 2, .nodeid = SH + 1},
		{.offset = BLOCK, .size = BLOCK},
	};
	struct sample *sample = make_sample();
	struct orion_job jobs[2]; /* as many as there are readers */
	struct answer answer;

	open_stage(sample, STAGE_SHORT);
	/* The pack is open from here on. */
	CHECK(ask_to_read(SH, 0, 10, &answer) == 10 && ftruncate(stage.answers, 0) == 0);
	for (int i = 0; i < 2; i++) {
		jobs[i] = (struct orion_job){
			.run = wait_for_answer, .finish = ignore_end, .drop = ignore_drop, .urgent = true};
		orion_upstreams_submit(stage.upstreams, 0, &jobs[i]);
	}
	while (waiting < 2)
		sched_yield();
	CHECK(stage_send(&stage, (const uint8_t *)&request, sizeof request));
	stage_close(&stage);
	CHECK(find_answer(&answer) && answer.header.error == -EIO);
	close(stage.answers);
	free(sample);
}

int main(void)
{
	stage_make_servers();
	test_answers();
	test_servers();
	test_one_digest_for_two_blocks();
	test_fetch_ahead_of_broken_blocks();
	test_not_around_what_the_kernel_has();
	test_seek();
	test_end_while_servers_fail();
	test_cancelled_before_it_was_read();
	puts("test_release: ok");
	return 0;
}
