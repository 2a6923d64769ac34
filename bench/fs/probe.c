/* What the bench times: one operation on each of many paths, under several roots in turn.
 *
 *	probe OPERATION SLICE ROUNDS ROOT… < paths
 *
 * The paths, one a line, are relative to each root. They are cut into slices; each slice is done under every root
 * before the next one, and each time another root begins, so that what else the machine does falls on all alike.
 * For each slice and root a line leaves: slice, number of the root, operations, bytes, nanoseconds of them all, and
 * the median of one. ROUNDS times the whole list.
 *
 * Built statically, so that it can stand in a tree and be executed from there: `probe exit` does nothing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define CHUNK (1 << 20)
#define MAX_TIMES (1 << 20)

static uint8_t buffer[CHUNK];
static uint32_t times[MAX_TIMES];
static size_t time_count;
static uint64_t total, bytes;

static _Noreturn void die(const char *what, const char *path)
{
	fprintf(stderr, "probe: %s %s: %s\n", what, path, strerror(errno));
	exit(1);
}

static uint64_t now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return (uint64_t)at.tv_sec * 1000000000 + (uint64_t)at.tv_nsec;
}

static void took(uint64_t since)
{
	uint64_t time = now() - since;

	total += time;
	if (time_count < MAX_TIMES)
		times[time_count++] = time < UINT32_MAX ? (uint32_t)time : UINT32_MAX;
}

static void know(const char *path)
{
	struct stat found;

	if (lstat(path, &found))
		die("stat", path);
}

static void know_parent(const char *path)
{
	char parent[PATH_MAX];
	const char *slash = strrchr(path, '/');

	snprintf(parent, sizeof(parent), "%.*s", (int)(slash - path), path);
	know(parent);
}

/* Has as much memory used once as reading the file will take: pages that a virtual machine has not used for a second or
 * two may have gone back to its host, and take it 10 us each to come again, more than all that is measured. */
static void touch_memory(const char *path)
{
	struct stat found;

	if (lstat(path, &found))
		die("stat", path);
	size_t length = 2 * (size_t)found.st_size;
	void *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (at == MAP_FAILED)
		die("mmap for", path);
	munmap(at, length);
}

static void do_stat(const char *path)
{
	struct stat found;
	uint64_t since = now();

	if (lstat(path, &found))
		die("stat", path);
	took(since);
}

static void do_readlink(const char *path)
{
	char target[PATH_MAX];
	uint64_t since = now();

	if (readlink(path, target, sizeof(target)) < 0)
		die("readlink", path);
	took(since);
}

/* The whole file, open and close included. */
static void do_read(const char *path)
{
	uint64_t since = now();
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got;

	if (fd < 0)
		die("open", path);
	while ((got = read(fd, buffer, sizeof(buffer))) > 0)
		bytes += (uint64_t)got;
	if (got < 0)
		die("read", path);
	close(fd);
	took(since);
}

/* Every `step`th page, once each, in an order that repeats and that no readahead guesses. */
static void read_pages(const char *path, uint64_t step)
{
	struct stat found;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &found))
		die("open", path);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	uint64_t count = (uint64_t)found.st_size / PAGE / step;
	uint64_t state = 1;
	uint32_t *order = calloc(count + 1, sizeof(*order));

	if (!order)
		die("calloc", path);
	for (uint32_t i = 0; i < count; i++)
		order[i] = i;
	for (uint64_t i = count; i > 1; i--) { /* Fisher and Yates, with Knuth's MMIX generator */
		state = state * 6364136223846793005u + 1442695040888963407u;
		uint64_t other = (state >> 33) % i;
		uint32_t held = order[i - 1];

		order[i - 1] = order[other];
		order[other] = held;
	}
	for (uint64_t i = 0; i < count; i++) {
		uint64_t since = now();

		if (pread(fd, buffer, PAGE, (off_t)(order[i] * step * PAGE)) != PAGE)
			die("pread", path);
		took(since);
		bytes += PAGE;
	}
	free(order);
	close(fd);
}

static void do_pages(const char *path)
{
	read_pages(path, 1);
}

/* One page of each 128 KiB. */
static void do_sparse(const char *path)
{
	read_pages(path, (128 << 10) / PAGE);
}

static void do_mmap(const char *path)
{
	struct stat found;
	uint64_t since = now();
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &found))
		die("open", path);
	size_t length = (size_t)found.st_size;
	const uint8_t *at = mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, 0);

	if (at == MAP_FAILED)
		die("mmap", path);
	for (size_t i = 0; i < length; i += PAGE)
		(void)*(const volatile uint8_t *)(at + i);
	munmap((void *)at, length);
	close(fd);
	bytes += length;
	took(since);
}

static void do_exec(const char *path)
{
	uint64_t since = now();
	pid_t child = vfork();
	int status;

	if (child == 0) {
		execl(path, path, "exit", (char *)NULL);
		_exit(126);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
		die("exec", path);
	took(since);
}

static const struct operation {
	const char *name;
	void (*prepare)(const char *path); /* not timed; done for a whole slice before it */
	void (*perform)(const char *path);
} operations[] = {
	{"stat", know_parent, do_stat}, {"readlink", know, do_readlink}, {"read", know, do_read},
	{"stream", touch_memory, do_read}, {"pages", know, do_pages}, {"sparse", know, do_sparse},
	{"mmap", know, do_mmap}, {"exec", know, do_exec},
};

static int by_value(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

	return (left > right) - (left < right);
}

static void measure(const struct operation *operation, const char *root, char *const *paths, size_t count)
{
	char path[PATH_MAX];

	for (int timed = 0; timed < 2; timed++) {
		time_count = 0;
		total = bytes = 0;
		for (size_t i = 0; i < count; i++) {
			snprintf(path, sizeof(path), "%s/%s", root, paths[i]);
			(timed ? operation->perform : operation->prepare)(path);
		}
	}
	qsort(times, time_count, sizeof(*times), by_value);
}

static char **read_paths(size_t *ret_count)
{
	char **paths = NULL, *line = NULL;
	size_t count = 0, capacity = 0, line_capacity = 0;
	ssize_t length;

	while ((length = getline(&line, &line_capacity, stdin)) > 0) {
		if (count == capacity) {
			capacity = capacity ? 2 * capacity : 1024;
			paths = realloc(paths, capacity * sizeof(*paths));
			if (!paths)
				die("realloc", "paths");
		}
		line[strcspn(line, "\n")] = '\0';
		paths[count++] = strdup(line);
	}
	free(line);
	*ret_count = count;
	return paths;
}

int main(int argc, char **argv)
{
	const struct operation *operation = NULL;
	size_t count;

	if (argc == 2 && !strcmp(argv[1], "exit"))
		return 0;
	for (size_t i = 0; argc > 4 && i < sizeof(operations) / sizeof(*operations); i++)
		if (!strcmp(argv[1], operations[i].name))
			operation = &operations[i];
	size_t slice = argc > 4 ? strtoul(argv[2], NULL, 10) : 0;
	if (!operation || !slice) {
		fprintf(stderr, "usage: probe OPERATION SLICE ROUNDS ROOT... < paths\n");
		return 2;
	}
	size_t rounds = strtoul(argv[3], NULL, 10), roots = (size_t)argc - 4;
	char **paths = read_paths(&count);

	for (size_t turn = 0, round = 0; round < rounds; round++) {
		for (size_t first = 0; first < count; first += slice, turn++) {
			for (size_t i = 0; i < roots; i++) {
				size_t root = (i + turn) % roots;

				measure(operation, argv[4 + root], paths + first,
					count - first < slice ? count - first : slice);
				printf("%zu %zu %zu %ju %ju %u\n", turn, root, time_count, (uintmax_t)bytes,
				       (uintmax_t)total, time_count ? times[time_count / 2] : 0);
			}
			fflush(stdout);
		}
	}
	for (size_t i = 0; i < count; i++)
		free(paths[i]);
	free(paths);
	return 0;
}
