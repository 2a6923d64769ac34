/*
 * A server that fails on demand: shows a directory read-only through FUSE, and hangs, delays, fails or lies as it is told.
 *
 *   faulty_source DIRECTORY MOUNTPOINT SOCKET
 *
 * It runs until it is killed. SOCKET is a Unix stream socket; each line sent there gets one line back, `ok` with what was
 * asked for, or `bad: ` and why:
 *
 *   hang [LIMITS]            requests wait until `heal`
 *   delay MS[-MS] [LIMITS]   they are answered so much later, or by chance between the two
 *   late MS[-MS] [LIMITS]    the same, on top: a server can take its time with all and more of it with some
 *   error ERRNO [LIMITS]     they fail
 *   corrupt [LIMITS]         what is read has a flipped bit in every 512 bytes
 *   zeros [LIMITS]           what is read is zeros
 *   short [LIMITS]           only half of what is read comes
 *   heal [ERRNO]             no fault from now on; waiting requests go on, or fail
 *   counters                 `ok read=N bytes=N open=N attr=N other=N waiting=N faults=N late=N`
 *
 * LIMITS: `only=read` or `only=meta` (all but reads), `percent=P`, `above=BYTES` (reads that ask for more alone), `name=TEXT` (paths
 * that hold it alone). Faults of several kinds hold at the same time; a kind that is told again replaces what was told before. Nothing is
 * cached in the kernel, so every read and every question for attributes comes here.
 */
#define FUSE_USE_VERSION 312
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum kind { HANG, DELAY, LATE, ERROR, CORRUPT, ZEROS, SHORT, KINDS };
enum operation { READ, OPEN, ATTR, OTHER, OPERATIONS };

static const char *const kind_names[KINDS] = { "hang", "delay", "late", "error", "corrupt", "zeros", "short" };

struct fault {
	bool on;
	long value; /* milliseconds, or an errno */
	long most;  /* milliseconds, for a delay; value if it is always the same */
	bool reads, meta;
	unsigned percent;
	size_t above;
	char name[128];
};

/* Sockets take one at a time; requests are answered by many threads. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t healed;
	struct fault faults[KINDS]; /* under lock */
	unsigned healings;          /* under lock */
	int healing_error;          /* under lock: what requests that waited are answered */
	unsigned waiting;           /* under lock */
	uint64_t random;            /* under lock */
	atomic_ulong counts[OPERATIONS];
	atomic_ulong bytes, struck, late;
	const char *directory;
	int root;
} state = { .lock = PTHREAD_MUTEX_INITIALIZER, .healed = PTHREAD_COND_INITIALIZER, .random = 88172645463325252U };

/* Locked. */
static uint64_t chance(void)
{
	state.random ^= state.random << 13;
	state.random ^= state.random >> 7;
	state.random ^= state.random << 17;
	return state.random;
}

static bool strikes(const struct fault *fault, enum operation operation, const char *path, size_t length)
{
	if (!fault->on || !(operation == READ ? fault->reads : fault->meta) || (operation == READ && length <= fault->above && fault->above) ||
	    (fault->name[0] && !strstr(path, fault->name)))
		return false;
	return fault->percent >= 100 || chance() % 100 < fault->percent;
}

/* Waits and fails as the faults say; tells which of the lies are to be told. */
static int meet(enum operation operation, const char *path, size_t length, bool *lies)
{
	long delay = 0;
	int error = 0;

	state.counts[operation]++;
	pthread_mutex_lock(&state.lock);
	for (int kind = 0; kind < KINDS; kind++) {
		const struct fault *fault = &state.faults[kind];
		bool struck = strikes(fault, operation, path, length);

		state.struck += struck;
		if (lies)
			lies[kind] = struck;
		if (!struck)
			continue;
		if (kind == LATE)
			state.late++;
		if (kind == DELAY || kind == LATE)
			delay += fault->value + (long)(chance() % (uint64_t)(fault->most - fault->value + 1));
		if (kind == ERROR)
			error = (int)fault->value;
		if (kind == HANG) {
			unsigned healings = state.healings;

			state.waiting++;
			while (state.healings == healings)
				pthread_cond_wait(&state.healed, &state.lock);
			state.waiting--;
			error = state.healing_error;
			break;
		}
	}
	pthread_mutex_unlock(&state.lock);
	if (delay > 0)
		nanosleep(&(struct timespec){ .tv_sec = delay / 1000, .tv_nsec = delay % 1000 * 1000000 }, NULL);
	return -error;
}

static const char *below(const char *path)
{
	return path[1] ? path + 1 : ".";
}

static int result(int done)
{
	return done < 0 ? -errno : done;
}

static int get_attributes(const char *path, struct stat *ret, struct fuse_file_info *info)
{
	int error = meet(ATTR, path, 0, NULL);

	if (error)
		return error;
	return info ? result(fstat((int)info->fh, ret)) : result(fstatat(state.root, below(path), ret, AT_SYMLINK_NOFOLLOW));
}

static int read_link(const char *path, char *ret, size_t size)
{
	int error = meet(OTHER, path, 0, NULL);
	ssize_t length;

	if (error)
		return error;
	length = readlinkat(state.root, below(path), ret, size - 1);
	if (length < 0)
		return -errno;
	ret[length] = 0;
	return 0;
}

static int open_file(const char *path, struct fuse_file_info *info)
{
	int error = meet(OPEN, path, 0, NULL), fd;

	if (error)
		return error;
	fd = openat(state.root, below(path), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	info->fh = (uint64_t)fd;
	info->direct_io = 1;
	return 0;
}

static int read_file(const char *path, char *ret, size_t size, off_t offset, struct fuse_file_info *info)
{
	bool lies[KINDS] = { false };
	int error = meet(READ, path, size, lies);
	ssize_t length;

	if (error)
		return error;
	length = pread((int)info->fh, ret, size, offset);
	if (length < 0)
		return -errno;
	if (lies[SHORT])
		length /= 2;
	if (lies[ZEROS])
		memset(ret, 0, (size_t)length);
	if (lies[CORRUPT])
		for (ssize_t at = 0; at < length; at += 512)
			ret[at] ^= 0x10;
	state.bytes += (unsigned long)length;
	return (int)length;
}

static int release_file(const char *path, struct fuse_file_info *info)
{
	(void)path;
	return result(close((int)info->fh));
}

static int read_directory(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *info, enum fuse_readdir_flags flags)
{
	int error = meet(OTHER, path, 0, NULL), fd;
	struct dirent *entry;
	DIR *directory;

	(void)offset, (void)info, (void)flags;
	if (error)
		return error;
	fd = openat(state.root, below(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	directory = fdopendir(fd);
	if (!directory) {
		close(fd);
		return -ENOMEM;
	}
	while ((entry = readdir(directory))) {
		struct stat attributes = { .st_ino = entry->d_ino, .st_mode = DTTOIF((mode_t)entry->d_type) };

		if (fill(buffer, entry->d_name, &attributes, 0, 0))
			break;
	}
	closedir(directory);
	return 0;
}

static int get_figures(const char *path, struct statvfs *ret)
{
	int error = meet(OTHER, path, 0, NULL);

	return error ? error : result(fstatvfs(state.root, ret));
}

static int get_xattr(const char *path, const char *name, char *ret, size_t size)
{
	int error = meet(OTHER, path, 0, NULL);
	char whole[PATH_MAX];

	if (error)
		return error;
	if (snprintf(whole, sizeof(whole), "%s%s", state.directory, path) >= (int)sizeof(whole))
		return -ENAMETOOLONG;
	return result((int)lgetxattr(whole, name, ret, size));
}

static int list_xattrs(const char *path, char *ret, size_t size)
{
	int error = meet(OTHER, path, 0, NULL);
	char whole[PATH_MAX];

	if (error)
		return error;
	if (snprintf(whole, sizeof(whole), "%s%s", state.directory, path) >= (int)sizeof(whole))
		return -ENAMETOOLONG;
	return result((int)llistxattr(whole, ret, size));
}

static void *begin(struct fuse_conn_info *connection, struct fuse_config *config)
{
	(void)connection;
	config->use_ino = 1;
	config->entry_timeout = config->attr_timeout = config->negative_timeout = 0;
	return NULL;
}

static const struct fuse_operations operations = {
	.init = begin,
	.getattr = get_attributes,
	.readlink = read_link,
	.open = open_file,
	.read = read_file,
	.release = release_file,
	.readdir = read_directory,
	.statfs = get_figures,
	.getxattr = get_xattr,
	.listxattr = list_xattrs,
};

/* The number of an errno, given as a number or by one of the names that servers fail with; 0 if it is none. */
static int errno_of(const char *word)
{
	static const struct {
		const char *name;
		int number;
	} known[] = {
		{ "EIO", EIO }, { "ESTALE", ESTALE }, { "ENOENT", ENOENT }, { "EACCES", EACCES }, { "ETIMEDOUT", ETIMEDOUT },
		{ "ENOTCONN", ENOTCONN }, { "ECONNRESET", ECONNRESET }, { "EHOSTUNREACH", EHOSTUNREACH },
	};

	for (size_t at = 0; at < sizeof(known) / sizeof(*known); at++)
		if (!strcmp(word, known[at].name))
			return known[at].number;
	return atoi(word);
}

static const char *limit(struct fault *fault, const char *word)
{
	if (!strcmp(word, "only=read"))
		fault->meta = false;
	else if (!strcmp(word, "only=meta"))
		fault->reads = false;
	else if (!strncmp(word, "percent=", 8))
		fault->percent = (unsigned)atoi(word + 8);
	else if (!strncmp(word, "above=", 6))
		fault->above = (size_t)atoll(word + 6);
	else if (!strncmp(word, "name=", 5))
		snprintf(fault->name, sizeof(fault->name), "%s", word + 5);
	else
		return "unknown limit";
	return NULL;
}

static const char *heal(const char *word)
{
	pthread_mutex_lock(&state.lock);
	memset(state.faults, 0, sizeof(state.faults));
	state.healings++;
	state.healing_error = word ? errno_of(word) : 0;
	pthread_cond_broadcast(&state.healed);
	pthread_mutex_unlock(&state.lock);
	return NULL;
}

/* Does what a line says; returns what is wrong with it, or NULL. */
static const char *obey(char *line)
{
	struct fault fault = { .on = true, .reads = true, .meta = true, .percent = 100 };
	char *rest = NULL, *word = strtok_r(line, " \r\n", &rest);
	int kind = 0;

	if (!word)
		return "empty line";
	if (!strcmp(word, "heal"))
		return heal(strtok_r(NULL, " \r\n", &rest));
	if (!strcmp(word, "counters"))
		return NULL;
	while (kind < KINDS && strcmp(word, kind_names[kind]))
		kind++;
	if (kind == KINDS)
		return "unknown fault";
	if (kind == DELAY || kind == LATE || kind == ERROR) {
		word = strtok_r(NULL, " \r\n", &rest);
		fault.value = !word ? 0 : kind == ERROR ? errno_of(word) : atol(word);
		if (fault.value <= 0)
			return "a number is missing";
		fault.most = kind != ERROR && strchr(word, '-') ? atol(strchr(word, '-') + 1) : fault.value;
		if (fault.most < fault.value)
			return "the second number is the larger one";
	}
	while ((word = strtok_r(NULL, " \r\n", &rest))) {
		const char *wrong = limit(&fault, word);

		if (wrong)
			return wrong;
	}
	pthread_mutex_lock(&state.lock);
	state.faults[kind] = fault;
	pthread_mutex_unlock(&state.lock);
	return NULL;
}

static void *listen_to(void *argument)
{
	int listening = *(int *)argument;
	char *line = NULL;
	size_t size = 0;

	for (;;) {
		int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
		FILE *stream = fd < 0 ? NULL : fdopen(fd, "r+");

		while (stream && getline(&line, &size, stream) > 0) {
			const char *wrong = obey(line);
			unsigned waiting;

			pthread_mutex_lock(&state.lock);
			waiting = state.waiting;
			pthread_mutex_unlock(&state.lock);
			if (wrong)
				fprintf(stream, "bad: %s\n", wrong);
			else
				fprintf(stream, "ok read=%lu bytes=%lu open=%lu attr=%lu other=%lu waiting=%u faults=%lu late=%lu\n", state.counts[READ],
					state.bytes, state.counts[OPEN], state.counts[ATTR], state.counts[OTHER], waiting, state.struck, state.late);
			fflush(stream);
		}
		if (stream)
			fclose(stream);
	}
	return NULL;
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || strlen(path) >= sizeof(address.sun_path))
		return -1;
	strcpy(address.sun_path, path);
	unlink(path);
	return bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 8) ? -1 : fd;
}

int main(int argc, char **argv)
{
	char *words[] = { argv[0], "-o", "ro,default_permissions,allow_other,subtype=faulty,fsname=faulty", NULL };
	struct fuse_args arguments = FUSE_ARGS_INIT(3, words);
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	struct fuse *fuse;
	pthread_t thread;
	int listening;

	if (argc != 4)
		return fprintf(stderr, "usage: faulty_source DIRECTORY MOUNTPOINT SOCKET\n"), 2;
	state.directory = argv[1];
	state.root = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (state.root < 0)
		return perror(argv[1]), 1;
	fuse = fuse_new(&arguments, &operations, sizeof(operations), NULL);
	if (!fuse || fuse_mount(fuse, argv[2]))
		return 1;
	listening = listen_at(argv[3]);
	if (listening < 0 || pthread_create(&thread, NULL, listen_to, &listening))
		return perror(argv[3]), fuse_unmount(fuse), 1;
	fuse_loop_cfg_set_clone_fd(config, 0);
	fuse_loop_cfg_set_max_threads(config, 1024);
	fuse_loop_cfg_set_idle_threads(config, 16);
	return fuse_loop_mt(fuse, config);
}
