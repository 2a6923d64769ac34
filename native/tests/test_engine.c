/* The engine's end, when the mount is taken away while a server is silent: whoever waits is answered, and what comes back
 * later finds everything where it was.
 */
#define _GNU_SOURCE
#include "check.h"
#include "engine.h"
#include "sample_manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static char top[30];

static const char *path_of(const char *name)
{
	static char path[100];

	snprintf(path, sizeof path, "%s/%s", top, name);
	return path;
}

/* A server with the sample, whose pack nobody can open before somebody opens it for writing. */
static void make_silent_server(void)
{
	struct sample *sample = make_sample();

	strcpy(top, "/tmp/test-engine-XXXXXX");
	CHECK(mkdtemp(top) && mkdir(path_of("packs"), 0755) == 0 && mkfifo(path_of("packs/" SAMPLE_PACK), 0600) == 0);
	const int fd = open(path_of("manifest"), O_WRONLY | O_CREAT, 0600);

	CHECK(fd >= 0 && write(fd, sample, sizeof *sample) == sizeof *sample && close(fd) == 0);
	free(sample);
}

static void remove_server(void)
{
	CHECK(unlink(path_of("packs/" SAMPLE_PACK)) == 0 && rmdir(path_of("packs")) == 0);
	CHECK(unlink(path_of("manifest")) == 0 && rmdir(top) == 0);
}

static void ask_to_read(int kernel, uint64_t unique, enum inode inode, uint64_t offset)
{
	const struct {
		struct fuse_in_header header;
		struct fuse_read_in in;
	} request = {
		{.len = sizeof request, .opcode = FUSE_READ, .unique = unique, .nodeid = (uint64_t)inode + 1},
		{.offset = offset, .size = BLOCK},
	};

	CHECK(send(kernel, &request, sizeof request, 0) == sizeof request);
}

/* Until the descriptor is closed. */
static int end_silence(void)
{
	const int fd = open(path_of("packs/" SAMPLE_PACK), O_RDWR);

	CHECK(fd >= 0);
	return fd;
}

struct helper {
	pthread_t thread;
	int kernel, sound;
};

static void *end_silence_after_an_answer(void *argument)
{
	struct helper *helper = argument;
	struct pollfd answered = {helper->kernel, POLLIN, 0};

	CHECK(poll(&answered, 1, 60000) == 1);
	helper->sound = end_silence();
	return NULL;
}

/* The unique of the next answer, which must be EIO. */
static uint64_t failed(int kernel)
{
	struct fuse_out_header answer;

	CHECK(recv(kernel, &answer, sizeof answer, 0) == sizeof answer && answer.error == -EIO);
	return answer.unique;
}

/* Serves the silent server with one reader. */
static struct orion_engine *start(uint64_t deadline_ns, int *ret_kernel)
{
	const struct orion_engine_options options = {
		.cache_size = 1 << 20, .deadline_ns = deadline_ns, .readers = 1, .threads = 1};
	struct orion_engine *engine;
	int pair[2];

	make_silent_server();
	CHECK(orion_engine_create(&options, &engine) == 0);
	CHECK(orion_engine_add(engine, open(top, O_PATH), "here") == 0);
	CHECK(orion_engine_load(engine) == 0);
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
	CHECK(orion_engine_start(engine, pair[0]) == 0);
	*ret_kernel = pair[1];
	return engine;
}

static void wait_for_reads(struct orion_engine *engine, uint64_t count)
{
	struct orion_engine_statistics statistics;

	do {
		sched_yield();
		orion_engine_statistics(engine, &statistics);
	} while (statistics.reads_in_flight < count);
}

/* One read is stuck in the server, one waits in its queue: that one is answered first, while the engine ends, and the other
 * one when it comes back. */
static void test_end_while_reads_wait(void)
{
	struct helper helper;
	struct orion_engine *engine = start(60000000000, &helper.kernel);

	ask_to_read(helper.kernel, 2, SH, 0);
	ask_to_read(helper.kernel, 4, SPARSE, BLOCK);
	wait_for_reads(engine, 2);
	CHECK(pthread_create(&helper.thread, NULL, end_silence_after_an_answer, &helper) == 0);
	orion_engine_destroy(engine);
	CHECK(pthread_join(helper.thread, NULL) == 0);
	CHECK(failed(helper.kernel) + failed(helper.kernel) == 2 + 4);
	close(helper.sound);
	close(helper.kernel);
	remove_server();
}

/* The server answers when the engine has given it up. */
static void test_come_back_after_the_end(void)
{
	/* What is left is reachable from here, and so no leak. */
	static struct orion_engine *left;
	int kernel;

	left = start(50000000, &kernel);
	ask_to_read(kernel, 2, SH, 0);
	wait_for_reads(left, 1);
	orion_engine_destroy(left);

	const int sound = end_silence();

	CHECK(failed(kernel) == 2);
	close(sound);
	close(kernel);
	remove_server();
}

int main(void)
{
	test_end_while_reads_wait();
	test_come_back_after_the_end();
	puts("test_engine: ok");
	return 0;
}
