/* Asks an opened manifest everything there is to ask, and touches every byte that it answers with: for a test and a
 * fuzz target, under sanitizers. Bounded, whatever the manifest says. */
#ifndef WALK_MANIFEST_H
#define WALK_MANIFEST_H

#include "manifest.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#define WALK_ENTRIES 2000u

static volatile uint32_t walk_sum;

static void walk_require(bool condition)
{
	if (!condition)
		abort();
}

static void walk_touch(const void *bytes, size_t length)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < length; i++)
		sum += ((const uint8_t *)bytes)[i];
	walk_sum += sum;
}

static void walk_directory(const struct orion_manifest *manifest, uint32_t number, uint32_t count)
{
	for (uint32_t i = 0; i < count && i < WALK_ENTRIES; i++) {
		struct orion_name name;
		uint32_t found = 0;
		int result = orion_manifest_entry(manifest, number, i, &name);

		walk_require(result == 0 || result == -EIO);
		if (result)
			continue;
		walk_require(name.length >= 1 && name.length <= ORION_NAME_MAX && name.inode < manifest->inode_count);
		walk_require(name.inode != ORION_ROOT || name.type != S_IFDIR >> 12);
		walk_touch(name.text, name.length);
		/* Unsorted or double names may hide it. */
		result = orion_manifest_lookup(manifest, number, name.text, name.length, &found);
		walk_require(result == 0 || result == -EIO || result == -ENOENT);
		walk_require(result || found < manifest->inode_count);
	}
	struct orion_name name;
	uint32_t found;

	walk_require(orion_manifest_entry(manifest, number, count, &name) == -ENOENT);
	walk_require(orion_manifest_lookup(manifest, number, "..", 2, &found) < 0);
	walk_require(orion_manifest_lookup(manifest, number, "", 0, &found) < 0);
}

static void walk_file(const struct orion_manifest *manifest, uint32_t number, const struct orion_inode *inode)
{
	const uint32_t block_size = manifest->header->block_size;
	const uint64_t blocks = (inode->size + block_size - 1) / block_size;
	const uint64_t at[] = {0, 1, 2, 3, blocks / 2, blocks - 1, blocks, UINT32_MAX, UINT64_MAX >> 12, UINT64_MAX};
	uint8_t digest[ORION_DIGEST_MAX];

	for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
		struct orion_block_of_file block;
		int result = orion_manifest_block(manifest, number, at[i], &block);

		walk_require((result == -ENOENT) == (at[i] >= blocks));
		if (result)
			continue;
		walk_require(block.length >= 1 && block.length <= block_size);
		walk_require((block.digest == NULL) == (block.number == ORION_HOLE));
		if (!block.digest)
			continue;
		walk_touch(block.digest, manifest->header->digest_size);
		walk_require(block.pack < manifest->pack_count && block.number < manifest->block_count);
		walk_require(block.offset + block.length <= manifest->packs[block.pack].size);
	}
	for (size_t i = 0; i < sizeof at / sizeof *at; i++)
		for (int data = 0; data < 2; data++) {
			const uint64_t offset = at[i] * block_size;
			uint64_t found = 0;
			int result = orion_manifest_seek(manifest, number, offset, data, &found);

			walk_require(result == 0 || result == -ENXIO || result == -EIO);
			walk_require(offset < inode->size || result == -ENXIO);
			walk_require(result || (found >= offset && found <= inode->size));
		}
	walk_require(orion_manifest_allocated(manifest, inode) <= inode->size);
	if (orion_manifest_file_digest(manifest, number, digest) == 0)
		walk_touch(digest, manifest->header->digest_size);
	if (blocks < 100)
		orion_manifest_file_verify(manifest, number);
}

static void walk_inode(const struct orion_manifest *manifest, uint32_t number)
{
	const struct orion_inode *inode;
	struct orion_block_of_file block;
	struct orion_name name;
	const char *text;
	const uint8_t *value;
	size_t length;
	char path[64];

	if (orion_manifest_inode(manifest, number, &inode)) {
		walk_require(orion_manifest_entry(manifest, number, 0, &name) == -EIO);
		walk_require(orion_manifest_block(manifest, number, 0, &block) == -EIO);
		return;
	}
	if (S_ISDIR(inode->mode))
		walk_directory(manifest, number, inode->count);
	else
		walk_require(orion_manifest_entry(manifest, number, 0, &name) == -ENOTDIR);
	if (S_ISREG(inode->mode))
		walk_file(manifest, number, inode);
	else
		walk_require(orion_manifest_block(manifest, number, 0, &block) ==
			     (S_ISDIR(inode->mode) ? -EISDIR : -EINVAL));
	if (orion_manifest_target(manifest, number, &text, &length) == 0) {
		walk_require(length == inode->size);
		walk_touch(text, length);
	}
	for (uint32_t i = 0; i < inode->xattr_count && i < WALK_ENTRIES; i++) {
		if (orion_manifest_xattr_name(manifest, number, i, &text, &length))
			continue;
		walk_touch(text, length);
		if (orion_manifest_xattr(manifest, number, text, length, &value, &length) == 0)
			walk_touch(value, length);
	}
	walk_require(orion_manifest_xattr_name(manifest, number, inode->xattr_count, &text, &length) == -ENOENT);
	if (orion_manifest_path(manifest, number, path, sizeof path) == 0)
		walk_touch(path, sizeof path > 1);
}

/* Everything below a directory. As each directory has one parent and each is entered once, this must end. */
static void walk_tree(const struct orion_manifest *manifest, uint32_t directory, uint8_t *seen, unsigned depth)
{
	struct orion_name name;

	for (uint32_t i = 0; i < WALK_ENTRIES; i++) {
		int result = orion_manifest_entry(manifest, directory, i, &name);

		if (result == -ENOENT)
			return;
		if (result == 0 && name.type == S_IFDIR >> 12 && !seen[name.inode]) {
			/* Deeper than there are inodes would be a circle. */
			walk_require(depth < manifest->inode_count);
			seen[name.inode] = 1;
			walk_tree(manifest, name.inode, seen, depth + 1);
		}
	}
}

static void walk_manifest(const struct orion_manifest *manifest)
{
	uint8_t *seen = calloc(manifest->inode_count, 1);
	char problem[120];

	walk_require(seen);
	for (uint32_t i = 0; i < manifest->inode_count; i++)
		walk_inode(manifest, i);
	const struct orion_inode *inode;

	walk_require(orion_manifest_inode(manifest, manifest->inode_count, &inode) == -ESTALE);
	walk_require(orion_manifest_inode(manifest, UINT32_MAX, &inode) == -ESTALE);
	walk_tree(manifest, ORION_ROOT, seen, 0);
	for (uint32_t i = 0; i < manifest->block_count; i++) {
		uint32_t number, file_block;
		int found = orion_manifest_block_user(manifest, i, &number, &file_block);

		walk_require(found == -ENOENT || (found == 0 && number < manifest->inode_count));
	}
	free(seen);
	int result = orion_manifest_check(manifest, problem, sizeof problem);

	walk_require(result == 0 || result == -EBADMSG);
}

#endif
