/* Paths of inodes, and stat() of them. */
#define _GNU_SOURCE
#include "bundle_names.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NONE UINT32_MAX
/* Directories that a path may have; PATH_MAX ends it before. */
#define DEEPEST (PATH_MAX / 2)

/* Where an inode was seen: which entry of which directory. */
struct seen {
	uint32_t directory, position;
};

struct orion_bundle_names {
	const struct orion_manifest *manifest;
	const struct orion_bundle_index *index;
	int root;
	struct seen *seen; /* for each inode */
	uint8_t *done; /* for each inode */
	uint32_t next; /* chunk */
};

/* Every inode's first name. */
static void walk(struct orion_bundle_names *names)
{
	const struct orion_manifest *manifest = names->manifest;
	const struct orion_inode *inode;
	struct orion_name name;

	for (uint32_t number = 0; number < manifest->inode_count; number++) {
		if (orion_manifest_inode(manifest, number, &inode) || !S_ISDIR(inode->mode))
			continue;
		for (uint32_t i = 0; i < inode->count; i++)
			if (orion_manifest_entry(manifest, number, i, &name) == 0 && names->seen[name.inode].directory == NONE)
				names->seen[name.inode] = (struct seen){number, i};
	}
}

int orion_bundle_names_create(const struct orion_manifest *manifest, const struct orion_bundle_index *index,
			      int root, struct orion_bundle_names **ret)
{
	struct orion_bundle_names *names = calloc(1, sizeof(*names));

	if (!names)
		return -ENOMEM;
	names->manifest = manifest;
	names->index = index;
	names->seen = malloc(manifest->inode_count * sizeof(*names->seen));
	names->done = calloc(manifest->inode_count, 1);
	names->root = root;
	if (!names->seen || !names->done) {
		orion_bundle_names_destroy(names);
		return -ENOMEM;
	}
	memset(names->seen, 0xff, manifest->inode_count * sizeof(*names->seen));
	walk(names);
	*ret = names;
	return 0;
}

void orion_bundle_names_destroy(struct orion_bundle_names *names)
{
	free(names->seen);
	free(names->done);
	free(names);
}

/* From its end on; where the path begins in the buffer, or NULL if it has none that is short enough. */
static const char *path_of(const struct orion_bundle_names *names, uint32_t inode, char buffer[PATH_MAX])
{
	size_t at = PATH_MAX - 1;

	buffer[at] = 0;
	for (uint32_t depth = 0; inode != 0; depth++) {
		const struct seen *seen = &names->seen[inode];
		struct orion_name name;

		if (depth == DEEPEST || seen->directory == NONE ||
		    orion_manifest_entry(names->manifest, seen->directory, seen->position, &name) || name.length + 1 > at)
			return NULL;
		if (buffer[at])
			buffer[--at] = '/';
		at -= name.length;
		memcpy(buffer + at, name.text, name.length);
		inode = seen->directory;
	}
	return buffer + at;
}

void orion_bundle_names_look_up(struct orion_bundle_names *names, uint32_t inode)
{
	char buffer[PATH_MAX];
	struct stat status;

	if (names->done[inode])
		return;
	names->done[inode] = 1;

	const char *path = path_of(names, inode, buffer);

	if (path && *path)
		(void)fstatat(names->root, path, &status, AT_SYMLINK_NOFOLLOW);
}

bool orion_bundle_names_next(struct orion_bundle_names *names)
{
	while (names->next < names->index->header->chunk_count) {
		const uint32_t inode = names->index->chunks[names->next++].inode;

		if (!names->done[inode]) {
			orion_bundle_names_look_up(names, inode);
			return true;
		}
	}
	return false;
}
