/* The manifest: one flat file that names everything in a release. docs/manifest.md is the specification.
 *
 * It is used where it lies, without parsing. Nothing in it is trusted: each function checks what it reads against
 * the file's own length before it follows it, so that any bytes may be opened. All integers are little-endian.
 */
#ifndef ORION_MANIFEST_H
#define ORION_MANIFEST_H

#include "digest.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORION_MANIFEST_MAGIC "ORIONMF\n"
#define ORION_MANIFEST_VERSION 1
#define ORION_NAME_MAX 255 /* bytes; also of an attribute */
#define ORION_XATTR_MAX 65536 /* bytes of a value */
#define ORION_TARGET_MAX 4095
/* In place of a block's number: a run of zeros that no pack holds. */
#define ORION_HOLE UINT32_MAX
#define ORION_ROOT 0

enum orion_section {
	ORION_INODES, /* struct orion_inode; number 0 is the root */
	ORION_DIRENTS, /* struct orion_dirent; those of a directory follow each other, sorted by memcmp of the names */
	ORION_EXTENTS, /* struct orion_extent; those of a file follow each other, without gaps, from block 0 on */
	ORION_BLOCKS, /* struct orion_place; each content once */
	ORION_DIGESTS, /* digest_size bytes for each block, in the blocks' order */
	ORION_FILE_DIGESTS, /* digest_size bytes for each content of more than one block */
	ORION_XATTRS, /* struct orion_xattr; those of an inode follow each other, sorted by name; sets are shared */
	ORION_PACKS, /* struct orion_pack */
	ORION_BYTES, /* names, symlinks' targets, names and values of extended attributes; counted in bytes */
	ORION_SECTIONS,
};

struct orion_range {
	uint64_t offset; /* bytes from the file's beginning, a multiple of 8 */
	uint64_t count; /* records; at most UINT32_MAX */
};

struct orion_header {
	uint8_t magic[8];
	uint32_t version;
	uint32_t header_size; /* sizeof(struct orion_header) */
	uint64_t file_size;
	uint32_t digest_kind;
	uint32_t digest_size;
	uint32_t block_size; /* bytes, a power of two from 4096 to 1 MiB */
	uint32_t flags; /* ORION_HAS_… */
	uint64_t content_bytes; /* sum of all regular files' sizes, each inode once */
	uint64_t stored_bytes; /* sum of all blocks' lengths */
	struct orion_range sections[ORION_SECTIONS];
	char name[96]; /* of the release, padded with NUL; at least one NUL */
	char label[96]; /* its version */
	uint8_t reserved[88]; /* zero */
	uint8_t digest[ORION_DIGEST_MAX]; /* of all other bytes of the file, in order; padded with zeros */
};

#define ORION_HAS_XATTRS 1u
#define ORION_HAS_ACLS 2u

struct orion_inode {
	uint64_t size; /* regular file: bytes; symlink: bytes of the target; else 0 */
	int64_t mtime; /* seconds; access and change times are shown as the same */
	uint32_t mtime_nsec;
	uint32_t mode;
	uint32_t uid, gid;
	uint32_t nlink; /* directory: 2 and its subdirectories; else the dirents that name it */
	uint32_t rdev; /* as the kernel's new_encode_dev() has it */
	uint32_t first; /* directory: its first dirent; file: its first extent; symlink: its target in BYTES; else 0 */
	uint32_t count; /* directory: dirents; file: extents; else 0 */
	uint32_t parent; /* directory: the one that holds it, the root itself; else 0. What stops cycles. */
	uint32_t xattr_first;
	uint32_t xattr_count;
	uint32_t file_digest; /* file with more than one block: its number in FILE_DIGESTS; else 0 */
};

struct orion_dirent {
	uint32_t name; /* in BYTES */
	uint32_t inode;
	uint16_t length; /* of the name, 1 to ORION_NAME_MAX */
	uint8_t type; /* DT_… */
	uint8_t reserved;
};

struct orion_extent {
	uint32_t file_block; /* the first block of the file that it covers */
	uint32_t count; /* blocks, at least one */
	uint32_t block; /* the first of as many numbers in BLOCKS; or ORION_HOLE */
	uint32_t reserved;
};

struct orion_place {
	uint64_t offset; /* bytes from the pack's beginning */
	uint32_t pack;
	uint32_t length; /* bytes: block_size, less at a file's end */
};

struct orion_xattr {
	uint32_t name, value; /* in BYTES */
	uint32_t value_length;
	uint16_t name_length;
	uint16_t reserved;
};

struct orion_pack {
	uint8_t id[16]; /* the file packs/<32 hexadecimal digits>.pack */
	uint64_t size; /* bytes */
	uint64_t reserved;
};

_Static_assert(sizeof(struct orion_header) == 480 + ORION_DIGEST_MAX, "the header has 512 bytes");
_Static_assert(sizeof(struct orion_inode) == 64, "");
_Static_assert(sizeof(struct orion_dirent) == 12, "");

/* An opened manifest. It points into the caller's bytes, which must stay; it owns nothing. */
struct orion_manifest {
	const uint8_t *bytes;
	size_t length;
	const struct orion_header *header;
	const struct orion_inode *inodes;
	const struct orion_dirent *dirents;
	const struct orion_extent *extents;
	const struct orion_place *blocks;
	const uint8_t *digests, *file_digests;
	const struct orion_xattr *xattrs;
	const struct orion_pack *packs;
	const char *text; /* ORION_BYTES */
	uint32_t inode_count, dirent_count, extent_count, block_count, file_digest_count, xattr_count, pack_count;
	uint32_t text_length;
	uint32_t block_shift;
};

struct orion_name {
	const char *text; /* not terminated */
	uint32_t length;
	uint32_t inode;
	uint8_t type; /* DT_… */
};

/* One block of a file. */
struct orion_block_of_file {
	uint32_t number; /* in BLOCKS; or ORION_HOLE */
	uint32_t length; /* bytes of the file that it holds */
	uint64_t offset; /* in the pack */
	uint32_t pack;
	const uint8_t *digest; /* NULL for a hole */
};

/* Checks the header and that each section lies inside, in O(1); bytes must be aligned to 8.
 *
 * They should be memory of the process's own: a page of a mapped file that a server cannot give kills whoever reads it.
 * -EINVAL: no manifest; -EPROTONOSUPPORT: another version; -EBADMSG: broken.
 */
int orion_manifest_open(const uint8_t *bytes, size_t length, struct orion_manifest *ret);

/* The digest that belongs into a manifest's header: of all bytes but those of the digest itself. length: at least a
 * header's. */
void orion_manifest_digest(uint32_t kind, const uint8_t *bytes, size_t length, uint8_t ret[ORION_DIGEST_MAX]);

/* Whether the whole file has the digest that its header names: 0 or -EBADMSG. */
int orion_manifest_verify(const struct orion_manifest *manifest);

/* Checks every record, and that a builder could have left them so; O(n log n), and 10 bytes of memory for each inode,
 * 4 for each block. -EBADMSG, with one line of text that names the record at ret_problem (if not NULL; at most capacity
 * bytes, terminated); -ENOMEM. What it lets pass is in docs/manifest.md. */
int orion_manifest_check(const struct orion_manifest *manifest, char *ret_problem, size_t capacity);

/* What is said of -EIO below goes for all: the records that would give the answer are broken. */

/* -ESTALE if there is no such inode; -EIO. What it gives has a type, a size that an off_t holds, a name as a symlink's
 * target, and records (dirents, extents, attributes) that are there. */
int orion_manifest_inode(const struct orion_manifest *manifest, uint32_t number, const struct orion_inode **ret);

/* -ENOENT, -ENOTDIR, -ENAMETOOLONG, -EIO. O(log n) in the directory's size. "." and ".." are not there. */
int orion_manifest_lookup(const struct orion_manifest *manifest, uint32_t directory, const char *name, size_t length,
			  uint32_t *ret);

/* The entry at a position, from 0: -ENOENT after the last; -ENOTDIR; -EIO for a name that no file can have, a type that
 * is not the inode's, a directory that has another parent. */
int orion_manifest_entry(const struct orion_manifest *manifest, uint32_t directory, uint32_t position,
			 struct orion_name *ret);

/* A symlink's target, not terminated: 1 to 4095 bytes without NUL. -EINVAL for what is no symlink; -EIO. */
int orion_manifest_target(const struct orion_manifest *manifest, uint32_t number, const char **ret, size_t *ret_length);

/* -ENODATA if there is no such attribute; -EIO. O(log n) in their number. */
int orion_manifest_xattr(const struct orion_manifest *manifest, uint32_t number, const char *name, size_t length,
			 const uint8_t **ret, size_t *ret_length);
/* The name of the attribute at a position, from 0: -ENOENT after the last; -EIO. */
int orion_manifest_xattr_name(const struct orion_manifest *manifest, uint32_t number, uint32_t position, const char **ret,
			      size_t *ret_length);

/* Which block holds byte file_block << block_shift of a regular file. O(log n) in its extents. -ENOENT beyond the
 * end, -EISDIR or -EINVAL for what is no file, -EIO. */
int orion_manifest_block(const struct orion_manifest *manifest, uint32_t number, uint64_t file_block,
			 struct orion_block_of_file *ret);

/* Where data, or else a hole, begins at or after an offset in a regular file; at its end there is a hole. O(n log n) in its
 * extents. -ENXIO if there is none or the offset is not in the file, -EISDIR or -EINVAL for what is no file, -EIO. */
int orion_manifest_seek(const struct orion_manifest *manifest, uint32_t number, uint64_t offset, bool data, uint64_t *ret);

/* Bytes that take room in a regular file, for st_blocks: holes left out. O(n) in its extents. The inode must be one
 * that orion_manifest_inode() gave. */
uint64_t orion_manifest_allocated(const struct orion_manifest *manifest, const struct orion_inode *inode);

/* The digest of a regular file's content, as the manifest has it; -EISDIR or -EINVAL for what is no file, -EIO. */
int orion_manifest_file_digest(const struct orion_manifest *manifest, uint32_t number, uint8_t ret[ORION_DIGEST_MAX]);

/* Whether that is the digest of the digests of its blocks: 0 or -EBADMSG. O(n) in its size, holes included: a hostile
 * file of 2^62 bytes would take days, so ask only for what is not much larger than what one would read. */
int orion_manifest_file_verify(const struct orion_manifest *manifest, uint32_t number);

/* A file that has a block in it, and as which one: for messages. O(n) in the manifest. -ENOENT if none has it. */
int orion_manifest_block_user(const struct orion_manifest *manifest, uint32_t block, uint32_t *ret_number,
			      uint32_t *ret_file_block);

/* A path of the inode, from the root without a leading slash, terminated, cut to capacity (at least one byte): for
 * messages. O(n) in the manifest. -ENOENT if it has none; -EIO. */
int orion_manifest_path(const struct orion_manifest *manifest, uint32_t number, char *ret, size_t capacity);

#endif
