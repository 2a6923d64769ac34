/* A small manifest that is right, and what becomes of it when a field is not. */
#define _GNU_SOURCE
#include "check.h"
#include "sample_manifest.h"
#include "walk_manifest.h"

#include <stdio.h>
#include <string.h>

static struct orion_manifest open_sample(const struct sample *sample)
{
	struct orion_manifest manifest;

	CHECK(orion_manifest_open((const uint8_t *)sample, sizeof *sample, &manifest) == 0);
	return manifest;
}

static int lookup(const struct orion_manifest *manifest, uint32_t directory, const char *name)
{
	uint32_t found = UINT32_MAX;
	int result = orion_manifest_lookup(manifest, directory, name, strlen(name), &found);

	return result ? result : (int)found;
}

static void test_names(void)
{
	struct sample *sample = make_sample();
	struct orion_manifest m = open_sample(sample);
	struct orion_name name;
	const char *target;
	size_t length;
	char longest[257], path[20];

	memset(longest, 'x', 256);
	longest[256] = 0;
	CHECK(orion_manifest_verify(&m) == 0);
	CHECK(lookup(&m, ROOT, "bin") == BIN && lookup(&m, BIN, "sub") == SUB && lookup(&m, BIN, "sh") == SH);
	CHECK(lookup(&m, ROOT, "empty") == EMPTY && lookup(&m, ROOT, "twin") == SH && lookup(&m, ROOT, "link") == LINK);
	CHECK(lookup(&m, ROOT, "a") == -ENOENT && lookup(&m, ROOT, "bi") == -ENOENT && lookup(&m, ROOT, "bin2") == -ENOENT);
	CHECK(lookup(&m, ROOT, "zz") == -ENOENT && lookup(&m, SUB, "x") == -ENOENT && lookup(&m, ROOT, ".") == -ENOENT);
	CHECK(lookup(&m, SH, "x") == -ENOTDIR && lookup(&m, INODES, "x") == -ESTALE);
	CHECK(lookup(&m, ROOT, longest) == -ENAMETOOLONG && lookup(&m, ROOT, longest + 1) == -ENOENT);
	CHECK(orion_manifest_entry(&m, BIN, 1, &name) == 0 && name.length == 3 && memcmp(name.text, "sub", 3) == 0 &&
	      name.inode == SUB && name.type == S_IFDIR >> 12);
	CHECK(orion_manifest_entry(&m, BIN, 2, &name) == -ENOENT && orion_manifest_entry(&m, SUB, 0, &name) == -ENOENT);
	CHECK(orion_manifest_target(&m, LINK, &target, &length) == 0 && length == 6 && memcmp(target, "bin/sh", 6) == 0);
	CHECK(orion_manifest_target(&m, SH, &target, &length) == -EINVAL);
	CHECK(orion_manifest_path(&m, SUB, path, sizeof path) == 0 && strcmp(path, "bin/sub") == 0);
	CHECK(orion_manifest_path(&m, SH, path, sizeof path) == 0 && strcmp(path, "twin") == 0);
	CHECK(orion_manifest_path(&m, ROOT, path, sizeof path) == 0 && strcmp(path, "") == 0);
	CHECK(orion_manifest_path(&m, SUB, path, 5) == 0 && strcmp(path, "bin/") == 0);
	free(sample);
}

static void test_content(void)
{
	struct sample *sample = make_sample();
	struct orion_manifest m = open_sample(sample);
	struct orion_block_of_file block;
	uint8_t digest[ORION_DIGEST_MAX];
	uint32_t user, at;

	CHECK(orion_manifest_block(&m, SH, 2, &block) == 0 && block.number == 2 && block.length == 100 &&
	      block.offset == 2 * BLOCK && block.pack == 0 && block.digest == sample->digests[2]);
	CHECK(orion_manifest_block(&m, SH, 3, &block) == -ENOENT);
	CHECK(orion_manifest_block(&m, SPARSE, 0, &block) == 0 && block.number == ORION_HOLE && !block.digest);
	CHECK(orion_manifest_block(&m, SPARSE, 1, &block) == 0 && block.number == 3);
	CHECK(orion_manifest_block(&m, SPARSE, 2, &block) == 0 && block.number == ORION_HOLE && block.length == BLOCK);
	CHECK(orion_manifest_block(&m, EMPTY, 0, &block) == -ENOENT);
	CHECK(orion_manifest_block(&m, ROOT, 0, &block) == -EISDIR && orion_manifest_block(&m, LINK, 0, &block) == -EINVAL);
	CHECK(orion_manifest_block_user(&m, 2, &user, &at) == 0 && user == SH && at == 2);
	CHECK(orion_manifest_block_user(&m, 3, &user, &at) == 0 && user == SPARSE && at == 1);
	CHECK(orion_manifest_block_user(&m, 4, &user, &at) == -ENOENT);
	CHECK(orion_manifest_allocated(&m, &sample->inodes[SH]) == 2 * BLOCK + 100);
	CHECK(orion_manifest_allocated(&m, &sample->inodes[SPARSE]) == BLOCK);
	CHECK(orion_manifest_allocated(&m, &sample->inodes[EMPTY]) == 0);
	CHECK(orion_manifest_allocated(&m, &sample->inodes[LINK]) == 0);
	CHECK(orion_manifest_file_verify(&m, SH) == 0 && orion_manifest_file_verify(&m, SPARSE) == 0);
	CHECK(orion_manifest_file_verify(&m, EMPTY) == 0 && orion_manifest_file_verify(&m, ROOT) == -EISDIR);
	CHECK(orion_manifest_file_digest(&m, EMPTY, digest) == 0 && digest[0] == 0x99 && digest[15] == 0x7f);
	sample->file_digests[1][3] ^= 1;
	CHECK(orion_manifest_file_verify(&m, SPARSE) == -EBADMSG);
	free(sample);
}

static void test_attributes(void)
{
	struct sample *sample = make_sample();
	struct orion_manifest m = open_sample(sample);
	const uint8_t *value;
	const char *name;
	size_t length;

	CHECK(orion_manifest_xattr(&m, SH, "user.a", 6, &value, &length) == 0 && length == 5 && memcmp(value, "value", 5) == 0);
	CHECK(orion_manifest_xattr(&m, SH, "user.b", 6, &value, &length) == 0 && length == 0);
	CHECK(orion_manifest_xattr(&m, SH, "user.c", 6, &value, &length) == -ENODATA);
	CHECK(orion_manifest_xattr(&m, EMPTY, "user.a", 6, &value, &length) == -ENODATA);
	CHECK(orion_manifest_xattr_name(&m, SH, 1, &name, &length) == 0 && length == 6 && memcmp(name, "user.b", 6) == 0);
	CHECK(orion_manifest_xattr_name(&m, SH, 2, &name, &length) == -ENOENT);
	free(sample);
}

static void test_right_as_it_is(void)
{
	struct sample *sample = make_sample();
	struct orion_manifest m = open_sample(sample);
	char problem[200] = "";

	CHECK((orion_manifest_check(&m, problem, sizeof problem) == 0) || (fprintf(stderr, "%s\n", problem), 0));
	walk_manifest(&m);
	free(sample);
}

/* What the check must say when one statement has changed the sample; and nothing may crash over it. */
#define BROKEN(words, ...) \
	do { \
		struct sample *s = make_sample(); \
		__VA_ARGS__; \
		check_broken(s, words, __LINE__); \
		free(s); \
	} while (0)

static void check_broken(struct sample *sample, const char *words, int line)
{
	struct orion_manifest m = open_sample(sample);
	char problem[200] = "", first[8];

	if (orion_manifest_check(&m, problem, sizeof problem) != -EBADMSG || !strstr(problem, words)) {
		fprintf(stderr, "line %d: got \"%s\", wanted \"%s\"\n", line, problem, words);
		exit(1);
	}
	CHECK(orion_manifest_check(&m, NULL, 0) == -EBADMSG);
	CHECK(orion_manifest_check(&m, first, sizeof first) == -EBADMSG && strlen(first) == sizeof first - 1);
	CHECK(orion_manifest_verify(&m) == -EBADMSG);
	walk_manifest(&m);
}

static void test_check(void)
{
	BROKEN("the release's name", s->header.name[0] = 0);
	BROKEN("the release's name", s->header.name[0] = '/');
	BROKEN("the version", s->header.label[5] = 'x');
	BROKEN("section XATTRS begins", s->header.sections[ORION_XATTRS].offset -= 8);
	BROKEN("goes on after", s->header.sections[ORION_BYTES].count -= 9);
	BROKEN("no padding", s->header.sections[ORION_BYTES].count--, s->text[63] = 1);
	BROKEN("content_bytes", s->header.content_bytes++);
	BROKEN("stored_bytes", s->header.stored_bytes++);
	BROKEN("flags", s->header.flags = 0);
	BROKEN("inode 6 is broken", s->inodes[LINK].mode = 0777);
	BROKEN("inode 6 is broken", s->inodes[LINK].mode |= 1 << 16);
	BROKEN("inode 6 is broken", s->inodes[LINK].size = 0);
	BROKEN("inode 6 is broken", s->inodes[LINK].size = 4096);
	BROKEN("inode 6 is broken", s->inodes[LINK].rdev = 1);
	BROKEN("inode 6 has no good target", s->text[text("bin/sh")] = 0);
	BROKEN("inode 4 is broken", s->inodes[EMPTY].mtime_nsec++);
	BROKEN("inode 4 is broken", s->inodes[EMPTY].first = 1);
	BROKEN("inode 4 is broken", s->inodes[EMPTY].parent = 1);
	BROKEN("inode 2 is broken", s->inodes[SH].size |= 1ull << 63);
	BROKEN("extent 0 has blocks that are too short", s->inodes[SH].size = INT64_MAX);
	BROKEN("inode 2 is broken", s->inodes[SH].count = UINT32_MAX);
	BROKEN("inode 2 is broken", s->inodes[SH].first = UINT32_MAX);
	BROKEN("inode 2 has the digest of no file", s->inodes[SH].file_digest = 2);
	BROKEN("inode 2 is broken", s->inodes[SH].xattr_count = 3);
	BROKEN("inode 2 says that it has 1 links", s->inodes[SH].nlink = 1);
	BROKEN("inode 1 says that it has 2 links", s->inodes[BIN].nlink = 2);
	BROKEN("dirent 7 is broken", s->inodes[SUB].parent = ROOT);
	BROKEN("inode 5 has extents that are another's", s->inodes[SPARSE].first = 0);
	BROKEN("inode 7 has dirents that are another's", s->inodes[SUB].first = 7, s->inodes[SUB].count = 1);
	BROKEN("dirents of no directory", s->inodes[BIN].count = 1, s->inodes[SH].nlink = 2);
	BROKEN("dirent 1 is broken", s->dirents[1].inode = EMPTY + 100);
	BROKEN("dirent 1 is broken", s->dirents[1].type = S_IFDIR >> 12);
	BROKEN("dirent 1 is broken", s->dirents[1].name = sizeof s->text - 4);
	BROKEN("dirent 1 is broken", s->dirents[1].length = 0);
	BROKEN("dirent 1 is broken", s->dirents[1].length = 256);
	BROKEN("dirent 1 is broken", s->dirents[1].reserved = 1);
	BROKEN("dirent 1 is broken", s->text[text("empty")] = '/');
	BROKEN("dirent 1 is broken", s->text[text("empty") + 4] = 0);
	BROKEN("dirent 7 is broken", s->dirents[7].length = 2, memcpy(s->text + text("sub"), "..", 2));
	BROKEN("dirent 7 is broken", s->dirents[7].length = 1, memcpy(s->text + text("sub"), ".", 1));
	BROKEN("dirent 7 is broken", s->dirents[7] = dirent("sub", BIN, S_IFDIR));
	BROKEN("dirent 7 is broken", s->dirents[7] = dirent("sub", ROOT, S_IFDIR));
	BROKEN("dirent 1 is not sorted", s->text[text("empty")] = 'a');
	BROKEN("dirent 7 is not sorted", s->dirents[6] = dirent("sub", SH, S_IFREG));
	BROKEN("inode 4 has 0 names", s->dirents[1] = dirent("empty", SPARSE, S_IFREG));
	BROKEN("inode 2 has 3 blocks, its extents have 2", s->extents[0].count = 2);
	BROKEN("extent 0 does not go on", s->extents[0].count = 4);
	BROKEN("extent 0 does not go on", s->extents[0].count = UINT32_MAX);
	BROKEN("extent 0 has blocks that are too short", s->extents[0].block = 1);
	BROKEN("extent 2 has blocks that are too short", s->extents[2].block = 2);
	BROKEN("extent 0 has blocks that are not there", s->extents[0].block = UINT32_MAX - 1);
	BROKEN("extent 2 does not go on", s->extents[2].file_block = 0);
	BROKEN("extents 1 and 2 are one", s->extents[2].block = ORION_HOLE);
	BROKEN("extent 2 does not go on", s->extents[2].reserved = 1);
	BROKEN("block 3 has 0 bytes", s->blocks[3].length = 0);
	BROKEN("block 3 has 4097 bytes", s->blocks[3].length = BLOCK + 1);
	BROKEN("block 3 is in pack 1", s->blocks[3].pack = 1);
	BROKEN("block 3 is not inside its pack", s->blocks[3].offset++);
	BROKEN("block 3 is not inside its pack", s->blocks[3].offset = UINT64_MAX - 5);
	BROKEN("pack 0 is broken", s->packs[0].size = 1ull << 63);
	BROKEN("blocks 1 and 3 are the same", memcpy(s->digests[3], s->digests[1], 16));
	BROKEN("attribute 0 has no good name", s->xattrs[0].name_length = 0);
	BROKEN("attribute 0 has no good name", s->xattrs[0].name = 63);
	BROKEN("attribute 0 has no good value", s->xattrs[0].value_length = 64);
	BROKEN("inode 2 has attributes that are not sorted", s->xattrs[0] = s->xattrs[1]);
}

/* /sub/bin and /bin/sub hold each other, out of sight of the root. */
static void test_circle(void)
{
	struct sample *s = make_sample();

	s->inodes[ROOT].first = 1;
	s->inodes[ROOT].nlink = 2;
	s->inodes[BIN] = (struct orion_inode){.mode = S_IFDIR, .nlink = 3, .first = 0, .count = 1, .parent = SUB};
	s->inodes[SUB] = (struct orion_inode){.mode = S_IFDIR, .nlink = 3, .first = 7, .count = 1, .parent = BIN};
	s->dirents[0] = dirent("sub", SUB, S_IFDIR);
	s->dirents[7] = dirent("bin", BIN, S_IFDIR);
	s->dirents[6].name = text("user.a");
	check_broken(s, "a directory above itself", __LINE__);
	free(s);
}

static void test_answers_from_a_broken_manifest(void)
{
	struct sample *s = make_sample();
	struct orion_manifest m = open_sample(s);
	struct orion_block_of_file block;
	struct orion_name name;
	char path[20];

	s->dirents[7] = dirent("sub", ROOT, S_IFDIR);
	CHECK(lookup(&m, BIN, "sub") == -EIO && orion_manifest_entry(&m, BIN, 1, &name) == -EIO);
	CHECK(lookup(&m, BIN, "sh") == SH);
	s->inodes[SUB].parent = SUB;
	s->dirents[7] = dirent("sub", SUB, S_IFDIR);
	CHECK(lookup(&m, BIN, "sub") == -EIO && orion_manifest_path(&m, SUB, path, sizeof path) == -ENOENT);
	s->blocks[1].length = 5;
	CHECK(orion_manifest_block(&m, SH, 1, &block) == -EIO && orion_manifest_block(&m, SH, 0, &block) == 0);
	s->extents[0].file_block = 1;
	CHECK(orion_manifest_block(&m, SH, 0, &block) == -EIO);
	s->inodes[SPARSE].size = INT64_MAX;
	CHECK(orion_manifest_block(&m, SPARSE, (uint64_t)INT64_MAX / BLOCK, &block) == -EIO);
	s->extents[3].count = UINT32_MAX;
	CHECK(orion_manifest_block(&m, SPARSE, UINT32_MAX, &block) == 0 && block.number == ORION_HOLE);
	CHECK(orion_manifest_block(&m, SPARSE, UINT32_MAX + 2ull, &block) == -EIO);
	free(s);
}

/* What opening says after one statement has changed the sample. */
#define REFUSED(error, ...) \
	do { \
		struct sample *s = make_sample(); \
		struct orion_manifest m; \
		__VA_ARGS__; \
		CHECK(orion_manifest_open((const uint8_t *)s, sizeof *s, &m) == (error)); \
		free(s); \
	} while (0)

static void test_open(void)
{
	REFUSED(-EINVAL, s->header.magic[7] = '\r');
	REFUSED(-EPROTONOSUPPORT, s->header.version = 2);
	REFUSED(-EBADMSG, s->header.header_size = 511);
	REFUSED(-EBADMSG, s->header.file_size++);
	REFUSED(-EBADMSG, s->header.digest_kind = 0);
	REFUSED(-EBADMSG, s->header.digest_kind = ORION_SHA_256);
	REFUSED(-EBADMSG, s->header.digest_kind = 9, s->header.digest_size = 0);
	REFUSED(-EBADMSG, s->header.digest[16] = 1);
	REFUSED(-EBADMSG, s->header.block_size = 2048);
	REFUSED(-EBADMSG, s->header.block_size = 1 << 21);
	REFUSED(-EBADMSG, s->header.block_size = 4097);
	REFUSED(-EBADMSG, s->header.flags = 4);
	REFUSED(-EBADMSG, memset(s->header.name, 'x', sizeof s->header.name));
	REFUSED(-EBADMSG, memset(s->header.label, 'x', sizeof s->header.label));
	REFUSED(-EBADMSG, s->header.reserved[87] = 1);
	REFUSED(-EBADMSG, s->header.sections[ORION_INODES].count = 0);
	REFUSED(-EBADMSG, s->header.sections[ORION_DIGESTS].count--);
	REFUSED(-EBADMSG, s->inodes[ROOT].mode = S_IFREG);
	REFUSED(-EBADMSG, s->inodes[ROOT].parent = 1);
	REFUSED(-EBADMSG, s->inodes[ROOT].count = 9);
	for (int i = 0; i < ORION_SECTIONS; i++) {
		REFUSED(-EBADMSG, s->header.sections[i].count = UINT32_MAX);
		REFUSED(-EBADMSG, s->header.sections[i].count = UINT64_MAX / 2);
		REFUSED(-EBADMSG, s->header.sections[i].count |= 1ull << 32);
		REFUSED(-EBADMSG, s->header.sections[i].offset = sizeof *s + 8);
		REFUSED(-EBADMSG, s->header.sections[i].offset = UINT64_MAX - 7);
		REFUSED(-EBADMSG, s->header.sections[i].offset++);
		REFUSED(-EBADMSG, s->header.sections[i].offset = 504);
	}
}

/* The sample cut short everywhere; a length of its own makes room for no byte too many. */
static void test_truncated(void)
{
	struct sample *sample = make_sample();

	for (size_t length = 0; length < sizeof *sample; length++) {
		uint8_t *bytes = malloc(length ? length : 1);
		struct orion_manifest m;

		CHECK(bytes);
		memcpy(bytes, sample, length);
		CHECK(orion_manifest_open(bytes, length, &m) == (length < 8 ? -EINVAL : -EBADMSG));
		if (length >= sizeof(struct orion_header)) {
			((struct orion_header *)(void *)bytes)->file_size = length;
			if (orion_manifest_open(bytes, length, &m) == 0)
				walk_manifest(&m);
		}
		free(bytes);
	}
	free(sample);
}

static void test_each_flipped_bit_is_found(void)
{
	struct sample *sample = make_sample();

	for (size_t bit = 0; bit < sizeof *sample * 8; bit++) {
		uint8_t *byte = (uint8_t *)sample + bit / 8;
		struct orion_manifest m;

		*byte ^= (uint8_t)(1 << bit % 8);
		if (orion_manifest_open((uint8_t *)sample, sizeof *sample, &m) == 0) {
			CHECK(orion_manifest_verify(&m) == -EBADMSG);
			walk_manifest(&m);
		}
		*byte ^= (uint8_t)(1 << bit % 8);
	}
	free(sample);
}

int main(void)
{
	test_names();
	test_content();
	test_attributes();
	test_right_as_it_is();
	test_check();
	test_circle();
	test_answers_from_a_broken_manifest();
	test_open();
	test_truncated();
	test_each_flipped_bit_is_found();
	puts("test_manifest: ok");
	return 0;
}
