/* A server that says nothing: each job is given up within its deadline, wherever it waits, told once and dropped once.
 */
#define _GNU_SOURCE
#include "check.h"
#include "upstream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define READERS 2
/* More than all threads that the server may have, so that some never find one. */
#define JOBS 12
#define DEADLINE_NS 400000000u

struct task {
	struct orion_job job; /* first: the upstreams' */
	uint64_t submitted, told;
	int error;
	_Atomic int times_told, times_dropped;
};

/* Nothing comes out of it until the test writes to it. */
static int gate[2];

static int run(struct orion_job *job, uint32_t server)
{
	char byte;

	(void)job;
	(void)server;
	CHECK(read(gate[0], &byte, 1) == 1);
	return 0;
}

static void finish(struct orion_job *job, int error)
{
	struct task *task = (struct task *)job;

	task->told = orion_now_ns();
	task->error = error;
	task->times_told++;
}

static void drop(struct orion_job *job)
{
	((struct task *)job)->times_dropped++;
}

static void wait_until_told(struct task *tasks)
{
	for (int i = 0; i < JOBS; i++)
		while (!tasks[i].times_told)
			usleep(1000);
}

/* Those that found a thread only when that comes back, which may take a while on a machine under load. */
static void wait_until_dropped(struct task *tasks)
{
	for (int i = 0; i < JOBS; i++)
		while (!tasks[i].times_dropped)
			usleep(1000);
}

static void test_silence_costs_one_deadline(void)
{
	struct orion_upstreams *all;
	static struct task tasks[JOBS];

	CHECK(pipe2(gate, O_CLOEXEC) == 0);
	CHECK(orion_upstreams_create(&(struct orion_upstream_options){.readers = READERS, .deadline_ns = DEADLINE_NS}, NULL, &all) == 0);
	CHECK(orion_upstreams_add(all, open("/", O_PATH | O_CLOEXEC), "silent", false) == 0);
	for (int i = 0; i < JOBS; i++) {
		tasks[i].job = (struct orion_job){.run = run, .finish = finish, .drop = drop, .urgent = i % 3 != 0};
		tasks[i].submitted = orion_now_ns();
		orion_upstreams_submit(all, 0, &tasks[i].job);
	}
	wait_until_told(tasks);
	for (int i = 0; i < JOBS; i++) {
		CHECK(tasks[i].error == -ETIMEDOUT || tasks[i].error == -EHOSTDOWN);
		/* A machine under load may be late, but not by another deadline. */
		CHECK(tasks[i].told - tasks[i].submitted < 2 * (uint64_t)DEADLINE_NS);
	}
	/* Those that did find a thread come back from it. */
	for (int i = 0; i < JOBS; i++)
		CHECK(write(gate[1], "x", 1) == 1);
	wait_until_dropped(tasks);
	CHECK(orion_upstreams_destroy(all));
	for (int i = 0; i < JOBS; i++)
		CHECK(tasks[i].times_told == 1 && tasks[i].times_dropped == 1);
	close(gate[0]);
	close(gate[1]);
}

int main(void)
{
	test_silence_costs_one_deadline();
	printf("test_upstream: ok\n");
	return 0;
}
