/* The rival: the least that a FUSE server in C can do, on libfuse's low-level interface, for a local directory.
 *
 *	minimal SOURCE MOUNTPOINT
 *
 * Read-only, in the foreground, one thread, timeouts without end, what is cached is kept. libfuse's example
 * passthrough_ll does it so: one O_PATH descriptor for each inode that the kernel knows. Nothing is slower than it
 * need be, and it is used with a source in RAM: what it costs is what the kernel, libfuse and two system calls cost.
 */
#define FUSE_USE_VERSION 34
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOREVER 1e9 /* seconds */
#define BUCKETS (1 << 16)
#define READ_SIZE (1 << 20)

struct node {
	struct node *next; /* in its bucket */
	dev_t device;
	ino_t number;
	uint64_t lookups;
	int fd; /* O_PATH */
};

static struct node root;
static struct node *buckets[BUCKETS];
static char buffer[READ_SIZE];

static struct node *node_of(fuse_ino_t id)
{
	return id == FUSE_ROOT_ID ? &root : (struct node *)(uintptr_t)id;
}

static struct node **place(const struct stat *found)
{
	struct node **at = &buckets[(found->st_ino ^ found->st_dev) % BUCKETS];

	while (*at && ((*at)->number != found->st_ino || (*at)->device != found->st_dev))
		at = &(*at)->next;
	return at;
}

/* 0, with one lookup counted; or an errno. */
static int find(fuse_ino_t parent, const char *name, struct fuse_entry_param *ret)
{
	int fd = openat(node_of(parent)->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return errno;
	memset(ret, 0, sizeof(*ret));
	ret->attr_timeout = ret->entry_timeout = FOREVER;
	if (fstatat(fd, "", &ret->attr, AT_EMPTY_PATH)) {
		int error = errno;

		close(fd);
		return error;
	}
	struct node **at = place(&ret->attr);

	if (*at) {
		close(fd);
	} else {
		*at = calloc(1, sizeof(**at));
		if (!*at) {
			close(fd);
			return ENOMEM;
		}
		(*at)->device = ret->attr.st_dev;
		(*at)->number = ret->attr.st_ino;
		(*at)->fd = fd;
	}
	(*at)->lookups++;
	ret->ino = (uintptr_t)*at;
	return 0;
}

static void minimal_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry;
	int error = find(parent, name, &entry);

	if (error == ENOENT) { /* inode 0: the kernel remembers that there is none */
		entry = (struct fuse_entry_param){.entry_timeout = FOREVER};
		error = 0;
	}
	if (error)
		fuse_reply_err(request, error);
	else
		fuse_reply_entry(request, &entry);
}

static void forget(fuse_ino_t id, uint64_t lookups)
{
	struct node *node = node_of(id);

	if (node == &root || (node->lookups -= lookups))
		return;
	struct stat key = {.st_dev = node->device, .st_ino = node->number};
	struct node **at = place(&key);

	*at = node->next;
	close(node->fd);
	free(node);
}

static void minimal_forget(fuse_req_t request, fuse_ino_t id, uint64_t lookups)
{
	forget(id, lookups);
	fuse_reply_none(request);
}

static void minimal_forget_multi(fuse_req_t request, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		forget(forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(request);
}

static void minimal_getattr(fuse_req_t request, fuse_ino_t id, struct fuse_file_info *file)
{
	struct stat found;

	(void)file;
	if (fstatat(node_of(id)->fd, "", &found, AT_EMPTY_PATH))
		fuse_reply_err(request, errno);
	else
		fuse_reply_attr(request, &found, FOREVER);
}

static void minimal_readlink(fuse_req_t request, fuse_ino_t id)
{
	char target[PATH_MAX + 1];
	ssize_t length = readlinkat(node_of(id)->fd, "", target, PATH_MAX);

	if (length < 0) {
		fuse_reply_err(request, errno);
		return;
	}
	target[length] = '\0';
	fuse_reply_readlink(request, target);
}

/* An O_PATH descriptor cannot be read: the same file, opened once more. */
static int reopen(fuse_ino_t id, int flags)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", node_of(id)->fd);
	return open(path, flags | O_CLOEXEC);
}

static void minimal_open(fuse_req_t request, fuse_ino_t id, struct fuse_file_info *file)
{
	int fd = reopen(id, O_RDONLY);

	if (fd < 0) {
		fuse_reply_err(request, errno);
		return;
	}
	file->fh = (uint64_t)fd;
	file->keep_cache = 1;
	fuse_reply_open(request, file);
}

static void minimal_read(fuse_req_t request, fuse_ino_t id, size_t size, off_t offset, struct fuse_file_info *file)
{
	ssize_t got = pread((int)file->fh, buffer, size < READ_SIZE ? size : READ_SIZE, offset);

	(void)id;
	if (got < 0)
		fuse_reply_err(request, errno);
	else
		fuse_reply_buf(request, buffer, (size_t)got);
}

static void minimal_release(fuse_req_t request, fuse_ino_t id, struct fuse_file_info *file)
{
	(void)id;
	close((int)file->fh);
	fuse_reply_err(request, 0);
}

static void minimal_opendir(fuse_req_t request, fuse_ino_t id, struct fuse_file_info *file)
{
	int fd = reopen(id, O_RDONLY | O_DIRECTORY);
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);

	if (!directory) {
		fuse_reply_err(request, errno);
		if (fd >= 0)
			close(fd);
		return;
	}
	file->fh = (uintptr_t)directory;
	file->keep_cache = file->cache_readdir = 1;
	fuse_reply_open(request, file);
}

static void minimal_readdir(fuse_req_t request, fuse_ino_t id, size_t size, off_t offset, struct fuse_file_info *file)
{
	DIR *directory = (DIR *)(uintptr_t)file->fh;
	size_t used = 0, limit = size < READ_SIZE ? size : READ_SIZE;
	struct dirent *entry;

	(void)id;
	seekdir(directory, offset);
	while ((entry = readdir(directory))) {
		struct stat known = {.st_ino = entry->d_ino, .st_mode = (mode_t)DTTOIF(entry->d_type)};
		size_t needed =
			fuse_add_direntry(request, buffer + used, limit - used, entry->d_name, &known, telldir(directory));

		if (needed > limit - used)
			break;
		used += needed;
	}
	fuse_reply_buf(request, buffer, used);
}

static void minimal_releasedir(fuse_req_t request, fuse_ino_t id, struct fuse_file_info *file)
{
	(void)id;
	closedir((DIR *)(uintptr_t)file->fh);
	fuse_reply_err(request, 0);
}

static const struct fuse_lowlevel_ops operations = {
	.lookup = minimal_lookup,
	.forget = minimal_forget,
	.forget_multi = minimal_forget_multi,
	.getattr = minimal_getattr,
	.readlink = minimal_readlink,
	.open = minimal_open,
	.read = minimal_read,
	.release = minimal_release,
	.opendir = minimal_opendir,
	.readdir = minimal_readdir,
	.releasedir = minimal_releasedir,
};

static void allow_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		perror("minimal: setrlimit");
}

int main(int argc, char **argv)
{
	char *words[] = {argv[0], "-oro,default_permissions,allow_other,fsname=minimal"};
	struct fuse_args arguments = FUSE_ARGS_INIT(2, words);

	if (argc != 3) {
		fprintf(stderr, "usage: minimal SOURCE MOUNTPOINT\n");
		return 2;
	}
	allow_descriptors();
	root.fd = open(argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root.fd < 0) {
		perror(argv[1]);
		return 1;
	}
	struct fuse_session *session = fuse_session_new(&arguments, &operations, sizeof(operations), NULL);

	if (!session || fuse_set_signal_handlers(session) || fuse_session_mount(session, argv[2]))
		return 1;
	int result = fuse_session_loop(session);

	fuse_session_unmount(session);
	fuse_remove_signal_handlers(session);
	fuse_session_destroy(session);
	fuse_opt_free_args(&arguments);
	return result < 0;
}
