/* A small release that is right: its manifest, and what its one pack holds. For tests and fuzz targets. */
#ifndef SAMPLE_MANIFEST_H
#define SAMPLE_MANIFEST_H

#include "manifest.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define BLOCK 4096u
#define SAMPLE_CONTENT (3 * BLOCK + 100) /* bytes in the pack */
#define SAMPLE_PACK "01000000000000000000000000000000.pack"

enum inode { ROOT, BIN, SH, NULL_DEVICE, EMPTY, SPARSE, LINK, SUB, INODES };

/* /bin/sh (also /twin), /bin/sub/, /null, /empty, /sparse (hole, block, hole), /link -> bin/sh */
struct sample {
	struct orion_header header;
	struct orion_inode inodes[INODES];
	struct orion_dirent dirents[8];
	struct orion_extent extents[4];
	struct orion_place blocks[4];
	uint8_t digests[4][16], file_digests[2][16];
	struct orion_xattr xattrs[2];
	struct orion_pack packs[1];
	char text[64];
};

static const char TEXT[] = "binemptylinknullsparsetwinshsubbin/shuser.auser.bvalue";

/* The four blocks, one after the other. */
static inline void sample_content(uint8_t ret[SAMPLE_CONTENT])
{
	uint32_t state = 1;

	for (uint32_t i = 0; i < SAMPLE_CONTENT; i++)
		ret[i] = (uint8_t)((state = state * 1664525u + 1013904223u) >> 24);
}

static uint32_t text(const char *word)
{
	return (uint32_t)(strstr(TEXT, word) - TEXT);
}

static struct orion_dirent dirent(const char *name, enum inode inode, mode_t type)
{
	return (struct orion_dirent){text(name), inode, (uint16_t)strlen(name), (uint8_t)(type >> 12), 0};
}

/* Gives the manifest its right digest. */
static inline void seal(struct sample *sample)
{
	orion_manifest_digest(ORION_XXH3_128, (uint8_t *)sample, sizeof *sample, sample->header.digest);
}

static void file_digest(struct sample *sample, int number, int blocks, const int *block)
{
	static const uint8_t zeros[BLOCK];
	uint8_t digests[64];

	for (int i = 0; i < blocks; i++) {
		if (block[i] < 0)
			orion_digest_bytes(ORION_XXH3_128, zeros, BLOCK, digests + (ptrdiff_t)16 * i);
		else
			memcpy(digests + (ptrdiff_t)16 * i, sample->digests[block[i]], 16);
	}
	orion_digest_bytes(ORION_XXH3_128, digests, 16u * (unsigned)blocks, sample->file_digests[number]);
}

static inline struct sample *make_sample(void)
{
	struct sample *s = calloc(1, sizeof *s);
	const size_t start[] = {
		offsetof(struct sample, inodes),  offsetof(struct sample, dirents), offsetof(struct sample, extents),
		offsetof(struct sample, blocks),  offsetof(struct sample, digests), offsetof(struct sample, file_digests),
		offsetof(struct sample, xattrs),  offsetof(struct sample, packs),   offsetof(struct sample, text),
	};
	const uint64_t count[] = {INODES, 8, 4, 4, 4, 2, 2, 1, sizeof s->text};
	uint8_t content[SAMPLE_CONTENT];

	if (!s)
		abort();
	s->header = (struct orion_header){
		.magic = {'O', 'R', 'I', 'O', 'N', 'M', 'F', '\n'},
		.version = ORION_MANIFEST_VERSION,
		.header_size = sizeof s->header,
		.file_size = sizeof *s,
		.digest_kind = ORION_XXH3_128,
		.digest_size = 16,
		.block_size = BLOCK,
		.flags = ORION_HAS_XATTRS,
		.content_bytes = 2 * BLOCK + 100 + 3 * BLOCK,
		.stored_bytes = SAMPLE_CONTENT,
		.name = "sample",
		.label = "1",
	};
	for (int i = 0; i < ORION_SECTIONS; i++)
		s->header.sections[i] = (struct orion_range){start[i], count[i]};
	s->inodes[ROOT] = (struct orion_inode){.mode = S_IFDIR | 0755, .nlink = 3, .first = 0, .count = 6};
	s->inodes[BIN] = (struct orion_inode){.mode = S_IFDIR | 0755, .nlink = 3, .first = 6, .count = 2};
	s->inodes[SH] = (struct orion_inode){
		.mode = S_IFREG | 0755, .size = 2 * BLOCK + 100, .nlink = 2, .first = 0, .count = 1, .xattr_count = 2};
	s->inodes[NULL_DEVICE] = (struct orion_inode){.mode = S_IFCHR | 0666, .nlink = 1, .rdev = 0x103};
	s->inodes[EMPTY] = (struct orion_inode){.mode = S_IFREG | 0644, .nlink = 1, .mtime = -1, .mtime_nsec = 999999999};
	s->inodes[SPARSE] = (struct orion_inode){
		.mode = S_IFREG | 0644, .size = 3 * BLOCK, .nlink = 1, .first = 1, .count = 3, .file_digest = 1};
	s->inodes[LINK] = (struct orion_inode){.mode = S_IFLNK | 0777, .size = 6, .nlink = 1, .first = text("bin/sh")};
	s->inodes[SUB] = (struct orion_inode){.mode = S_IFDIR | 0700, .nlink = 2, .parent = BIN};
	s->dirents[0] = dirent("bin", BIN, S_IFDIR);
	s->dirents[1] = dirent("empty", EMPTY, S_IFREG);
	s->dirents[2] = dirent("link", LINK, S_IFLNK);
	s->dirents[3] = dirent("null", NULL_DEVICE, S_IFCHR);
	s->dirents[4] = dirent("sparse", SPARSE, S_IFREG);
	s->dirents[5] = dirent("twin", SH, S_IFREG);
	s->dirents[6] = dirent("sh", SH, S_IFREG);
	s->dirents[7] = dirent("sub", SUB, S_IFDIR);
	s->extents[0] = (struct orion_extent){.file_block = 0, .count = 3, .block = 0};
	s->extents[1] = (struct orion_extent){.file_block = 0, .count = 1, .block = ORION_HOLE};
	s->extents[2] = (struct orion_extent){.file_block = 1, .count = 1, .block = 3};
	s->extents[3] = (struct orion_extent){.file_block = 2, .count = 1, .block = ORION_HOLE};
	s->blocks[0] = (struct orion_place){.offset = 0, .length = BLOCK};
	s->blocks[1] = (struct orion_place){.offset = BLOCK, .length = BLOCK};
	s->blocks[2] = (struct orion_place){.offset = 2 * BLOCK, .length = 100};
	s->blocks[3] = (struct orion_place){.offset = 2 * BLOCK + 100, .length = BLOCK};
	sample_content(content);
	for (int i = 0; i < 4; i++)
		orion_digest_bytes(ORION_XXH3_128, content + s->blocks[i].offset, s->blocks[i].length, s->digests[i]);
	file_digest(s, 0, 3, (int[]){0, 1, 2});
	file_digest(s, 1, 3, (int[]){-1, 3, -1});
	s->xattrs[0] = (struct orion_xattr){text("user.a"), text("value"), 5, 6, 0};
	s->xattrs[1] = (struct orion_xattr){text("user.b"), text("value"), 0, 6, 0};
	s->packs[0] = (struct orion_pack){.id = {1}, .size = SAMPLE_CONTENT};
	memcpy(s->text, TEXT, sizeof TEXT);
	seal(s);
	return s;
}

#endif
