/* Files that are opened before anybody needs them: they are found open, in a bounded number, and one that has become stale
 * meanwhile, that is missing, or that a server never opens, costs whoever needs it no more than without.
 */
#define _GNU_SOURCE
#include "check.h"
#include "packs.h"
#include "stage.h"
#include "whole.h"

#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define DEADLINE_NS 400000000u
#define PACKS 11

static _Atomic int stale_reads; /* so many reads of blocks say ESTALE yet */
static _Atomic int opens; /* of files called *.pack */

/* In place of the C library's. */
ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
	if (stale_reads > 0 && stale_reads-- > 0) {
		errno = ESTALE;
		return -1;
	}
	return syscall(SYS_preadv2, fd, parts, count, offset, 0, flags);
}

int openat(int directory, const char *path, int flags, ...)
{
	const size_t length = strlen(path);

	opens += length > 5 && strcmp(path + length - 5, ".pack") == 0;
	return (int)syscall(SYS_openat, directory, path, flags, 0);
}

static void wait_for_pack(struct orion_upstreams *all, struct orion_packs *packs, uint32_t pack, uint32_t server)
{
	struct orion_borrowed borrowed;

	while (orion_packs_borrow(packs, pack, server, &borrowed) < 0)
		usleep(1000);
	orion_upstreams_return(all, &borrowed);
}

static struct orion_upstreams *make_server(const char *path)
{
	struct orion_upstreams *all;

	CHECK(orion_upstreams_create(&(struct orion_upstream_options){.readers = 2, .deadline_ns = DEADLINE_NS}, NULL, &all) == 0);
	CHECK(orion_upstreams_add(all, open(path, O_PATH | O_CLOEXEC), path, false) == 0);
	return all;
}

static _Atomic bool done;

static void note_done(struct orion_read *read)
{
	(void)read;
	done = true;
}

static void test_stale_since_it_was_opened(void)
{
	struct sample *sample = make_sample();
	const struct stage_options options = {.cache_size = 1 << 20,
					      .compressed_size = 1 << 20,
					      .direct = true,
					      .server_count = 1,
					      .servers = {STAGE_GOOD}};
	struct orion_manifest manifest;
	struct orion_read *read;
	struct orion_server_statistics seen;
	static struct stage stage;

	CHECK(orion_manifest_open((const uint8_t *)sample, sizeof *sample, &manifest) == 0);
	stage_open(&stage, &manifest, &options);
	opens = 0;
	orion_fetch_prepare(stage.fetch, 0);
	while (!opens)
		usleep(1000);
	stale_reads = 1;
	CHECK(orion_read_create(stage.fetch, SH, 0, BLOCK, 0, &read) == 0);
	read->done = note_done;
	if (!orion_fetch_read(stage.fetch, read))
		while (!done)
			usleep(1000);
	CHECK(read->error == 0 && read->length == BLOCK && stale_reads == 0);
	orion_upstreams_statistics(stage.upstreams, &seen);
	CHECK(seen.state == ORION_GOOD && seen.errors == 0);
	orion_read_destroy(read);
	stage_close(&stage);
	close(stage.answers);
	free(sample);
}

/* Eight at most, the largest. */
static void test_few_of_many(void)
{
	struct orion_pack records[PACKS];
	struct orion_manifest manifest = {.packs = records, .pack_count = PACKS};
	struct orion_upstreams *all = make_server(stage_top);
	char path[100], name[40];
	struct orion_packs *packs;

	snprintf(path, sizeof path, "%s/packs", stage_top);
	CHECK(mkdir(path, 0755) == 0);
	memset(records, 0, sizeof records);
	for (uint32_t i = 0; i < PACKS; i++) {
		records[i].id[15] = (uint8_t)i;
		records[i].size = 100 + i * 7 % PACKS;
		snprintf(name, sizeof name, "%032x.pack", i);
		snprintf(path, sizeof path, "%s/packs/%s", stage_top, name);
		CHECK(close(creat(path, 0644)) == 0);
	}
	CHECK(orion_packs_create(&manifest, all, &packs) == 0);
	opens = 0;
	orion_packs_open_early(packs, 0);
	for (uint32_t i = 0; i < PACKS; i++)
		if (records[i].size >= 100 + PACKS - 8)
			wait_for_pack(all, packs, i, 0);
	CHECK(orion_upstreams_destroy(all));
	CHECK(opens == 8);
	orion_packs_destroy(packs);
}

/* What nobody gets open: within a deadline, and no error is said of the server. */
static void test_missing_and_silent(void)
{
	struct orion_upstreams *all = make_server(stage_top);
	struct orion_kept_file missing, silent;
	struct orion_server_statistics seen;
	char path[100];
	const uint64_t began = orion_now_ns();

	snprintf(path, sizeof path, "%s/silent", stage_top);
	CHECK(mkfifo(path, 0600) == 0);
	orion_kept_file_init(&missing);
	orion_kept_file_init(&silent);
	orion_upstreams_keep_early(all, 0, &missing, "missing", 0);
	orion_upstreams_keep_early(all, 0, &silent, "silent", 0);
	do {
		usleep(1000);
		orion_upstreams_statistics(all, &seen);
	} while (!seen.timeouts);
	/* A machine under load may be late, but not by another deadline. */
	CHECK(orion_now_ns() - began < 2 * (uint64_t)DEADLINE_NS);
	CHECK(seen.state == ORION_SUSPECT && seen.errors == 0 && seen.stuck == 1);
	CHECK(orion_upstreams_kept(all, 0, &missing) == -1 && orion_upstreams_kept(all, 0, &silent) == -1);

	/* It comes back, and what it opened is kept. */
	const int writer = open(path, O_RDWR | O_CLOEXEC);

	CHECK(writer >= 0);
	while (orion_upstreams_kept(all, 0, &silent) < 0)
		usleep(1000);
	CHECK(orion_upstreams_destroy(all));
	orion_kept_file_close(&silent);
	close(writer);
}

/* A whole file by way of one that stays open. */
static void test_whole_from_a_kept_file(void)
{
	char path[100];
	struct orion_upstreams *all;
	struct orion_kept_file kept;
	uint8_t *bytes;
	size_t length;

	snprintf(path, sizeof path, "%s/%d", stage_top, STAGE_GOOD);
	all = make_server(path);
	orion_kept_file_init(&kept);
	const struct orion_whole_options options = {.most = 1 << 20, .want = 100, .kept = &kept};

	for (int turn = 0; turn < 2; turn++) {
		CHECK(orion_whole_get(all, 0, "packs/" SAMPLE_PACK, &options, &bytes, &length) == 0);
		CHECK(length == 100 && munmap(bytes, length) == 0);
		CHECK(orion_upstreams_kept(all, 0, &kept) >= 0);
	}
	CHECK(orion_upstreams_destroy(all));
	orion_kept_file_close(&kept);
}

int main(void)
{
	stage_make_servers();
	test_stale_since_it_was_opened();
	test_few_of_many();
	test_missing_and_silent();
	test_whole_from_a_kept_file();
	printf("test_early: ok\n");
	return 0;
}
