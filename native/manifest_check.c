/* Whether a manifest is as a builder must leave it, record by record. Every step is in proportion to the number of
 * records, whatever is in them, so that a hostile manifest cannot keep anybody busy. */
#define _GNU_SOURCE
#include "manifest.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void free_memory(void *pointer)
{
	free(*(void **)pointer);
}

#define scoped __attribute__((cleanup(free_memory)))

struct check {
	const struct orion_manifest *manifest;
	char *problem;
	size_t capacity;
};

__attribute__((format(printf, 2, 3))) static int broken(const struct check *check, const char *format, ...)
{
	va_list arguments;

	if (check->problem && check->capacity) {
		va_start(arguments, format);
		vsnprintf(check->problem, check->capacity, format, arguments);
		va_end(arguments);
	}
	return -EBADMSG;
}

static void *array(size_t count, size_t size)
{
	return calloc(count ? count : 1, size);
}

static int in_order(const char *one, size_t one_length, const char *other, size_t other_length)
{
	const int order = memcmp(one, other, one_length < other_length ? one_length : other_length);

	return order < 0 || (order == 0 && one_length < other_length);
}

/* A name that can stand in a path and on a screen, padded with NUL. */
static bool good_label(const char *label, size_t capacity)
{
	const size_t length = strnlen(label, capacity);

	if (!length || length == capacity || label[0] == '.')
		return false;
	for (size_t i = 0; i < capacity; i++) {
		const uint8_t c = (uint8_t)label[i];

		if (i < length ? c <= ' ' || c == '/' || c == 0x7f : c != 0)
			return false;
	}
	return true;
}

static int check_layout(const struct check *check)
{
	static const char *const names[ORION_SECTIONS] = {
		"INODES", "DIRENTS", "EXTENTS", "BLOCKS", "DIGESTS", "FILE_DIGESTS", "XATTRS", "PACKS", "BYTES",
	};
	const struct orion_manifest *manifest = check->manifest;
	const struct orion_header *header = manifest->header;
	const size_t size[ORION_SECTIONS] = {
		sizeof(struct orion_inode), sizeof(struct orion_dirent), sizeof(struct orion_extent),
		sizeof(struct orion_place), header->digest_size,	 header->digest_size,
		sizeof(struct orion_xattr), sizeof(struct orion_pack),	 1,
	};
	uint64_t at = sizeof *header;

	if (!good_label(header->name, sizeof header->name))
		return broken(check, "header: the release's name is none");
	if (!good_label(header->label, sizeof header->label))
		return broken(check, "header: the version is none");
	for (int i = 0; i < ORION_SECTIONS; i++) {
		if (header->sections[i].offset != at)
			return broken(check, "section %s begins at %llu, not at %llu", names[i],
				      (unsigned long long)header->sections[i].offset, (unsigned long long)at);
		at += header->sections[i].count * size[i];
		for (; at % 8; at++)
			if (at >= manifest->length || manifest->bytes[at])
				return broken(check, "section %s: what is behind it is no padding", names[i]);
	}
	if (at != manifest->length)
		return broken(check, "the file goes on after its last section");
	return 0;
}

struct sort_digests {
	const uint8_t *digests;
	uint32_t size;
};

static int compare_digests(const void *one, const void *other, void *context)
{
	const struct sort_digests *sort = context;

	return memcmp(sort->digests + (size_t)*(const uint32_t *)one * sort->size,
		      sort->digests + (size_t)*(const uint32_t *)other * sort->size, sort->size);
}

/* ret_short: how many blocks before each are shorter than a whole one. */
static int check_blocks(const struct check *check, uint32_t *ret_short)
{
	const struct orion_manifest *manifest = check->manifest;
	const struct orion_header *header = manifest->header;
	scoped uint32_t *order = array(manifest->block_count, sizeof *order);
	uint64_t stored = 0;

	if (!order)
		return -ENOMEM;
	for (uint32_t i = 0; i < manifest->pack_count; i++)
		if (manifest->packs[i].size > INT64_MAX || manifest->packs[i].reserved)
			return broken(check, "pack %u is broken", i);
	for (uint32_t i = 0; i < manifest->block_count; i++) {
		const struct orion_place *place = manifest->blocks + i;

		if (!place->length || place->length > header->block_size)
			return broken(check, "block %u has %u bytes", i, place->length);
		if (place->pack >= manifest->pack_count)
			return broken(check, "block %u is in pack %u, which is not there", i, place->pack);
		const uint64_t pack_size = manifest->packs[place->pack].size;

		if (place->offset > pack_size || place->length > pack_size - place->offset)
			return broken(check, "block %u is not inside its pack", i);
		stored += place->length;
		ret_short[i + 1] = ret_short[i] + (place->length < header->block_size);
		order[i] = i;
	}
	if (stored != header->stored_bytes)
		return broken(check, "header: stored_bytes is not the sum of the blocks' lengths");
	struct sort_digests sort = {manifest->digests, header->digest_size};

	qsort_r(order, manifest->block_count, sizeof *order, compare_digests, &sort);
	for (uint32_t i = 1; i < manifest->block_count; i++)
		if (compare_digests(order + i - 1, order + i, &sort) == 0)
			return broken(check, "blocks %u and %u are the same", order[i - 1], order[i]);
	return 0;
}

/* ret_breaks: how many attributes before each (itself included) do not follow the one before them by name. */
static int check_xattrs(const struct check *check, uint32_t *ret_breaks)
{
	const struct orion_manifest *manifest = check->manifest;
	const char *before = NULL;
	size_t before_length = 0;
	uint32_t flags = manifest->xattr_count ? ORION_HAS_XATTRS : 0;

	for (uint32_t i = 0; i < manifest->xattr_count; i++) {
		const struct orion_xattr *xattr = manifest->xattrs + i;
		const char *name = manifest->text + xattr->name;
		const uint32_t room = manifest->text_length;

		if (!xattr->name_length || xattr->name_length > ORION_NAME_MAX || xattr->name > room ||
		    xattr->name_length > room - xattr->name || memchr(name, 0, xattr->name_length))
			return broken(check, "attribute %u has no good name", i);
		if (xattr->value_length > ORION_XATTR_MAX || xattr->value > room ||
		    xattr->value_length > room - xattr->value || xattr->reserved)
			return broken(check, "attribute %u has no good value", i);
		ret_breaks[i + 1] =
			ret_breaks[i] + !(before && in_order(before, before_length, name, xattr->name_length));
		before = name;
		before_length = xattr->name_length;
		if (xattr->name_length > 17 && memcmp(name, "system.posix_acl_", 17) == 0)
			flags |= ORION_HAS_ACLS;
	}
	if (manifest->header->flags != flags)
		return broken(check, "header: the flags say something else about attributes than there is");
	return 0;
}

/* A set in which no two ranges may meet. */
static bool take(uint8_t *taken, uint32_t first, uint32_t count)
{
	for (uint32_t i = first; i < first + count; i++) {
		if (taken[i / 8] & 1 << i % 8)
			return false;
		taken[i / 8] |= (uint8_t)(1 << i % 8);
	}
	return true;
}

static int check_file(const struct check *check, uint32_t number, const struct orion_inode *inode, uint8_t *taken,
		      const uint32_t *short_blocks)
{
	const struct orion_manifest *manifest = check->manifest;
	const uint32_t block_size = manifest->header->block_size;
	const uint64_t blocks = (inode->size + block_size - 1) / block_size;
	uint64_t at = 0;

	if (!take(taken, inode->first, inode->count))
		return broken(check, "inode %u has extents that are another's", number);
	for (uint32_t i = 0; i < inode->count; i++) {
		const uint32_t own = inode->first + i;
		const struct orion_extent *extent = manifest->extents + own, *before = i ? extent - 1 : NULL;
		const bool hole = extent->block == ORION_HOLE;

		if (extent->file_block != at || !extent->count || extent->count > blocks - at || extent->reserved)
			return broken(check, "extent %u does not go on where the one before it ends", own);
		at += extent->count;
		if (before && (hole ? before->block == ORION_HOLE
				    : before->block != ORION_HOLE &&
					      (uint64_t)before->block + before->count == extent->block))
			return broken(check, "extents %u and %u are one", own - 1, own);
		if (hole)
			continue;
		if (extent->block > manifest->block_count || extent->count > manifest->block_count - extent->block)
			return broken(check, "extent %u has blocks that are not there", own);
		const uint32_t last = extent->block + extent->count - 1;
		const uint64_t tail = at == blocks && inode->size % block_size ? inode->size % block_size : block_size;

		if (short_blocks[last] != short_blocks[extent->block] || manifest->blocks[last].length != tail)
			return broken(check, "extent %u has blocks that are too short or too long", own);
	}
	if (at != blocks)
		return broken(check, "inode %u has %llu blocks, its extents have %llu", number,
			      (unsigned long long)blocks, (unsigned long long)at);
	if (blocks > 1 ? inode->file_digest >= manifest->file_digest_count : inode->file_digest != 0)
		return broken(check, "inode %u has the digest of no file", number);
	return 0;
}

/* What the dirents say of an inode. */
struct named {
	uint32_t names; /* dirents that name it */
	uint32_t subdirectories;
};

static int check_directory(const struct check *check, uint32_t number, const struct orion_inode *inode, uint8_t *taken,
			   struct named *named)
{
	struct orion_name before = {0}, name;

	if (!take(taken, inode->first, inode->count))
		return broken(check, "inode %u has dirents that are another's", number);
	for (uint32_t i = 0; i < inode->count; i++, before = name) {
		if (orion_manifest_entry(check->manifest, number, i, &name) ||
		    check->manifest->dirents[inode->first + i].reserved)
			return broken(check, "dirent %u is broken", inode->first + i);
		if (i && !in_order(before.text, before.length, name.text, name.length))
			return broken(check, "dirent %u is not sorted behind the one before it", inode->first + i);
		named[name.inode].names++;
		if (S_ISDIR(check->manifest->inodes[name.inode].mode))
			named[number].subdirectories++;
	}
	return 0;
}

/* Fields that mean nothing for what the inode is. */
static bool unused_are_zero(const struct orion_inode *inode)
{
	const bool directory = S_ISDIR(inode->mode), file = S_ISREG(inode->mode), link = S_ISLNK(inode->mode);
	const bool device = S_ISCHR(inode->mode) || S_ISBLK(inode->mode);

	return (device || !inode->rdev) && (directory || !inode->parent) && (file || !inode->file_digest) &&
	       (file || link || !inode->size) && (inode->count || link || !inode->first) &&
	       (directory || file || !inode->count) && (inode->xattr_count || !inode->xattr_first);
}

/* Whether each directory is below the root: climbs from each to one that is known to be. */
static int check_tree(const struct check *check)
{
	const struct orion_inode *inodes = check->manifest->inodes;
	const uint32_t count = check->manifest->inode_count;
	enum { UNKNOWN, CLIMBING, BELOW_ROOT };
	scoped uint8_t *state = array(count, 1);

	if (!state)
		return -ENOMEM;
	state[ORION_ROOT] = BELOW_ROOT;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t at = i;

		if (!S_ISDIR(inodes[i].mode))
			continue;
		for (; state[at] == UNKNOWN; at = inodes[at].parent)
			state[at] = CLIMBING;
		if (state[at] == CLIMBING)
			return broken(check, "inode %u is a directory above itself", at);
		for (at = i; state[at] == CLIMBING; at = inodes[at].parent)
			state[at] = BELOW_ROOT;
	}
	return 0;
}

/* Every inode by itself. */
static int check_inodes(const struct check *check, const uint32_t *short_blocks, const uint32_t *xattr_breaks)
{
	const struct orion_manifest *manifest = check->manifest;
	scoped uint8_t *extents = array(manifest->extent_count / 8 + 1, 1);
	uint64_t content = 0, extent_count = 0;

	if (!extents)
		return -ENOMEM;
	for (uint32_t i = 0; i < manifest->inode_count; i++) {
		const struct orion_inode *inode;
		const char *target;
		size_t length;

		if (orion_manifest_inode(manifest, i, &inode) || !unused_are_zero(inode))
			return broken(check, "inode %u is broken", i);
		if (inode->xattr_count && xattr_breaks[inode->xattr_first + inode->xattr_count] !=
						  xattr_breaks[inode->xattr_first + 1])
			return broken(check, "inode %u has attributes that are not sorted", i);
		if (S_ISLNK(inode->mode) && orion_manifest_target(manifest, i, &target, &length))
			return broken(check, "inode %u has no good target", i);
		if (!S_ISREG(inode->mode))
			continue;
		int result = check_file(check, i, inode, extents, short_blocks);

		if (result)
			return result;
		extent_count += inode->count;
		if (__builtin_add_overflow(content, inode->size, &content))
			return broken(check, "inode %u: the sizes add up to more than 2^64", i);
	}
	if (content != manifest->header->content_bytes)
		return broken(check, "header: content_bytes is not the sum of the files' sizes");
	if (extent_count != manifest->extent_count)
		return broken(check, "there are extents of no file");
	return 0;
}

/* What hangs together by names; every inode is good by itself. */
static int check_names(const struct check *check)
{
	const struct orion_manifest *manifest = check->manifest;
	scoped uint8_t *dirents = array(manifest->dirent_count / 8 + 1, 1);
	scoped struct named *named = array(manifest->inode_count, sizeof *named);
	uint64_t dirent_count = 0;

	if (!dirents || !named)
		return -ENOMEM;
	for (uint32_t i = 0; i < manifest->inode_count; i++) {
		const struct orion_inode *inode = manifest->inodes + i;
		int result = S_ISDIR(inode->mode) ? check_directory(check, i, inode, dirents, named) : 0;

		if (result)
			return result;
		dirent_count += S_ISDIR(inode->mode) ? inode->count : 0;
	}
	if (dirent_count != manifest->dirent_count)
		return broken(check, "there are dirents of no directory");
	for (uint32_t i = 0; i < manifest->inode_count; i++) {
		const struct orion_inode *inode = manifest->inodes + i;
		const bool directory = S_ISDIR(inode->mode);

		if (directory ? named[i].names != (i != ORION_ROOT) : !named[i].names)
			return broken(check, "inode %u has %u names", i, named[i].names);
		if (inode->nlink != (directory ? 2 + named[i].subdirectories : named[i].names))
			return broken(check, "inode %u says that it has %u links", i, inode->nlink);
	}
	return check_tree(check);
}

int orion_manifest_check(const struct orion_manifest *manifest, char *ret_problem, size_t capacity)
{
	const struct check check = {manifest, ret_problem, capacity};
	scoped uint32_t *short_blocks = array((size_t)manifest->block_count + 1, sizeof *short_blocks);
	scoped uint32_t *xattr_breaks = array((size_t)manifest->xattr_count + 1, sizeof *xattr_breaks);
	int result;

	if (!short_blocks || !xattr_breaks)
		return -ENOMEM;
	result = check_layout(&check);
	if (!result)
		result = check_blocks(&check, short_blocks);
	if (!result)
		result = check_xattrs(&check, xattr_breaks);
	if (!result)
		result = check_inodes(&check, short_blocks, xattr_breaks);
	if (!result)
		result = check_names(&check);
	return result;
}
