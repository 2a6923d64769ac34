/* The walk: every inode of the tree, its names and attributes, and the order that they get in the manifest.
 *
 * Directories are read by all threads, in whatever order; sorting and numbering make the result the same each time.
 * No path is ever followed: each name is looked up in its open directory, and no link is taken for what it points to.
 */
#define _GNU_SOURCE
#include "builder_parts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#define TARGET_MAX 4095
#define ATTRIBUTES_MAX 65536 /* bytes of a list of names, and of a value: the kernel's own limit */

static void close_stream(DIR **stream)
{
	if (*stream)
		closedir(*stream);
}

/* Directories found and not read yet: the last one found is read first, which keeps them few. */
struct queue {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct node **waiting; /* lock */
	size_t count, capacity; /* lock */
	uint32_t reading; /* lock: threads that may still find some */
};

static int put(struct queue *queue, struct node *directory)
{
	int result = 0;

	pthread_mutex_lock(&queue->lock);
	if (queue->count == queue->capacity) {
		const size_t capacity = queue->capacity ? queue->capacity * 2 : 64;
		struct node **grown = realloc(queue->waiting, capacity * sizeof(struct node *));

		if (grown) {
			queue->waiting = grown;
			queue->capacity = capacity;
		} else {
			result = -ENOMEM;
		}
	}
	if (!result)
		queue->waiting[queue->count++] = directory;
	pthread_cond_signal(&queue->changed);
	pthread_mutex_unlock(&queue->lock);
	return result;
}

/* The next directory; NULL when there will be no more. */
static struct node *get(struct orion_builder *builder, struct queue *queue, bool *reading)
{
	struct node *directory = NULL;

	pthread_mutex_lock(&queue->lock);
	if (*reading)
		queue->reading--;
	while (!queue->count && queue->reading && !builder->stop)
		pthread_cond_wait(&queue->changed, &queue->lock);
	*reading = queue->count && !builder->stop;
	if (*reading) {
		directory = queue->waiting[--queue->count];
		queue->reading++;
	} else {
		pthread_cond_broadcast(&queue->changed);
	}
	pthread_mutex_unlock(&queue->lock);
	return directory;
}

int open_node_directory(const struct orion_builder *builder, const struct node *directory)
{
	const struct node *chain[PATH_MAX];
	size_t depth = 0;
	int found;

	for (const struct node *at = directory; at->parent; at = at->parent) {
		if (depth == sizeof chain / sizeof *chain)
			return -ENAMETOOLONG;
		chain[depth++] = at;
	}
	if (!depth) {
		found = openat(builder->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		return found < 0 ? -errno : found;
	}
	found = builder->root;
	while (depth--) {
		/* O_PATH on the way: no permission to read is needed there. */
		const int below = openat(found, chain[depth]->name,
					 (depth ? O_PATH : O_RDONLY) | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		const int error = errno;

		if (found != builder->root)
			close(found);
		if (below < 0)
			return -error;
		found = below;
	}
	return found;
}

void stamp_of(const struct stat *st, struct stamp *ret)
{
	*ret = (struct stamp){
		.device = st->st_dev,
		.inode = st->st_ino,
		.size = (uint64_t)st->st_size,
		.mtime = st->st_mtim.tv_sec,
		.ctime = st->st_ctim.tv_sec,
		.mtime_nsec = (uint32_t)st->st_mtim.tv_nsec,
		.ctime_nsec = (uint32_t)st->st_ctim.tv_nsec,
	};
}

bool same_stamp(const struct stamp *one, const struct stamp *other)
{
	return one->device == other->device && one->inode == other->inode && one->size == other->size &&
	       one->mtime == other->mtime && one->ctime == other->ctime && one->mtime_nsec == other->mtime_nsec &&
	       one->ctime_nsec == other->ctime_nsec;
}

void node_from_stat(struct node *node, const struct stat *st)
{
	const uint32_t low = minor(st->st_rdev), high = major(st->st_rdev);

	stamp_of(st, &node->stamp);
	node->allocated = (uint64_t)st->st_blocks * 512;
	node->mode = st->st_mode;
	node->uid = st->st_uid;
	node->gid = st->st_gid;
	node->rdev = S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode) ? (low & 0xff) | high << 8 | (low & ~0xffu) << 12 : 0;
	node->linked = st->st_nlink > 1;
}

static bool kept(const char *name)
{
	return strncmp(name, "user.", 5) == 0 || strncmp(name, "trusted.", 8) == 0 || strncmp(name, "security.", 9) == 0 ||
	       strncmp(name, "system.posix_acl_", 17) == 0;
}

static int compare_names(const void *one, const void *other)
{
	return strcmp(*(const char *const *)one, *(const char *const *)other);
}

static ssize_t list_names(const char *path, int fd, char *names, size_t capacity)
{
	return path ? llistxattr(path, names, capacity) : flistxattr(fd, names, capacity);
}

static ssize_t get_value(const char *path, int fd, const char *name, void *value, size_t capacity)
{
	return path ? lgetxattr(path, name, value, capacity) : fgetxattr(fd, name, value, capacity);
}

int read_attributes(struct arena *arena, const char *path, int fd, const struct attributes **ret)
{
	char few[512];
	ssize_t length = list_names(path, fd, few, sizeof few);
	const char *sorted[1024];
	size_t count = 0, used = 0;

	*ret = NULL;
	if (length == 0 || (length < 0 && (errno == ENOTSUP || errno == ENODATA)))
		return 0;
	if (length < 0 && errno != ERANGE)
		return -errno;
	/* Almost no inode gets here, so that memory may be taken at leisure. */
	__attribute__((cleanup(arena_free))) struct arena scratch = {0};
	char *names = arena_take(&scratch, ATTRIBUTES_MAX);
	uint8_t *value = arena_take(&scratch, ATTRIBUTES_MAX);

	if (!names || !value)
		return -ENOMEM;
	length = list_names(path, fd, names, ATTRIBUTES_MAX);
	if (length < 0)
		return -errno;
	for (const char *name = names; name < names + length; name += strlen(name) + 1)
		if (kept(name) && count < sizeof sorted / sizeof *sorted)
			sorted[count++] = name;
	qsort(sorted, count, sizeof *sorted, compare_names);
	struct attributes *whole = NULL;

	for (size_t i = 0; i < count; i++) {
		const ssize_t size = get_value(path, fd, sorted[i], value, ATTRIBUTES_MAX);

		if (size < 0 && errno == ENODATA)
			continue;
		if (size < 0) {
			const int error = errno;

			free(whole);
			return -error;
		}
		const uint16_t name_length = (uint16_t)strlen(sorted[i]);
		const uint32_t value_length = (uint32_t)size;
		struct attributes *grown =
			realloc(whole, sizeof *whole + used + sizeof name_length + sizeof value_length + name_length + value_length);

		if (!grown) {
			free(whole);
			return -ENOMEM;
		}
		whole = grown;
		memcpy(whole->bytes + used, &name_length, sizeof name_length);
		used += sizeof name_length;
		memcpy(whole->bytes + used, &value_length, sizeof value_length);
		used += sizeof value_length;
		memcpy(whole->bytes + used, sorted[i], name_length);
		used += name_length;
		memcpy(whole->bytes + used, value, value_length);
		used += value_length;
	}
	if (!whole)
		return 0;
	whole->length = (uint32_t)used;
	struct attributes *copy = arena_take(arena, sizeof *whole + used);

	if (copy)
		memcpy(copy, whole, sizeof *whole + used);
	free(whole);
	*ret = copy;
	return copy ? 0 : -ENOMEM;
}

static bool excluded(const struct orion_builder *builder, const struct node *directory, const char *name)
{
	char buffer[PATH_MAX + NAME_MAX], path[PATH_MAX + 2 * NAME_MAX];

	if (!builder->pattern_count)
		return false;
	if (builder->paths_matter) {
		const char *before = node_path(directory, buffer, sizeof buffer);

		if (directory->parent)
			snprintf(path, sizeof path, "%s/%s", before, name);
		else
			snprintf(path, sizeof path, "%s", name);
	}
	for (size_t i = 0; i < builder->pattern_count; i++) {
		const char *pattern = builder->patterns[i];
		const bool whole = strchr(pattern, '/');

		if (fnmatch(pattern + (*pattern == '/'), whole ? path : name, whole ? FNM_PATHNAME : 0) == 0)
			return true;
	}
	return false;
}

/* One name of a directory. -ENOENT if it is there no more. */
static int visit(struct arena *arena, int fd, struct node *directory, const char *name,
		 struct node **ret)
{
	struct stat st;
	char path[64 + NAME_MAX];
	struct node *node;
	int result;

	if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT))
		return -errno;
	node = arena_take(arena, sizeof *node);
	if (!node)
		return -ENOMEM;
	*node = (struct node){.parent = directory, .number = NOWHERE};
	node->name = arena_copy(arena, name, strlen(name));
	if (!node->name)
		return -ENOMEM;
	node_from_stat(node, &st);
	if (S_ISLNK(st.st_mode)) {
		char target[TARGET_MAX + 1];
		const ssize_t length = readlinkat(fd, name, target, sizeof target);

		if (length < 0)
			return -errno;
		node->target = arena_copy(arena, target, (size_t)length);
		if (!node->target)
			return -ENOMEM;
		node->stamp.size = (uint64_t)length;
	}
	/* The calls for extended attributes know no directory descriptors. */
	snprintf(path, sizeof path, "/proc/self/fd/%d/%s", fd, name);
	result = read_attributes(arena, path, -1, &node->attributes);
	*ret = node;
	return result;
}

static int compare_entries(const void *one, const void *other)
{
	return strcmp(((const struct entry *)one)->name, ((const struct entry *)other)->name);
}

static int read_names(struct orion_builder *builder, struct arena *arena, struct queue *queue, struct node *directory,
		      DIR *stream)
{
	struct entry *entries = NULL;
	uint32_t count = 0, capacity = 0;
	int result = 0;

	while (!result && !builder->stop) {
		struct node *node;

		errno = 0;
		const struct dirent *dirent = readdir(stream);

		if (!dirent) {
			result = -errno;
			break;
		}
		if (strcmp(dirent->d_name, ".") == 0 || strcmp(dirent->d_name, "..") == 0 ||
		    excluded(builder, directory, dirent->d_name))
			continue;
		result = visit(arena, dirfd(stream), directory, dirent->d_name, &node);
		if (result == -ENOENT) {
			const struct node missing = {.name = dirent->d_name, .parent = directory};

			builder_warn(builder, &missing, "vanished, and is left out");
			result = 0;
			continue;
		}
		if (result) {
			const struct node bad = {.name = dirent->d_name, .parent = directory};

			result = builder_fail(builder, result, &bad, "%s", strerror(-result));
			break;
		}
		if (count == capacity) {
			struct entry *grown = realloc(entries, (capacity = capacity ? capacity * 2 : 16) * sizeof *entries);

			if (!grown) {
				result = -ENOMEM;
				break;
			}
			entries = grown;
		}
		entries[count++] = (struct entry){node->name, node};
		if (S_ISDIR(node->mode) && (builder->cross || node->stamp.device == builder->top->stamp.device))
			result = put(queue, node);
		builder->inodes++;
	}
	if (!result && count) {
		qsort(entries, count, sizeof *entries, compare_entries);
		directory->entries = arena_take(arena, count * sizeof *entries);
		if (directory->entries)
			memcpy(directory->entries, entries, count * sizeof *entries);
		else
			result = -ENOMEM;
		directory->count = directory->entries ? count : 0;
	}
	free(entries);
	return result;
}

static int read_directory(struct orion_builder *builder, struct arena *arena, struct queue *queue,
			  struct node *directory)
{
	const int fd = open_node_directory(builder, directory);

	if (fd == -ENOENT && directory->parent) {
		builder_warn(builder, directory, "vanished, and is left out");
		directory->gone = true;
		return 0;
	}
	if (fd < 0)
		return fd;
	__attribute__((cleanup(close_stream))) DIR *stream = fdopendir(fd);

	if (!stream) {
		close(fd);
		return -ENOMEM;
	}
	return read_names(builder, arena, queue, directory, stream);
}

static void walk(struct orion_builder *builder, void *argument, uint32_t number)
{
	struct queue *queue = argument;
	bool reading = false;
	struct node *directory;

	while ((directory = get(builder, queue, &reading))) {
		const int result = read_directory(builder, builder->walk_arenas + number, queue, directory);

		if (result)
			builder_fail(builder, result, directory, "%s", strerror(-result));
	}
}

static int add_node(struct orion_builder *builder, uint32_t *capacity, struct node *node)
{
	if (builder->node_count == *capacity) {
		struct node **grown;

		if (*capacity >= UINT32_MAX / 2)
			return -EOVERFLOW;
		*capacity = *capacity ? *capacity * 2 : 1024;
		grown = realloc(builder->nodes, *capacity * sizeof(struct node *));
		if (!grown)
			return -ENOMEM;
		builder->nodes = grown;
	}
	node->number = builder->node_count;
	node->settled = true;
	builder->nodes[builder->node_count++] = node;
	return 0;
}

/* Numbers what is in one directory, in the order of the names. */
static int number_entries(struct orion_builder *builder, uint32_t *capacity, struct inode_map *links,
			  struct node *directory)
{
	uint32_t left = 0;
	int result;

	for (uint32_t i = 0; i < directory->count; i++) {
		struct entry entry = directory->entries[i];

		if (entry.node->gone)
			continue;
		if (!S_ISDIR(entry.node->mode)) {
			uint32_t number = builder->node_count;

			if (entry.node->linked && (result = inode_map_add(links, entry.node->stamp.device,
									  entry.node->stamp.inode, number, &number)))
				return result;
			if (number != builder->node_count)
				entry.node = builder->nodes[number];
		} else {
			directory->nlink++;
		}
		if (!entry.node->settled) {
			entry.node->nlink = S_ISDIR(entry.node->mode) ? 2 : 0;
			if ((result = add_node(builder, capacity, entry.node)))
				return result;
		}
		if (!S_ISDIR(entry.node->mode))
			entry.node->nlink++;
		directory->entries[left++] = entry;
	}
	directory->count = left;
	return 0;
}

int number_nodes(struct orion_builder *builder)
{
	__attribute__((cleanup(inode_map_free))) struct inode_map links = {0};
	uint32_t capacity = 0;
	struct node **stack = NULL;
	size_t depth = 0, room = 0;
	int result;

	for (uint32_t i = 0; i < builder->node_count; i++)
		builder->nodes[i]->settled = false;
	free(builder->nodes);
	builder->nodes = NULL;
	builder->node_count = 0;
	builder->top->nlink = 2;
	result = add_node(builder, &capacity, builder->top);
	for (struct node *directory = builder->top; !result && directory; directory = depth ? stack[--depth] : NULL) {
		result = number_entries(builder, &capacity, &links, directory);
		/* The stack gives back the last one first. */
		for (uint32_t i = directory->count; !result && i--;) {
			if (!S_ISDIR(directory->entries[i].node->mode))
				continue;
			if (depth == room) {
				struct node **grown = realloc(stack, (room = room ? room * 2 : 64) * sizeof(struct node *));

				if (!grown) {
					result = -ENOMEM;
					break;
				}
				stack = grown;
			}
			stack[depth++] = directory->entries[i].node;
		}
	}
	free(stack);
	return result;
}

static int take_top(struct orion_builder *builder)
{
	struct stat st;

	if (fstat(builder->root, &st))
		return -errno;
	builder->top = arena_take(&builder->arena, sizeof *builder->top);
	if (!builder->top)
		return -ENOMEM;
	*builder->top = (struct node){.name = ""};
	node_from_stat(builder->top, &st);
	builder->inodes++;
	return read_attributes(&builder->arena, NULL, builder->root, &builder->top->attributes);
}

/* What the steps after this one have to do. */
static int match_files(struct orion_builder *builder)
{
	for (uint32_t i = 0; i < builder->node_count && !builder->stop; i++) {
		struct node *node = builder->nodes[i];
		const uint64_t bytes = node->allocated < node->stamp.size ? node->allocated : node->stamp.size;
		int result;

		if (!S_ISREG(node->mode))
			continue;
		if (node->stamp.size / builder->block_size >= NOWHERE - 1)
			return builder_fail(builder, -EFBIG, node, "%llu bytes are more than %u blocks of %u",
					    (unsigned long long)node->stamp.size, NOWHERE - 1, builder->block_size);
		builder->files++;
		builder->content_bytes += bytes;
		if (!node->stamp.size)
			continue;
		result = match_known(builder, node);
		if (result < 0)
			return result;
		if (result) {
			builder->known_files++;
			builder->known_bytes += bytes;
		} else {
			builder->files_total++;
			builder->bytes_total += bytes;
		}
	}
	return builder->failure;
}

int orion_builder_walk(struct orion_builder *builder)
{
	struct queue queue = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
	int result;

	builder->phase = ORION_BUILD_WALKING;
	result = take_top(builder);
	if (!result)
		result = put(&queue, builder->top);
	if (!result)
		result = builder_run(builder, walk, &queue);
	free(queue.waiting);
	if (!result)
		result = number_nodes(builder);
	if (!result)
		result = match_files(builder);
	return result && !builder->failure ? builder_fail(builder, result, NULL, "%s", strerror(-result)) : result;
}
