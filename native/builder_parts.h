/* What the parts of a builder share; nobody else includes this. */
#ifndef ORION_BUILDER_PARTS_H
#define ORION_BUILDER_PARTS_H

#include "builder.h"
#include "digest.h"
#include "manifest.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

/* Work is handed to a thread in pieces of about so many bytes: enough for large writes, and little enough for the
 * processor's cache between reading, hashing and writing. A multiple of every block size. */
#define BATCH_BYTES (2u << 20)
#define MESSAGE_MAX 1024
#define WARNINGS_KEPT 100
/* In place of a block's number: none. */
#define NOWHERE UINT32_MAX
/* The new pack's position in the table of packs. */
#define NEW_PACK 0

static inline void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
#define scoped_fd __attribute__((cleanup(close_fd))) int

/* Memory that is freed all at once. */
struct arena {
	struct chunk *chunks;
	size_t left;
	uint8_t *next;
};

void *arena_take(struct arena *arena, size_t size);
char *arena_copy(struct arena *arena, const char *text, size_t length);
void arena_free(struct arena *arena);

/* (device, inode) to a number. */
struct inode_map {
	struct inode_slot *slots; /* a power of two of them; number NOWHERE: free */
	size_t count, capacity;
};

/* The number that is kept under the key from now on: the one that was there already, or the one given. */
int inode_map_add(struct inode_map *map, uint64_t device, uint64_t inode, uint32_t number, uint32_t *ret);
uint32_t inode_map_find(const struct inode_map *map, uint64_t device, uint64_t inode);
void inode_map_free(struct inode_map *map);

struct stamp {
	uint64_t device, inode, size;
	int64_t mtime, ctime;
	uint32_t mtime_nsec, ctime_nsec;
};

struct attributes {
	uint32_t length; /* bytes */
	uint8_t bytes[]; /* for each: uint16_t and uint32_t, the lengths of name and value, then both; sorted by name */
};

struct entry {
	const char *name; /* terminated */
	struct node *node;
};

/* An inode of the tree. */
struct node {
	struct stamp stamp;
	const char *name; /* one of its names, in parent */
	struct node *parent; /* NULL: the root */
	const struct attributes *attributes; /* NULL: none */
	uint64_t allocated; /* regular file: bytes on its disk */
	uint32_t number;
	uint32_t mode, uid, gid, rdev, nlink;
	bool gone; /* it vanished while it was read */
	bool linked; /* it had several names when it was seen */
	bool changed; /* it has to be read once more, by itself */
	bool settled; /* the numbering's: it has its number */
	uint32_t count; /* entries, or extents */
	union {
		struct entry *entries;
		const char *target;
		/* Block is a number in the table of blocks here. A single extent is kept in place. */
		struct orion_extent single;
		struct {
			struct orion_extent *list; /* count > 1 */
			uint32_t capacity;
		} many;
	};
};

const struct orion_extent *node_extents(const struct node *node);
/* Appends blocks to a file; neighbours are merged. block may be ORION_HOLE. */
int node_add(struct node *node, uint32_t file_block, uint32_t count, uint32_t block);
void node_clear(struct node *node);

/* Where a block's bytes are. */
struct place {
	uint64_t offset;
	uint32_t pack, length;
	uint32_t number; /* in the manifest that is written; NOWHERE: not there */
};

/* All blocks known, each once, found by digest. Only one thread at a time works with it: the one whose turn it is. */
struct block_table {
	struct place *places;
	uint8_t *digests; /* digest_size bytes each */
	uint32_t count, capacity;
	uint32_t *slots;
	size_t slot_count;
	uint32_t digest_size;
};

/* The block's number, added with that place if it is new. */
int block_table_add(struct block_table *table, const uint8_t *digest, const struct place *place, uint32_t *ret,
		    bool *ret_new);
uint32_t block_table_find(const struct block_table *table, const uint8_t *digest);
void block_table_free(struct block_table *table);

/* Whether a file's extents are what a file of its size has: all its blocks in order, each of the right length. */
bool node_is_whole(const struct node *node, const struct block_table *table, uint32_t block_size);

struct known_file {
	struct stamp stamp;
	const struct orion_manifest *manifest; /* NULL: from a journal */
	const uint32_t *blocks; /* the manifest's numbers to the table's */
	union {
		uint32_t number; /* in that manifest */
		struct {
			struct orion_extent *list;
			uint32_t count;
		} extents;
	};
};

struct source {
	struct orion_manifest manifest;
	uint32_t *blocks;
	struct source *next;
};

struct pack {
	uint8_t id[16];
	uint64_t size;
};

struct orion_builder {
	int root, work, pack, journal;
	char name[96], label[96];
	uint32_t digest_kind, block_size, jobs;
	bool rehash, cross;
	struct timespec started;

	const char **patterns;
	size_t pattern_count;
	bool paths_matter; /* a pattern has a slash */

	struct arena arena;
	struct arena *walk_arenas; /* one for each thread */
	struct node *top;
	struct node **nodes; /* by number */
	uint32_t node_count;

	struct block_table blocks;
	struct pack *packs;
	uint32_t pack_count;
	struct source *sources;
	struct known_file *known;
	uint32_t known_count, known_capacity;
	struct inode_map known_map;

	uint64_t pack_end; /* the turn's owner */
	uint64_t journal_end; /* after resuming: appended to */
	uint8_t pack_id[16];

	atomic_bool stop;
	pthread_mutex_t message_lock;
	int failure; /* message_lock; the first one */
	char message[MESSAGE_MAX]; /* message_lock */
	char *warnings[WARNINGS_KEPT]; /* message_lock */
	atomic_uint warning_count;

	/* What orion_builder_progress() shows. */
	atomic_uint phase;
	atomic_ullong inodes, files, content_bytes, known_files, known_bytes, files_total, bytes_total, files_done,
		bytes_done, new_bytes, resumed_bytes, store_blocks, used_new_blocks, manifest_bytes, stored_bytes, pack_bytes;
};

/* Keeps the first failure and stops all threads; returns code. node may be NULL. */
int builder_fail(struct orion_builder *builder, int code, const struct node *node, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
void builder_warn(struct orion_builder *builder, const struct node *node, const char *what);
/* Its path from the root on, cut at the front where it is too long. */
const char *node_path(const struct node *node, char *buffer, size_t capacity);
/* Runs a function in all of the builder's threads, which get 0, 1, 2, … as their number; returns the failure. */
int builder_run(struct orion_builder *builder, void (*work)(struct orion_builder *, void *, uint32_t), void *argument);

/* builder_walk.c */
int open_node_directory(const struct orion_builder *builder, const struct node *directory);
void stamp_of(const struct stat *st, struct stamp *ret);
bool same_stamp(const struct stamp *one, const struct stamp *other);
/* The attributes at a path, or (path NULL) of an open file. */
int read_attributes(struct arena *arena, const char *path, int fd, const struct attributes **ret);
void node_from_stat(struct node *node, const struct stat *st);
/* Gives every inode its number, and counts its names. */
int number_nodes(struct orion_builder *builder);

/* builder_known.c: the scan on the disk, a header and its records. */
#define SCAN_MAGIC "ORIONSC\n"
#define SCAN_VERSION 1

struct scan_header {
	char magic[8];
	uint32_t version, record_size;
	uint64_t count;
	uint64_t checksum; /* of the records */
	uint8_t manifest[ORION_DIGEST_MAX]; /* which one it belongs to */
};

struct scan_record {
	uint64_t device, inode;
	int64_t ctime;
	uint32_t ctime_nsec;
	uint32_t number;
};

/* Whether a file that was seen with this stamp could have changed since without showing it. */
bool too_young(const struct orion_builder *builder, const struct stamp *stamp);
/* -EEXIST if it is known already and shall stay so. */
int add_known(struct orion_builder *builder, const struct known_file *file, bool replace);
/* Gives the file the extents that it is known to have; 1 if it is known. */
int match_known(struct orion_builder *builder, struct node *node);
uint64_t checksum(const void *bytes, size_t length);
int write_scan(struct orion_builder *builder, const uint8_t *manifest_digest);

/* builder_journal.c: the journal on the disk, a header and frames of records. */
#define JOURNAL_MAGIC "ORIONJL\n"
#define JOURNAL_VERSION 1

struct journal_header {
	char magic[8];
	uint32_t version, digest_kind, block_size, reserved;
};

struct frame {
	uint64_t length, checksum; /* of what follows */
};

enum record_kind { BLOCK_WRITTEN = 1, FILE_DONE = 2 };

/* Followed by the digest. */
struct block_record {
	uint32_t kind, length;
	uint64_t offset;
};

/* Followed by its extents: each an orion_extent, and, where that is no hole, the digests of its blocks. */
struct file_record {
	uint32_t kind, extents;
	struct stamp stamp;
};

struct record { /* of a journal, while it grows */
	uint8_t *bytes;
	size_t length, capacity;
};
int journal_block(struct orion_builder *builder, struct record *record, uint32_t block);
int journal_file(struct orion_builder *builder, struct record *record, const struct node *node);
/* Appends what was collected, and empties it. */
int journal_append(struct orion_builder *builder, struct record *record);

/* The whole of a small helper: all bytes, or a negative errno. */
int write_all(int fd, const void *bytes, size_t length, uint64_t offset);

#endif
