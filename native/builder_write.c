/* The manifest's writer: from the tree, its files' blocks and their places to the bytes of docs/manifest.md.
 *
 * All of it depends on the tree alone, but for BLOCKS and PACKS, which also depend on where the store had a block
 * already.
 */
#define _GNU_SOURCE
#include "builder_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* A section while it grows. */
struct growing {
	uint8_t *bytes;
	size_t length, capacity;
};

/* Byte strings that were appended to BYTES, or sets to XATTRS, found again by their content. */
struct interned {
	struct {
		uint64_t key;
		const void *bytes; /* NULL: free */
		uint32_t length, at;
	} *slots;
	size_t count, capacity;
};

struct writing {
	struct orion_builder *builder;
	struct growing sections[ORION_SECTIONS];
	struct interned texts, sets;
	uint32_t *packs; /* the builder's to the manifest's */
	uint32_t flags;
	uint64_t stored, content;
};

static void free_writing(struct writing *writing)
{
	for (int i = 0; i < ORION_SECTIONS; i++)
		free(writing->sections[i].bytes);
	free(writing->texts.slots);
	free(writing->sets.slots);
	free(writing->packs);
}

static const size_t RECORD[ORION_SECTIONS] = {
	[ORION_INODES] = sizeof(struct orion_inode), [ORION_DIRENTS] = sizeof(struct orion_dirent),
	[ORION_EXTENTS] = sizeof(struct orion_extent), [ORION_BLOCKS] = sizeof(struct orion_place),
	[ORION_XATTRS] = sizeof(struct orion_xattr), [ORION_PACKS] = sizeof(struct orion_pack),
	[ORION_BYTES] = 1,
};

static size_t record_size(const struct writing *writing, int section)
{
	return RECORD[section] ? RECORD[section] : writing->builder->blocks.digest_size;
}

static uint32_t count_of(const struct writing *writing, int section)
{
	return (uint32_t)(writing->sections[section].length / record_size(writing, section));
}

static int append(struct writing *writing, int section, const void *bytes, size_t length)
{
	struct growing *to = writing->sections + section;

	if (to->length + length > to->capacity) {
		const size_t capacity = (to->length + length) * 3 / 2 + 4096;
		uint8_t *grown = realloc(to->bytes, capacity);

		if (!grown)
			return -ENOMEM;
		to->bytes = grown;
		to->capacity = capacity;
	}
	if ((to->length + length) / record_size(writing, section) >= UINT32_MAX)
		return -EOVERFLOW;
	if (length)
		memcpy(to->bytes + to->length, bytes, length);
	to->length += length;
	return 0;
}

static size_t interned_slot(const struct interned *interned, uint64_t key, const void *bytes, size_t length)
{
	for (size_t at = (size_t)key & (interned->capacity - 1);; at = (at + 1) & (interned->capacity - 1))
		if (!interned->slots[at].bytes ||
		    (interned->slots[at].key == key && interned->slots[at].length == length &&
		     memcmp(interned->slots[at].bytes, bytes, length) == 0))
			return at;
}

static int interned_grow(struct interned *interned)
{
	struct interned grown = {.count = interned->count, .capacity = interned->capacity ? interned->capacity * 2 : 4096};

	grown.slots = calloc(grown.capacity, sizeof *grown.slots);
	if (!grown.slots)
		return -ENOMEM;
	for (size_t i = 0; i < interned->capacity; i++)
		if (interned->slots[i].bytes)
			grown.slots[interned_slot(&grown, interned->slots[i].key, interned->slots[i].bytes,
						  interned->slots[i].length)] = interned->slots[i];
	free(interned->slots);
	*interned = grown;
	return 0;
}

/* Where the bytes are; 1 if they are new, and then at is where. The bytes must stay. */
static int intern(struct interned *interned, const void *bytes, size_t length, uint32_t at, uint32_t *ret)
{
	const uint64_t key = checksum(bytes, length);

	if (interned->count * 2 >= interned->capacity && interned_grow(interned))
		return -ENOMEM;
	const size_t slot = interned_slot(interned, key, bytes, length);
	const bool new = !interned->slots[slot].bytes;

	if (new) {
		interned->slots[slot].key = key;
		interned->slots[slot].bytes = bytes;
		interned->slots[slot].length = (uint32_t)length;
		interned->slots[slot].at = at;
		interned->count++;
	}
	*ret = interned->slots[slot].at;
	return new;
}

/* Names come again and again in a tree, so each is stored once. */
static int put_text(struct writing *writing, const void *bytes, size_t length, uint32_t *ret)
{
	int result = intern(&writing->texts, bytes, length, count_of(writing, ORION_BYTES), ret);

	return result == 1 ? append(writing, ORION_BYTES, bytes, length) : result;
}

static int put_attributes(struct writing *writing, const struct attributes *attributes, struct orion_inode *inode)
{
	int result;

	if (!attributes)
		return 0;
	const int new = intern(&writing->sets, attributes->bytes, attributes->length, count_of(writing, ORION_XATTRS),
			       &inode->xattr_first);

	if (new < 0)
		return new;
	writing->flags |= ORION_HAS_XATTRS;
	for (const uint8_t *next = attributes->bytes; next < attributes->bytes + attributes->length;) {
		struct orion_xattr xattr = {0};

		memcpy(&xattr.name_length, next, sizeof xattr.name_length);
		next += sizeof xattr.name_length;
		memcpy(&xattr.value_length, next, sizeof xattr.value_length);
		next += sizeof xattr.value_length;
		inode->xattr_count++;
		if (new) {
			if (strncmp((const char *)next, "system.posix_acl_", 17) == 0)
				writing->flags |= ORION_HAS_ACLS;
			if ((result = put_text(writing, next, xattr.name_length, &xattr.name)) ||
			    (xattr.value_length && (result = put_text(writing, next + xattr.name_length,
								      xattr.value_length, &xattr.value))) ||
			    (result = append(writing, ORION_XATTRS, &xattr, sizeof xattr)))
				return result;
		}
		next += xattr.name_length + xattr.value_length;
	}
	return 0;
}

static int put_entries(struct writing *writing, const struct node *node, struct orion_inode *inode)
{
	inode->first = node->count ? count_of(writing, ORION_DIRENTS) : 0;
	inode->count = node->count;
	inode->parent = node->parent ? node->parent->number : ORION_ROOT;
	for (uint32_t i = 0; i < node->count; i++) {
		const struct entry *entry = node->entries + i;
		struct orion_dirent dirent = {
			.inode = entry->node->number,
			.length = (uint16_t)strlen(entry->name),
			.type = (uint8_t)((entry->node->mode & S_IFMT) >> 12),
		};
		int result = put_text(writing, entry->name, dirent.length, &dirent.name);

		if (!result)
			result = append(writing, ORION_DIRENTS, &dirent, sizeof dirent);
		if (result)
			return result;
	}
	return 0;
}

/* The manifest's number for a pack; it is listed when its first block is. */
static int number_pack(struct writing *writing, uint32_t pack, uint32_t *ret)
{
	const struct orion_builder *builder = writing->builder;

	if (writing->packs[pack] == NOWHERE) {
		struct orion_pack record = {.size = pack == NEW_PACK ? builder->pack_end : builder->packs[pack].size};
		int result;

		memcpy(record.id, pack == NEW_PACK ? builder->pack_id : builder->packs[pack].id, sizeof record.id);
		writing->packs[pack] = count_of(writing, ORION_PACKS);
		if ((result = append(writing, ORION_PACKS, &record, sizeof record)))
			return result;
	}
	*ret = writing->packs[pack];
	return 0;
}

/* The manifest's number for a block; it is listed when it is used first. */
static int number_block(struct writing *writing, uint32_t block, uint32_t *ret)
{
	struct orion_builder *builder = writing->builder;
	struct place *place = builder->blocks.places + block;
	const uint32_t size = builder->blocks.digest_size;

	if (place->number == NOWHERE) {
		struct orion_place record = {.offset = place->offset, .length = place->length};
		int result = number_pack(writing, place->pack, &record.pack);

		place->number = count_of(writing, ORION_BLOCKS);
		if (!result)
			result = append(writing, ORION_BLOCKS, &record, sizeof record);
		if (!result)
			result = append(writing, ORION_DIGESTS, builder->blocks.digests + (size_t)block * size, size);
		if (result)
			return result;
		writing->stored += place->length;
		builder->used_new_blocks += place->pack == NEW_PACK;
	}
	*ret = place->number;
	return 0;
}

static int put_extent(struct writing *writing, const struct orion_inode *inode, struct orion_extent extent)
{
	struct growing *extents = writing->sections + ORION_EXTENTS;

	if (count_of(writing, ORION_EXTENTS) > inode->first) {
		struct orion_extent last;
		uint8_t *at = extents->bytes + extents->length - sizeof last;

		memcpy(&last, at, sizeof last);
		if (extent.block == ORION_HOLE ? last.block == ORION_HOLE :
						 last.block != ORION_HOLE && last.block + last.count == extent.block) {
			last.count += extent.count;
			memcpy(at, &last, sizeof last);
			return 0;
		}
	}
	return append(writing, ORION_EXTENTS, &extent, sizeof extent);
}

/* The digest of a file's blocks' digests, a hole's being those of as many zeros. */
static int put_file_digest(struct writing *writing, const struct node *node, const uint8_t *zero_digest,
			   struct orion_inode *inode)
{
	const struct orion_builder *builder = writing->builder;
	const struct orion_extent *extents = node_extents(node);
	const uint32_t size = builder->blocks.digest_size, tail = (uint32_t)(node->stamp.size % builder->block_size);
	const uint64_t blocks = (node->stamp.size + builder->block_size - 1) / builder->block_size;
	uint8_t digest[ORION_DIGEST_MAX], zeros[64 * ORION_DIGEST_MAX];
	struct orion_hash hash;
	uint64_t at = 0;

	orion_hash_begin(&hash, builder->digest_kind);
	for (uint32_t i = 0; i < 64; i++)
		memcpy(zeros + i * size, zero_digest, size);
	for (uint32_t i = 0; i < node->count; i++) {
		const struct orion_extent *extent = extents + i;

		at += extent->count;
		if (extent->block != ORION_HOLE) {
			orion_hash_add(&hash, builder->blocks.digests + (size_t)extent->block * size,
				       (size_t)extent->count * size);
			continue;
		}
		const bool short_end = at == blocks && tail;

		for (uint32_t left = extent->count - short_end; left;) {
			const uint32_t now = left < 64 ? left : 64;

			orion_hash_add(&hash, zeros, (size_t)now * size);
			left -= now;
		}
		if (short_end) {
			uint8_t *zero = calloc(1, tail);

			if (!zero)
				return -ENOMEM;
			orion_digest_bytes(builder->digest_kind, zero, tail, digest);
			free(zero);
			orion_hash_add(&hash, digest, size);
		}
	}
	orion_hash_end(&hash, digest);
	inode->file_digest = count_of(writing, ORION_FILE_DIGESTS);
	return append(writing, ORION_FILE_DIGESTS, digest, size);
}

static int put_extents(struct writing *writing, const struct node *node, const uint8_t *zero_digest,
		       struct orion_inode *inode)
{
	const struct orion_extent *extents = node_extents(node);

	writing->content += node->stamp.size;
	inode->first = count_of(writing, ORION_EXTENTS);
	for (uint32_t i = 0; i < node->count; i++) {
		struct orion_extent extent = extents[i];
		int result = 0;

		if (extent.block == ORION_HOLE)
			result = put_extent(writing, inode, extent);
		for (uint32_t j = 0; !result && extents[i].block != ORION_HOLE && j < extents[i].count; j++) {
			extent = (struct orion_extent){.file_block = extents[i].file_block + j, .count = 1};
			result = number_block(writing, extents[i].block + j, &extent.block);
			if (!result)
				result = put_extent(writing, inode, extent);
		}
		if (result)
			return result;
	}
	inode->count = count_of(writing, ORION_EXTENTS) - inode->first;
	if (!inode->count)
		inode->first = 0;
	return node->stamp.size > writing->builder->block_size ?
		       put_file_digest(writing, node, zero_digest, inode) :
		       0;
}

static int put_inode(struct writing *writing, const struct node *node, const uint8_t *zero_digest)
{
	struct orion_inode inode = {
		.mtime = node->stamp.mtime,
		.mtime_nsec = node->stamp.mtime_nsec,
		.mode = node->mode,
		.uid = node->uid,
		.gid = node->gid,
		.nlink = node->nlink,
		.rdev = node->rdev,
	};
	int result = put_attributes(writing, node->attributes, &inode);

	if (!result && S_ISDIR(node->mode)) {
		result = put_entries(writing, node, &inode);
	} else if (!result && S_ISREG(node->mode)) {
		inode.size = node->stamp.size;
		result = put_extents(writing, node, zero_digest, &inode);
	} else if (!result && S_ISLNK(node->mode)) {
		inode.size = node->stamp.size;
		result = put_text(writing, node->target, inode.size, &inode.first);
	}
	return result ? result : append(writing, ORION_INODES, &inode, sizeof inode);
}

/* Of its blocks' digests and where they lie: packs with the same bytes in the same places have the same name. */
static void name_pack(struct orion_builder *builder)
{
	const struct block_table *table = &builder->blocks;
	struct orion_hash hash;
	uint8_t digest[ORION_DIGEST_MAX];

	orion_hash_begin(&hash, ORION_XXH3_128);
	for (uint32_t i = 0; i < table->count; i++)
		if (table->places[i].pack == NEW_PACK) {
			orion_hash_add(&hash, table->digests + (size_t)i * table->digest_size, table->digest_size);
			orion_hash_add(&hash, (const uint8_t *)&table->places[i].offset, sizeof table->places[i].offset);
		}
	orion_hash_end(&hash, digest);
	memcpy(builder->pack_id, digest, sizeof builder->pack_id);
}

/* Puts the sections behind each other; each is padded to 8 bytes. */
static int write_file(struct writing *writing, struct orion_header *header)
{
	struct orion_builder *builder = writing->builder;
	const size_t before = offsetof(struct orion_header, digest);
	uint64_t at = sizeof *header;
	struct orion_hash hash;
	int result;

	for (int i = 0; i < ORION_SECTIONS; i++) {
		struct growing *section = writing->sections + i;

		header->sections[i] = (struct orion_range){at, count_of(writing, i)};
		at += (section->length + 7) & ~(size_t)7;
	}
	header->file_size = at;
	orion_hash_begin(&hash, header->digest_kind);
	orion_hash_add(&hash, (const uint8_t *)header, before);
	scoped_fd fd = openat(builder->work, "manifest", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);

	if (fd < 0)
		return -errno;
	at = sizeof *header;
	for (int i = 0; i < ORION_SECTIONS; i++) {
		const struct growing *section = writing->sections + i;
		static const uint8_t padding[8];
		const size_t pad = -section->length & 7;

		if ((result = write_all(fd, section->bytes, section->length, at)) ||
		    (result = write_all(fd, padding, pad, at + section->length)))
			return result;
		orion_hash_add(&hash, section->bytes, section->length);
		orion_hash_add(&hash, padding, pad);
		at += section->length + pad;
	}
	orion_hash_end(&hash, header->digest);
	if ((result = write_all(fd, header, sizeof *header, 0)))
		return result;
	builder->manifest_bytes = header->file_size;
	return fsync(fd) ? -errno : 0;
}

static int write_manifest(struct orion_builder *builder, struct orion_header *ret_header)
{
	__attribute__((cleanup(free_writing))) struct writing writing = {.builder = builder};
	uint8_t zero_digest[ORION_DIGEST_MAX];
	uint8_t *zeros = calloc(1, builder->block_size);
	int result = 0;

	if (!zeros)
		return -ENOMEM;
	orion_digest_bytes(builder->digest_kind, zeros, builder->block_size, zero_digest);
	free(zeros);
	writing.packs = malloc(builder->pack_count * sizeof *writing.packs);
	if (!writing.packs)
		return -ENOMEM;
	memset(writing.packs, 0xff, builder->pack_count * sizeof *writing.packs);
	for (uint32_t i = 0; !result && i < builder->node_count; i++)
		result = builder->stop ? -ECANCELED : put_inode(&writing, builder->nodes[i], zero_digest);
	if (result)
		return result;
	*ret_header = (struct orion_header){
		.version = ORION_MANIFEST_VERSION,
		.header_size = sizeof *ret_header,
		.digest_kind = builder->digest_kind,
		.digest_size = builder->blocks.digest_size,
		.block_size = builder->block_size,
		.flags = writing.flags,
		.content_bytes = writing.content,
		.stored_bytes = writing.stored,
	};
	memcpy(ret_header->magic, ORION_MANIFEST_MAGIC, sizeof ret_header->magic);
	memcpy(ret_header->name, builder->name, sizeof ret_header->name);
	memcpy(ret_header->label, builder->label, sizeof ret_header->label);
	builder->stored_bytes = writing.stored;
	return write_file(&writing, ret_header);
}

int orion_builder_write(struct orion_builder *builder)
{
	struct orion_header header;
	int result = 0;

	builder->phase = ORION_BUILD_WRITING;
	name_pack(builder);
	/* The disk's work goes on while the manifest is made. */
	sync_file_range(builder->pack, 0, 0, SYNC_FILE_RANGE_WRITE);
	result = write_manifest(builder, &header);
	if (!result)
		result = write_scan(builder, header.digest);
	if (!result && builder->used_new_blocks && (fchmod(builder->pack, 0644) || fsync(builder->pack)))
		result = -errno;
	return result && !builder->failure ? builder_fail(builder, result, NULL, "the store: %s", strerror(-result)) :
					     result;
}
