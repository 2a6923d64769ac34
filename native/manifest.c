/* Inodes, names, targets and attributes from a manifest's bytes, which are not trusted. */
#define _GNU_SOURCE
#include "manifest.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#define BLOCK_SIZE_MIN (1u << 12)
#define BLOCK_SIZE_MAX (1u << 20)
#define NANOSECONDS 1000000000u

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "a manifest is used where it lies, and its integers are little-endian"
#endif

/* Whether count records from first on are among limit records. */
static bool inside(uint32_t first, uint32_t count, uint32_t limit)
{
	return first <= limit && count <= limit - first;
}

static size_t record_size(enum orion_section section, uint32_t digest_size)
{
	switch (section) {
	case ORION_INODES:
		return sizeof(struct orion_inode);
	case ORION_DIRENTS:
		return sizeof(struct orion_dirent);
	case ORION_EXTENTS:
		return sizeof(struct orion_extent);
	case ORION_BLOCKS:
		return sizeof(struct orion_place);
	case ORION_XATTRS:
		return sizeof(struct orion_xattr);
	case ORION_PACKS:
		return sizeof(struct orion_pack);
	case ORION_BYTES:
		return 1;
	default:
		return digest_size;
	}
}

static bool all_zero(const uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (bytes[i])
			return false;
	return true;
}

static bool good_header(const struct orion_header *header, size_t length)
{
	const uint32_t block_size = header->block_size;

	return header->header_size == sizeof *header && header->file_size == length && header->digest_size &&
	       header->digest_size == orion_digest_size(header->digest_kind) && block_size >= BLOCK_SIZE_MIN &&
	       block_size <= BLOCK_SIZE_MAX && (block_size & (block_size - 1)) == 0 &&
	       (header->flags & ~(ORION_HAS_XATTRS | ORION_HAS_ACLS)) == 0 &&
	       header->name[sizeof header->name - 1] == 0 && header->label[sizeof header->label - 1] == 0 &&
	       all_zero(header->reserved, sizeof header->reserved) &&
	       all_zero(header->digest + header->digest_size, ORION_DIGEST_MAX - header->digest_size);
}

int orion_manifest_open(const uint8_t *bytes, size_t length, struct orion_manifest *ret)
{
	const struct orion_header *header = (const struct orion_header *)(const void *)bytes;
	const void *start[ORION_SECTIONS];
	uint32_t count[ORION_SECTIONS];
	const struct orion_inode *root;

	if (length < sizeof header->magic || memcmp(bytes, ORION_MANIFEST_MAGIC, sizeof header->magic) != 0)
		return -EINVAL;
	if (length < sizeof header->magic + sizeof header->version)
		return -EBADMSG;
	if (header->version != ORION_MANIFEST_VERSION)
		return -EPROTONOSUPPORT;
	if (length < sizeof *header || !good_header(header, length))
		return -EBADMSG;
	for (int i = 0; i < ORION_SECTIONS; i++) {
		const struct orion_range *range = header->sections + i;

		if (range->offset % 8 || range->offset < sizeof *header || range->offset > length ||
		    range->count > UINT32_MAX ||
		    range->count > (length - range->offset) / record_size((enum orion_section)i, header->digest_size))
			return -EBADMSG;
		start[i] = bytes + range->offset;
		count[i] = (uint32_t)range->count;
	}
	if (count[ORION_DIGESTS] != count[ORION_BLOCKS])
		return -EBADMSG;
	*ret = (struct orion_manifest){
		.bytes = bytes,
		.length = length,
		.header = header,
		.inodes = start[ORION_INODES],
		.dirents = start[ORION_DIRENTS],
		.extents = start[ORION_EXTENTS],
		.blocks = start[ORION_BLOCKS],
		.digests = start[ORION_DIGESTS],
		.file_digests = start[ORION_FILE_DIGESTS],
		.xattrs = start[ORION_XATTRS],
		.packs = start[ORION_PACKS],
		.text = start[ORION_BYTES],
		.inode_count = count[ORION_INODES],
		.dirent_count = count[ORION_DIRENTS],
		.extent_count = count[ORION_EXTENTS],
		.block_count = count[ORION_BLOCKS],
		.file_digest_count = count[ORION_FILE_DIGESTS],
		.xattr_count = count[ORION_XATTRS],
		.pack_count = count[ORION_PACKS],
		.text_length = count[ORION_BYTES],
		.block_shift = (uint32_t)__builtin_ctz(header->block_size),
	};
	if (orion_manifest_inode(ret, ORION_ROOT, &root) || !S_ISDIR(root->mode) || root->parent != ORION_ROOT)
		return -EBADMSG;
	return 0;
}

void orion_manifest_digest(uint32_t kind, const uint8_t *bytes, size_t length, uint8_t ret[ORION_DIGEST_MAX])
{
	const size_t before = offsetof(struct orion_header, digest), after = sizeof(struct orion_header);
	struct orion_hash hash;

	orion_hash_begin(&hash, kind);
	orion_hash_add(&hash, bytes, before);
	orion_hash_add(&hash, bytes + after, length - after);
	orion_hash_end(&hash, ret);
}

int orion_manifest_verify(const struct orion_manifest *manifest)
{
	const struct orion_header *header = manifest->header;
	uint8_t found[ORION_DIGEST_MAX];

	orion_manifest_digest(header->digest_kind, manifest->bytes, manifest->length, found);
	return memcmp(found, header->digest, header->digest_size) == 0 ? 0 : -EBADMSG;
}

int orion_manifest_inode(const struct orion_manifest *manifest, uint32_t number, const struct orion_inode **ret)
{
	bool good = true;

	if (number >= manifest->inode_count)
		return -ESTALE;
	const struct orion_inode *inode = manifest->inodes + number;

	switch (inode->mode & S_IFMT) {
	case S_IFDIR:
		good = inside(inode->first, inode->count, manifest->dirent_count) &&
		       inode->parent < manifest->inode_count;
		break;
	case S_IFREG:
		good = inode->size <= INT64_MAX && inside(inode->first, inode->count, manifest->extent_count);
		break;
	case S_IFLNK:
		good = inode->size >= 1 && inode->size <= ORION_TARGET_MAX &&
		       inside(inode->first, (uint32_t)inode->size, manifest->text_length);
		break;
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		break;
	default:
		good = false;
	}
	if (!good || inode->mode & ~(uint32_t)(S_IFMT | 07777) || inode->mtime_nsec >= NANOSECONDS ||
	    !inside(inode->xattr_first, inode->xattr_count, manifest->xattr_count))
		return -EIO;
	*ret = inode;
	return 0;
}

static int get_directory(const struct orion_manifest *manifest, uint32_t number, const struct orion_inode **ret)
{
	int result = orion_manifest_inode(manifest, number, ret);

	if (result)
		return result;
	return S_ISDIR((*ret)->mode) ? 0 : -ENOTDIR;
}

/* memcmp's order, in which a name stands before a longer one that begins with it. */
static int compare(const char *one, size_t one_length, const char *other, size_t other_length)
{
	const size_t shorter = one_length < other_length ? one_length : other_length;
	const int order = memcmp(one, other, shorter);

	return order ? order : (one_length > other_length) - (one_length < other_length);
}

/* The name of a directory's entry, as far as it lies inside. */
static int dirent_name(const struct orion_manifest *manifest, const struct orion_dirent *dirent, const char **ret)
{
	if (!dirent->length || dirent->length > ORION_NAME_MAX ||
	    !inside(dirent->name, dirent->length, manifest->text_length))
		return -EIO;
	*ret = manifest->text + dirent->name;
	return 0;
}

/* A directory's entry, fit to be shown. */
static int check_entry(const struct orion_manifest *manifest, uint32_t directory, const struct orion_dirent *dirent,
		       struct orion_name *ret)
{
	const struct orion_inode *inode;
	const char *name;
	const size_t length = dirent->length;

	if (dirent_name(manifest, dirent, &name) || memchr(name, '/', length) || memchr(name, 0, length) ||
	    (name[0] == '.' && (length == 1 || (length == 2 && name[1] == '.'))))
		return -EIO;
	if (orion_manifest_inode(manifest, dirent->inode, &inode) || dirent->type != (inode->mode & S_IFMT) >> 12)
		return -EIO;
	/* As each directory has one parent, nobody who starts at the root can walk in a circle. */
	if (S_ISDIR(inode->mode) && (inode->parent != directory || dirent->inode == ORION_ROOT))
		return -EIO;
	*ret = (struct orion_name){
		.text = name,
		.length = dirent->length,
		.inode = dirent->inode,
		.type = dirent->type,
	};
	return 0;
}

int orion_manifest_lookup(const struct orion_manifest *manifest, uint32_t directory, const char *name, size_t length,
			  uint32_t *ret)
{
	const struct orion_inode *inode;
	int result = get_directory(manifest, directory, &inode);

	if (result)
		return result;
	if (length > ORION_NAME_MAX)
		return -ENAMETOOLONG;
	const struct orion_dirent *low = manifest->dirents + inode->first, *high = low + inode->count;

	while (low < high) {
		const struct orion_dirent *middle = low + (high - low) / 2;
		const char *found;

		if (dirent_name(manifest, middle, &found))
			return -EIO;
		const int order = compare(name, length, found, middle->length);

		if (order < 0) {
			high = middle;
		} else if (order > 0) {
			low = middle + 1;
		} else {
			struct orion_name entry;

			if (check_entry(manifest, directory, middle, &entry))
				return -EIO;
			*ret = entry.inode;
			return 0;
		}
	}
	return -ENOENT;
}

int orion_manifest_entry(const struct orion_manifest *manifest, uint32_t directory, uint32_t position,
			 struct orion_name *ret)
{
	const struct orion_inode *inode;
	int result = get_directory(manifest, directory, &inode);

	if (result)
		return result;
	if (position >= inode->count)
		return -ENOENT;
	return check_entry(manifest, directory, manifest->dirents + inode->first + position, ret);
}

int orion_manifest_target(const struct orion_manifest *manifest, uint32_t number, const char **ret, size_t *ret_length)
{
	const struct orion_inode *inode;
	int result = orion_manifest_inode(manifest, number, &inode);

	if (result)
		return result;
	if (!S_ISLNK(inode->mode))
		return -EINVAL;
	const char *target = manifest->text + inode->first;

	if (memchr(target, 0, inode->size))
		return -EIO;
	*ret = target;
	*ret_length = inode->size;
	return 0;
}

static int xattr_name(const struct orion_manifest *manifest, const struct orion_xattr *xattr, const char **ret)
{
	if (!xattr->name_length || xattr->name_length > ORION_NAME_MAX ||
	    !inside(xattr->name, xattr->name_length, manifest->text_length))
		return -EIO;
	*ret = manifest->text + xattr->name;
	return memchr(*ret, 0, xattr->name_length) ? -EIO : 0;
}

int orion_manifest_xattr(const struct orion_manifest *manifest, uint32_t number, const char *name, size_t length,
			 const uint8_t **ret, size_t *ret_length)
{
	const struct orion_inode *inode;
	int result = orion_manifest_inode(manifest, number, &inode);

	if (result)
		return result;
	const struct orion_xattr *low = manifest->xattrs + inode->xattr_first, *high = low + inode->xattr_count;

	while (low < high) {
		const struct orion_xattr *middle = low + (high - low) / 2;
		const char *found;

		if (xattr_name(manifest, middle, &found))
			return -EIO;
		const int order = compare(name, length, found, middle->name_length);

		if (order < 0) {
			high = middle;
		} else if (order > 0) {
			low = middle + 1;
		} else {
			if (middle->value_length > ORION_XATTR_MAX ||
			    !inside(middle->value, middle->value_length, manifest->text_length))
				return -EIO;
			*ret = (const uint8_t *)manifest->text + middle->value;
			*ret_length = middle->value_length;
			return 0;
		}
	}
	return -ENODATA;
}

int orion_manifest_xattr_name(const struct orion_manifest *manifest, uint32_t number, uint32_t position, const char **ret,
			      size_t *ret_length)
{
	const struct orion_inode *inode;
	int result = orion_manifest_inode(manifest, number, &inode);

	if (result)
		return result;
	if (position >= inode->xattr_count)
		return -ENOENT;
	const struct orion_xattr *xattr = manifest->xattrs + inode->xattr_first + position;

	*ret_length = xattr->name_length;
	return xattr_name(manifest, xattr, ret);
}

/* The directory that holds a dirent; -ENOENT if none does. */
static int holder(const struct orion_manifest *manifest, uint32_t dirent, uint32_t *ret)
{
	for (uint32_t i = 0; i < manifest->inode_count; i++) {
		const struct orion_inode *inode;

		if (get_directory(manifest, i, &inode) == 0 && dirent >= inode->first &&
		    dirent - inode->first < inode->count) {
			*ret = i;
			return 0;
		}
	}
	return -ENOENT;
}

/* The first name of an inode that is no directory, and where. */
static int find_name(const struct orion_manifest *manifest, uint32_t number, uint32_t *ret_directory,
		     struct orion_name *ret)
{
	for (uint32_t i = 0; i < manifest->dirent_count; i++) {
		if (manifest->dirents[i].inode != number)
			continue;
		int result = holder(manifest, i, ret_directory);

		return result ? result : check_entry(manifest, *ret_directory, manifest->dirents + i, ret);
	}
	return -ENOENT;
}

/* The name of a directory in its parent. */
static int find_child(const struct orion_manifest *manifest, uint32_t directory, uint32_t child, struct orion_name *ret)
{
	for (uint32_t i = 0;; i++) {
		int result = orion_manifest_entry(manifest, directory, i, ret);

		if (result || ret->inode == child)
			return result;
	}
}

int orion_manifest_path(const struct orion_manifest *manifest, uint32_t number, char *ret, size_t capacity)
{
	const struct orion_inode *inode;
	int result = orion_manifest_inode(manifest, number, &inode);
	/* Written from its end. What is too long, such as a circle, loses its beginning. */
	char path[PATH_MAX];
	size_t at = sizeof path;

	while (!result && number != ORION_ROOT) {
		struct orion_name name;
		uint32_t directory = inode->parent;

		result = S_ISDIR(inode->mode) ? find_child(manifest, directory, number, &name)
					      : find_name(manifest, number, &directory, &name);
		if (result)
			return result;
		if (name.length + 1 > at)
			break;
		at -= at == sizeof path ? 0 : 1;
		if (at < sizeof path)
			path[at] = '/';
		at -= name.length;
		memcpy(path + at, name.text, name.length);
		number = directory;
		result = orion_manifest_inode(manifest, number, &inode);
	}
	if (result)
		return result;
	const size_t length = sizeof path - at < capacity ? sizeof path - at : capacity - 1;

	memcpy(ret, path + at, length);
	ret[length] = 0;
	return 0;
}
