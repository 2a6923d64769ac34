/* A file's blocks and its digest, from a manifest's bytes, which are not trusted. */
#define _GNU_SOURCE
#include "manifest.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static int get_file(const struct orion_manifest *manifest, uint32_t number, const struct orion_inode **ret)
{
	int result = orion_manifest_inode(manifest, number, ret);

	if (result)
		return result;
	return S_ISREG((*ret)->mode) ? 0 : S_ISDIR((*ret)->mode) ? -EISDIR : -EINVAL;
}

/* A file's blocks; no overflow, as no inode that was let pass has a size above INT64_MAX. */
static uint64_t blocks_of(const struct orion_manifest *manifest, const struct orion_inode *inode)
{
	return (inode->size + manifest->header->block_size - 1) >> manifest->block_shift;
}

/* The extent that covers a block of a file; NULL if none does. */
static const struct orion_extent *find_extent(const struct orion_manifest *manifest, const struct orion_inode *inode,
					      uint64_t file_block)
{
	const struct orion_extent *first = manifest->extents + inode->first, *low = first, *high = low + inode->count;

	/* The last extent that does not begin behind it: the one before low, at the end. */
	while (low < high) {
		const struct orion_extent *middle = low + (high - low) / 2;

		if (middle->file_block <= file_block)
			low = middle + 1;
		else
			high = middle;
	}
	return low > first && file_block - low[-1].file_block < low[-1].count ? low - 1 : NULL;
}

static int get_block(const struct orion_manifest *manifest, const struct orion_inode *inode, uint64_t file_block,
		     struct orion_block_of_file *ret)
{
	const uint32_t block_size = manifest->header->block_size;

	if (file_block >= blocks_of(manifest, inode))
		return -ENOENT;
	const uint64_t rest = inode->size - (file_block << manifest->block_shift);
	const uint32_t length = rest < block_size ? (uint32_t)rest : block_size;
	const struct orion_extent *extent = find_extent(manifest, inode, file_block);

	if (!extent)
		return -EIO;
	if (extent->block == ORION_HOLE) {
		*ret = (struct orion_block_of_file){.number = ORION_HOLE, .length = length};
		return 0;
	}
	const uint64_t number = extent->block + (file_block - extent->file_block);

	if (number >= manifest->block_count)
		return -EIO;
	const struct orion_place *place = manifest->blocks + number;

	if (place->length != length || place->pack >= manifest->pack_count)
		return -EIO;
	const uint64_t pack_size = manifest->packs[place->pack].size;

	if (place->offset > INT64_MAX || place->offset + length > pack_size)
		return -EIO;
	*ret = (struct orion_block_of_file){
		.number = (uint32_t)number,
		.length = length,
		.offset = place->offset,
		.pack = place->pack,
		.digest = manifest->digests + (size_t)number * manifest->header->digest_size,
	};
	return 0;
}

int orion_manifest_block(const struct orion_manifest *manifest, uint32_t number, uint64_t file_block,
			 struct orion_block_of_file *ret)
{
	const struct orion_inode *inode;
	int result = get_file(manifest, number, &inode);

	return result ? result : get_block(manifest, inode, file_block, ret);
}

int orion_manifest_seek(const struct orion_manifest *manifest, uint32_t number, uint64_t offset, bool data, uint64_t *ret)
{
	const struct orion_inode *inode;
	int result = get_file(manifest, number, &inode);

	if (result)
		return result;
	if (offset >= inode->size)
		return -ENXIO;
	for (uint64_t block = offset >> manifest->block_shift; block < blocks_of(manifest, inode);) {
		const struct orion_extent *extent = find_extent(manifest, inode, block);
		const uint64_t begin = block << manifest->block_shift;

		if (!extent)
			return -EIO;
		if ((extent->block != ORION_HOLE) == data) {
			*ret = begin > offset ? begin : offset;
			return 0;
		}
		block = (uint64_t)extent->file_block + extent->count;
	}
	*ret = inode->size;
	return data ? -ENXIO : 0;
}

uint64_t orion_manifest_allocated(const struct orion_manifest *manifest, const struct orion_inode *inode)
{
	const struct orion_extent *extent = manifest->extents + inode->first;
	uint64_t blocks = 0;

	if (!S_ISREG(inode->mode))
		return 0;
	/* At most 2^32 extents of less than 2^32 blocks: the sum does not overflow. */
	for (uint32_t i = 0; i < inode->count; i++)
		if (extent[i].block != ORION_HOLE)
			blocks += extent[i].count;
	if (blocks >= blocks_of(manifest, inode))
		return inode->size;
	uint64_t bytes = blocks << manifest->block_shift;
	const uint64_t tail = inode->size & (manifest->header->block_size - 1);

	if (tail && inode->count && extent[inode->count - 1].block != ORION_HOLE && blocks)
		bytes -= manifest->header->block_size - tail;
	return bytes;
}

static void digest_zeros(uint32_t kind, size_t length, uint8_t ret[ORION_DIGEST_MAX])
{
	static const uint8_t zeros[4096];
	struct orion_hash hash;

	orion_hash_begin(&hash, kind);
	for (size_t step; length; length -= step) {
		step = length < sizeof zeros ? length : sizeof zeros;
		orion_hash_add(&hash, zeros, step);
	}
	orion_hash_end(&hash, ret);
}

static void digest_block(const struct orion_manifest *manifest, const struct orion_block_of_file *block,
			 uint8_t ret[ORION_DIGEST_MAX])
{
	if (block->digest)
		memcpy(ret, block->digest, manifest->header->digest_size);
	else
		digest_zeros(manifest->header->digest_kind, block->length, ret);
}

int orion_manifest_file_digest(const struct orion_manifest *manifest, uint32_t number, uint8_t ret[ORION_DIGEST_MAX])
{
	const struct orion_inode *inode;
	struct orion_block_of_file block = {.length = 0};
	int result = get_file(manifest, number, &inode);

	if (result)
		return result;
	const uint64_t blocks = blocks_of(manifest, inode);

	if (blocks > 1) {
		const uint32_t size = manifest->header->digest_size;

		if (inode->file_digest >= manifest->file_digest_count)
			return -EIO;
		memcpy(ret, manifest->file_digests + (size_t)inode->file_digest * size, size);
		return 0;
	}
	if (blocks == 1) {
		result = get_block(manifest, inode, 0, &block);
		if (result)
			return result;
	}
	digest_block(manifest, &block, ret);
	return 0;
}

int orion_manifest_file_verify(const struct orion_manifest *manifest, uint32_t number)
{
	const struct orion_header *header = manifest->header;
	const struct orion_inode *inode;
	uint8_t claimed[ORION_DIGEST_MAX], found[ORION_DIGEST_MAX], zeros[ORION_DIGEST_MAX];
	struct orion_hash hash;
	int result = orion_manifest_file_digest(manifest, number, claimed);

	if (result)
		return result;
	orion_manifest_inode(manifest, number, &inode);
	const uint64_t blocks = blocks_of(manifest, inode);

	if (blocks <= 1)
		return 0;
	digest_zeros(header->digest_kind, header->block_size, zeros);
	orion_hash_begin(&hash, header->digest_kind);
	for (uint64_t i = 0; i < blocks; i++) {
		struct orion_block_of_file block;

		result = get_block(manifest, inode, i, &block);
		if (result)
			return result;
		if (!block.digest && block.length == header->block_size)
			memcpy(found, zeros, sizeof found);
		else
			digest_block(manifest, &block, found);
		orion_hash_add(&hash, found, header->digest_size);
	}
	orion_hash_end(&hash, found);
	return memcmp(claimed, found, header->digest_size) == 0 ? 0 : -EBADMSG;
}

/* The file that an extent is of. */
static int extent_user(const struct orion_manifest *manifest, uint32_t extent, uint32_t *ret)
{
	for (uint32_t i = 0; i < manifest->inode_count; i++) {
		const struct orion_inode *inode;

		if (get_file(manifest, i, &inode) == 0 && extent >= inode->first && extent - inode->first < inode->count) {
			*ret = i;
			return 0;
		}
	}
	return -ENOENT;
}

int orion_manifest_block_user(const struct orion_manifest *manifest, uint32_t block, uint32_t *ret_number,
			      uint32_t *ret_file_block)
{
	for (uint32_t i = 0; i < manifest->extent_count; i++) {
		const struct orion_extent *extent = manifest->extents + i;

		if (extent->block == ORION_HOLE || block < extent->block || block - extent->block >= extent->count)
			continue;
		*ret_file_block = extent->file_block + (block - extent->block);
		return extent_user(manifest, i, ret_number);
	}
	return -ENOENT;
}
