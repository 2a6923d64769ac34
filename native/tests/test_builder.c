/* The builder under sanitizers: a tree is built, built again from its scan, resumed from a journal that was cut at every
 * length, and audited. What is in the releases is tested from Python.
 */
#define _GNU_SOURCE
#include "audit.h"
#include "builder_parts.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define FILES 200
#define BLOCK 4096u

static char top[] = "/tmp/test-builder-XXXXXX";

static const char *path_of(const char *name)
{
	static char paths[4][300];
	static int next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof paths[0], "%s/%s", top, name);
	return path;
}

static void write_file(const char *path, const void *bytes, size_t length)
{
	const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	CHECK(fd >= 0 && write(fd, bytes, length) == (ssize_t)length && close(fd) == 0);
}

static void *read_file(const char *path, size_t *ret_length)
{
	const int fd = open(path, O_RDONLY);
	struct stat st;
	void *bytes;

	CHECK(fd >= 0 && fstat(fd, &st) == 0 && (bytes = malloc((size_t)st.st_size + 1)));
	CHECK(read(fd, bytes, (size_t)st.st_size) == st.st_size && close(fd) == 0);
	*ret_length = (size_t)st.st_size;
	return bytes;
}

static void make_tree(void)
{
	uint8_t bytes[5 * BLOCK];
	uint32_t state = 1;

	CHECK(mkdir(path_of("tree"), 0755) == 0 && mkdir(path_of("tree/d"), 0755) == 0);
	for (int i = 0; i < FILES; i++) {
		char name[64];

		for (size_t j = 0; j < sizeof bytes; j++)
			bytes[j] = (uint8_t)((state = state * 1664525u + 1013904223u) >> 24);
		snprintf(name, sizeof name, "tree/%s%d", i % 2 ? "d/" : "", i);
		write_file(path_of(name), bytes, (size_t)(i * 131 % (int)sizeof bytes));
	}
	CHECK(symlink("d/1", path_of("tree/link")) == 0);
	CHECK(link(path_of("tree/d/1"), path_of("tree/hard")) == 0);
	/* Not every file system has them. */
	(void)!setxattr(path_of("tree/d"), "user.test", "value", 5, 0);
	write_file(path_of("tree/hole"), "", 0);
	CHECK(truncate(path_of("tree/hole"), 1 << 30) == 0);
}

struct known {
	void *manifest, *scan;
	size_t manifest_length, scan_length;
};

static struct orion_builder_progress build(const char *work, uint32_t kind, const struct known *known)
{
	const struct orion_builder_options options = {
		.root = path_of("tree"),
		.work = path_of(work),
		.name = "name",
		.label = "1",
		.digest_kind = kind,
		.block_size = BLOCK,
		.jobs = 3,
	};
	struct orion_builder *builder;
	struct orion_builder_progress progress;

	mkdir(path_of(work), 0755);
	CHECK(orion_builder_create(&options, &builder) == 0);
	CHECK(orion_builder_exclude(builder, "nothing*") == 0 && orion_builder_exclude(builder, "/x/y") == 0);
	if (known)
		CHECK(orion_builder_add_release(builder, known->manifest, known->manifest_length, known->scan,
						known->scan_length) == 0);
	CHECK(orion_builder_resume(builder) == 0);
	CHECK(orion_builder_walk(builder) == 0);
	CHECK(orion_builder_hash(builder) == 0);
	CHECK(orion_builder_write(builder) == 0);
	orion_builder_progress(builder, &progress);
	CHECK(orion_builder_warning(builder, 0) == NULL);
	orion_builder_destroy(builder);
	return progress;
}

static char *in(const char *work, const char *file)
{
	static char path[2][100];
	static int next;

	snprintf(path[++next % 2], sizeof path[0], "%s/%s", work, file);
	return path[next % 2];
}

static struct known load(const char *work)
{
	struct known known;
	struct orion_manifest manifest;
	char problem[200] = "";

	known.manifest = read_file(path_of(in(work, "manifest")), &known.manifest_length);
	known.scan = read_file(path_of(in(work, "scan")), &known.scan_length);
	CHECK(orion_manifest_open(known.manifest, known.manifest_length, &manifest) == 0);
	CHECK(orion_manifest_verify(&manifest) == 0);
	if (orion_manifest_check(&manifest, problem, sizeof problem)) {
		fprintf(stderr, "%s\n", problem);
		exit(1);
	}
	return known;
}

static void free_known(struct known *known)
{
	free(known->manifest);
	free(known->scan);
}

static void test_build(uint32_t kind)
{
	struct orion_builder_progress first, second;
	struct known known;

	first = build("a", kind, NULL);
	CHECK(first.files == FILES + 1 && first.known_files == 0 && first.new_bytes == first.pack_bytes);
	known = load("a");
	second = build("b", kind, &known);
	CHECK(second.known_files == first.files_done && second.files_done == 0 && second.new_bytes == 0);
	free_known(&known);
}

/* A scan lies about its last file, in a record that is well formed: the others of it are not believed either. */
static void test_scan_that_is_wrong(void)
{
	struct known known = load("a");
	const struct orion_builder_options options = {
		.root = path_of("tree"), .work = path_of("a"), .name = "n", .label = "1", .digest_kind = ORION_XXH3_128,
		.block_size = BLOCK, .jobs = 1};
	struct orion_builder *builder;
	struct orion_builder_progress progress;
	struct scan_header *header = known.scan;
	struct scan_record *records = (struct scan_record *)(header + 1);

	CHECK(header->count > 1);
	records[header->count - 1].number = ORION_ROOT;
	header->checksum = checksum(records, header->count * sizeof *records);
	CHECK(orion_builder_create(&options, &builder) == 0);
	CHECK(orion_builder_add_release(builder, known.manifest, known.manifest_length, known.scan, known.scan_length) ==
	      -EBADMSG);
	CHECK(orion_builder_walk(builder) == 0);
	orion_builder_progress(builder, &progress);
	CHECK(progress.known_files == 0 && progress.store_blocks > 0);
	orion_builder_destroy(builder);
	free_known(&known);
}

static void test_audit(void)
{
	struct known known = load("a");
	struct orion_manifest manifest;
	struct orion_audit *audit;
	char name[100] = "packs/";
	uint8_t *verdicts;
	int packs;

	CHECK(orion_manifest_open(known.manifest, known.manifest_length, &manifest) == 0 && manifest.pack_count == 1);
	CHECK(mkdir(path_of("packs"), 0755) == 0);
	for (int i = 0; i < 16; i++)
		sprintf(name + strlen(name), "%02x", manifest.packs[0].id[i]);
	strcat(name, ".pack");
	CHECK(rename(path_of("a/new.pack"), path_of(name)) == 0);
	verdicts = malloc(manifest.block_count);
	packs = open(path_of("packs"), O_RDONLY | O_DIRECTORY);
	for (int turn = 0; turn < 3; turn++) {
		uint32_t counts[3] = {0};

		CHECK(orion_audit_create(&manifest, packs, 2, 0, &audit) == 0);
		CHECK(orion_audit_run(audit, verdicts) == 0);
		CHECK(orion_audit_done(audit) == manifest.header->stored_bytes);
		orion_audit_destroy(audit);
		for (uint32_t i = 0; i < manifest.block_count; i++)
			counts[verdicts[i]]++;
		if (turn == 0) {
			CHECK(counts[ORION_BLOCK_GOOD] == manifest.block_count);
			const int fd = open(path_of(name), O_WRONLY);

			CHECK(pwrite(fd, "?????", 5, 10) == 5 && close(fd) == 0);
		} else if (turn == 1) {
			CHECK(counts[ORION_BLOCK_DIFFERS] == 1);
			CHECK(truncate(path_of(name), 10000) == 0);
		} else {
			CHECK(counts[ORION_BLOCK_MISSING] > 0 && counts[ORION_BLOCK_DIFFERS] == 1);
		}
	}
	close(packs);
	free(verdicts);
	free_known(&known);
}

/* A build that was killed leaves a journal and a pack of any length: all of it is checked before it is believed. */
static void test_resume(void)
{
	struct orion_builder_progress whole, resumed;
	struct known known;
	void *journal, *pack;
	size_t journal_length, pack_length;

	whole = build("c", ORION_XXH3_128, NULL);
	journal = read_file(path_of("c/journal"), &journal_length);
	pack = read_file(path_of("c/new.pack"), &pack_length);
	for (size_t part = 0; part <= 12; part++) {
		mkdir(path_of("d"), 0755);
		write_file(path_of("d/journal"), journal, journal_length * part / 12);
		write_file(path_of("d/new.pack"), pack, pack_length * (part * 5 % 13) / 12);
		resumed = build("d", ORION_XXH3_128, NULL);
		CHECK(resumed.resumed_bytes + resumed.new_bytes == whole.new_bytes);
		known = load("d");
		free_known(&known);
	}
	for (size_t at = 0; at < journal_length; at += journal_length / 50) {
		((uint8_t *)journal)[at] ^= 0x81;
		write_file(path_of("d/journal"), journal, journal_length);
		write_file(path_of("d/new.pack"), pack, pack_length);
		resumed = build("d", ORION_XXH3_128, NULL);
		CHECK(resumed.resumed_bytes + resumed.new_bytes == whole.new_bytes);
		((uint8_t *)journal)[at] ^= 0x81;
	}
	free(journal);
	free(pack);
}

static void append_frame(const char *path, const void *bytes, size_t length)
{
	const struct frame frame = {length, checksum(bytes, length)};
	const int fd = open(path, O_WRONLY | O_APPEND);

	CHECK(fd >= 0 && write(fd, &frame, sizeof frame) == sizeof frame);
	CHECK(write(fd, bytes, length) == (ssize_t)length && close(fd) == 0);
}

/* Frames of a journal that are well formed, and wrong: they are left out, and all others hold, in this build and the
 * next. */
static void test_journal_that_is_wrong(void)
{
	struct {
		struct file_record record;
		struct orion_extent extent;
	} done = {{.kind = FILE_DONE, .extents = 1}, {.count = 1, .block = ORION_HOLE}};
	const uint32_t unknown[] = {9, 0};
	struct orion_builder_progress whole = build("e", ORION_XXH3_128, NULL), resumed;
	struct known known;
	struct stat st;

	/* A file of three blocks that would be one hole. */
	CHECK(stat(path_of("tree/d/91"), &st) == 0 && st.st_size > 2 * BLOCK);
	stamp_of(&st, &done.record.stamp);
	append_frame(path_of("e/journal"), &done, sizeof done);
	append_frame(path_of("e/journal"), unknown, sizeof unknown);
	for (int turn = 0; turn < 2; turn++) {
		resumed = build("e", ORION_XXH3_128, NULL);
		CHECK(resumed.resumed_bytes == whole.new_bytes && resumed.new_bytes == 0);
		known = load("e");
		free_known(&known);
	}
}

static void test_errors(void)
{
	struct orion_builder_options options = {
		.root = path_of("nothing"), .work = path_of("a"), .name = "n", .label = "1", .digest_kind = 1, .block_size = 4096,
		.jobs = 1};
	struct orion_builder *builder;
	uint8_t rubbish[600] = {0};

	CHECK(orion_builder_create(&options, &builder) == -ENOENT);
	options.root = path_of("tree");
	options.block_size = 5000;
	CHECK(orion_builder_create(&options, &builder) == -EINVAL);
	options.block_size = 4096;
	CHECK(orion_builder_create(&options, &builder) == 0);
	CHECK(orion_builder_add_release(builder, rubbish, sizeof rubbish, NULL, 0) == -EBADMSG);
	orion_builder_cancel(builder);
	CHECK(orion_builder_walk(builder) == -ECANCELED);
	CHECK(strcmp(orion_builder_error(builder), "cancelled") == 0);
	orion_builder_destroy(builder);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

int main(void)
{
	CHECK(mkdtemp(top));
	make_tree();
	/* What is younger than a tick of the clock is read again. */
	usleep(200000);
	test_build(ORION_BLAKE2B_256);
	CHECK(nftw(path_of("a"), remove_one, 20, FTW_DEPTH | FTW_PHYS) == 0);
	test_build(ORION_XXH3_128);
	test_scan_that_is_wrong();
	test_audit();
	test_resume();
	test_journal_that_is_wrong();
	test_errors();
	CHECK(nftw(top, remove_one, 20, FTW_DEPTH | FTW_PHYS) == 0);
	puts("test_builder: ok");
	return 0;
}
