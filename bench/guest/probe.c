/*
 * guest probe: what a process on the node sees of its root. Reads file after file that nobody has read yet, one small
 * read after the other, and notes how long each takes, whether it fails, and whether its bytes are right. When the
 * referee says so it ends, and looks at all that the boot has left in the page cache.
 *
 * It is started from the initramfs once the root is there, holds the root by a descriptor, and needs nothing of it.
 */
#define _GNU_SOURCE
#include "guest.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* <linux/openat2.h>, which musl does not ship. */
#define RESOLVE_CACHED 0x20
struct open_how {
	uint64_t flags, mode, resolve;
};

enum {
	PAGE = 4096,
	PIECE = 4 * PAGE,
	STEP = 128 << 10, /* what is behind the first read of a block is in the page cache */
	STEPS = 8,        /* reads in one file, so that the list is not all one large file */
};
enum { EVERY_NS = 10000000, STALL_NS = 50000000, SECOND = 1000000000 };

/* One file of the list; `digests` has the first 8 bytes of the xxh3-128 of each page. */
struct entry {
	char path[LINE_LIMIT];
	uint32_t length, is_read;
	uint64_t size;
	const unsigned char *digests;
	unsigned char *is_wrong; /* of each page: it was counted */
};

static struct findings *found;
static time_t boot_time;

static void note(char *text, const char *path, const char *what)
{
	if (text[0] == '\0')
		snprintf(text, TEXT, "%.180s: %s", path, what);
}

static void fail(const struct entry *entry, int error)
{
	note(found->first_error, entry->path, strerror(error));
	found->errors++;
}

/* What a boot has written has a time later than all that the root came with. */
static bool is_written(int fd)
{
	struct stat now;

	return fstat(fd, &now) == 0 && now.st_mtime >= boot_time;
}

/* Holds bytes from a page's beginning on, or up to the file's end, against the list. */
static void check(const struct entry *entry, uint64_t offset, const unsigned char *bytes, size_t length)
{
	for (size_t at = 0; at < length; at += PAGE) {
		uint64_t page = (offset + at) / PAGE;
		uint64_t left = entry->size - (offset + at);
		size_t here = left < PAGE ? left : PAGE;
		XXH128_canonical_t digest;

		if (length - at < here)
			return;
		XXH128_canonicalFromHash(&digest, XXH3_128bits(bytes + at, here));
		if (memcmp(digest.digest, entry->digests + 8 * page, 8) == 0 || entry->is_wrong[page])
			continue;
		char text[64];
		snprintf(text, sizeof text, "page %llu is wrong", (unsigned long long)page);
		note(found->first_wrong, entry->path, text);
		entry->is_wrong[page] = 1;
		found->wrong_bytes += (int64_t)here;
	}
	found->checked_bytes += (int64_t)length;
}

/* Something has ended for which a process had to wait. */
static void timed(int64_t began)
{
	int64_t took = now_ns() - began;

	found->since = 0;
	if (took > found->longest) {
		found->longest = took;
		found->longest_at = began;
	}
	if (took >= STALL_NS) {
		if (found->stalls < STALLS)
			found->stall[found->stalls] = (struct stall){ began, took };
		found->stalls++;
	}
}

/* Waits until it is time for the next read; false: it is time to end. */
static bool wait_until(int64_t when)
{
	struct timespec time = { .tv_sec = when / SECOND, .tv_nsec = when % SECOND };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR)
		;
	return !found->stop;
}

/* NFS tells its server, and waits for the answer. */
static void timed_close(int fd)
{
	int64_t began = now_ns();

	if (fd < 0)
		return;
	found->since = began;
	close(fd);
	timed(began);
}

/* One open and its reads. Opening is part of the first one: a process waits for both. */
static bool read_file(int root, const struct entry *entry)
{
	static unsigned char bytes[PIECE];
	int fd = -1;
	bool go_on = true;

	for (uint64_t offset = 0; go_on && offset < entry->size && offset < (uint64_t)STEPS * STEP; offset += STEP) {
		int64_t began = now_ns();

		found->since = began;
		if (fd < 0)
			fd = openat(root, entry->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		ssize_t got = fd < 0 ? -1 : pread(fd, bytes, PIECE, (off_t)offset);
		int error = got < 0 ? errno : 0;
		timed(began);
		found->reads++;
		if (error != 0) {
			fail(entry, error);
			/* Each piece is tried by itself: what failed once may work again. */
			timed_close(fd);
			fd = -1;
		} else if (!is_written(fd)) {
			uint64_t there = entry->size - offset < PIECE ? entry->size - offset : PIECE;
			if ((uint64_t)got < there) {
				note(found->first_wrong, entry->path, "it is cut off");
				found->wrong_bytes += (int64_t)(there - (uint64_t)got);
			}
			check(entry, offset, bytes, (size_t)got);
		}
		go_on = wait_until(began + EVERY_NS);
	}
	timed_close(fd);
	return go_on;
}

static void check_page(int fd, const struct entry *entry, uint64_t page)
{
	static unsigned char bytes[PAGE];
	int64_t began = now_ns();

	found->since = began;
	ssize_t got = pread(fd, bytes, PAGE, (off_t)(page * PAGE));
	int error = errno;
	timed(began);
	if (got < 0)
		fail(entry, error);
	else
		check(entry, page * PAGE, bytes, (size_t)got);
}

/* All pages of a file that are in the page cache. What is not even known to the kernel by name is not asked for. */
static void check_cached(int root, const struct entry *entry)
{
	struct open_how how = { .flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW, .resolve = RESOLVE_CACHED };
	uint64_t pages = (entry->size + PAGE - 1) / PAGE;
	int64_t began = now_ns();

	found->since = began;
	int fd = (int)syscall(SYS_openat2, root, entry->path, &how, sizeof how);
	int error = errno;
	timed(began);
	if (fd < 0) {
		if (error != EAGAIN && error != ENOENT)
			fail(entry, error);
		return;
	}
	unsigned char *resident = malloc(pages);
	void *map = is_written(fd) ? MAP_FAILED : mmap(NULL, entry->size, PROT_READ, MAP_SHARED, fd, 0);
	if (resident && map != MAP_FAILED && mincore(map, entry->size, resident) == 0) {
		for (uint64_t page = 0; page < pages; page++)
			if (resident[page] & 1)
				check_page(fd, entry, page);
		found->checked_files++;
	}
	if (map != MAP_FAILED)
		munmap(map, entry->size);
	free(resident);
	timed_close(fd);
}

/* Takes the next entry off the list; false at its end. bench/probe.py has the format. */
static bool next(const unsigned char **at, const unsigned char *end, struct entry *ret)
{
	if (end - *at < 16)
		return false;
	memcpy(&ret->length, *at, 4);
	memcpy(&ret->is_read, *at + 4, 4);
	memcpy(&ret->size, *at + 8, 8);
	uint64_t pages = (ret->size + PAGE - 1) / PAGE;
	if (ret->length >= sizeof ret->path || pages > (uint64_t)(end - *at) / 8 ||
	    (uint64_t)(end - *at) < 16 + ret->length + 8 * pages)
		return false;
	memcpy(ret->path, *at + 16, ret->length);
	ret->path[ret->length] = '\0';
	ret->digests = *at + 16 + ret->length;
	*at = ret->digests + 8 * pages;
	return true;
}

static void *map_whole(const char *path, size_t *ret_length)
{
	struct stat is;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *map = fd < 0 || fstat(fd, &is) < 0 ? MAP_FAILED :
			mmap(NULL, (size_t)is.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);

	if (fd >= 0)
		close(fd);
	*ret_length = map == MAP_FAILED ? 0 : (size_t)is.st_size;
	return map == MAP_FAILED ? NULL : map;
}

static void work(int root, const unsigned char *list, size_t length, unsigned char *is_wrong)
{
	const unsigned char *end = list + length, *at = list;
	static struct entry entry;
	bool go_on = true;

	while (go_on && next(&at, end, &entry)) {
		entry.is_wrong = is_wrong + (entry.digests - list) / 8;
		go_on = !entry.is_read || read_file(root, &entry);
	}
	while (go_on)
		go_on = wait_until(now_ns() + EVERY_NS);
	for (at = list; next(&at, end, &entry);) {
		entry.is_wrong = is_wrong + (entry.digests - list) / 8;
		check_cached(root, &entry);
	}
	found->finished = true;
}

/* Returns once the probe works in a process of its own. */
int probe(void)
{
	struct timespec up;
	size_t length = 0;
	const char *where = getenv("SYSROOT");
	int root = open(where ? where : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fd = open(FINDINGS, O_RDWR | O_CLOEXEC);
	void *shared = mmap(NULL, sizeof *found, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	unsigned char *list = map_whole(PROBE_LIST, &length);
	/* A byte for each page's digest, wherever in the list that stands. */
	unsigned char *is_wrong = calloc(length / 8 + 1, 1);

	if (root < 0 || shared == MAP_FAILED || !list || !is_wrong) {
		fprintf(stderr, "bench: the probe cannot begin: %s\n", strerror(errno));
		return 1;
	}
	found = shared;
	clock_gettime(CLOCK_BOOTTIME, &up);
	boot_time = time(NULL) - up.tv_sec;
	pid_t child = fork();
	if (child != 0)
		return child < 0;
	setsid();
	found->started = true;
	work(root, list, length, is_wrong);
	_exit(0);
}
