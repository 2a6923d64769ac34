/* Servers that stop answering in the middle of reads: who is asked then, and when nobody can be. */
#define _GNU_SOURCE
#include "check.h"
#include "stage.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define MS 1000000ull

static struct stage stage;
static struct sample *sample;

/* Reads of a server whose bit is set do not come back. */
static _Atomic uint32_t hung;
/* Those of one whose bit is set fail. */
static _Atomic uint32_t broken;
static _Atomic uint32_t read_from[STAGE_SERVERS];

/* In place of libc's: which server a file is of, its path says. */
ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
	char link[64], path[200];

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	const ssize_t length = readlink(link, path, sizeof path - 1);

	if (length > (ssize_t)sizeof stage_top && strncmp(path, stage_top, sizeof stage_top - 1) == 0) {
		const uint32_t server = (uint32_t)(path[sizeof stage_top] - '0');

		read_from[server]++;
		while (hung & 1u << server)
			usleep(1000);
		if (broken & 1u << server) {
			errno = EIO;
			return -1;
		}
	}
	return syscall(SYS_preadv2, fd, parts, (long)count, (long)offset, 0, flags);
}

static void open_stage(const struct stage_options *options)
{
	struct orion_manifest manifest;

	sample = make_sample();
	CHECK(orion_manifest_open((const uint8_t *)sample, sizeof *sample, &manifest) == 0);
	stage_open(&stage, &manifest, options);
	for (int i = 0; i < STAGE_SERVERS; i++)
		read_from[i] = 0;
}

static void close_stage(void)
{
	struct orion_server_statistics seen[ORION_SERVERS_MAX];
	uint32_t stuck;

	/* Who was given up comes back. */
	hung = 0;
	do {
		usleep(1000);
		stuck = 0;
		orion_upstreams_statistics(stage.upstreams, seen);
		for (uint32_t i = 0; i < orion_upstreams_count(stage.upstreams); i++)
			stuck += seen[i].stuck;
	} while (stuck);
	stage_close(&stage);
	close(stage.answers);
	free(sample);
}

static void note_done(struct orion_read *read)
{
	*(_Atomic bool *)read->context = true;
}

struct reading {
	struct orion_read *read;
	_Atomic bool done;
	uint64_t began;
};

static void begin(struct reading *reading)
{
	CHECK(orion_read_create(stage.fetch, SH, 0, BLOCK, 0, &reading->read) == 0);
	reading->read->done = note_done;
	reading->read->context = &reading->done;
	reading->done = false;
	reading->began = orion_now_ns();
	if (orion_fetch_read(stage.fetch, reading->read))
		reading->done = true;
}

/* What came of it, and how long it took. */
static int end(struct reading *reading, uint64_t *ret_took)
{
	while (!reading->done)
		usleep(500);
	*ret_took = orion_now_ns() - reading->began;
	const int error = reading->read->error;

	CHECK(error || reading->read->length == BLOCK);
	orion_read_destroy(reading->read);
	return error;
}

/* Until no server can be asked for it. */
static void begin_and_wait_in_vain(struct reading *reading)
{
	struct orion_fetch_statistics seen;

	begin(reading);
	do {
		usleep(1000);
		orion_fetch_statistics(stage.fetch, &seen);
	} while (!seen.waiting);
}

static const struct stage_options two = {
	.direct = true, .hedge_budget = 0.05, .server_count = 2, .servers = {STAGE_GOOD, STAGE_COPY}};

/* Hedged: long before the server is suspect, and it is not blamed for one read. */
static void test_late_read_is_asked_of_another(void)
{
	struct orion_server_statistics seen[2];
	struct reading reading;
	uint64_t took;

	open_stage(&two);
	hung = 1u << STAGE_GOOD;
	begin(&reading);
	CHECK(end(&reading, &took) == 0 && read_from[STAGE_COPY] == 1);
	orion_upstreams_statistics(stage.upstreams, seen);
	CHECK(seen[0].hedges == 1 && seen[0].hedges_won == 1 && seen[0].resent == 0);
	close_stage();
}

/* Without any budget the server has to be suspect first; then all that is in flight goes elsewhere. */
static void test_suspect_server_loses_what_is_in_flight(void)
{
	struct stage_options options = two;
	struct orion_server_statistics seen[2];
	struct reading reading;
	uint64_t took;

	options.hedge_budget = 0;
	open_stage(&options);
	hung = 1u << STAGE_GOOD;
	begin(&reading);
	CHECK(end(&reading, &took) == 0 && read_from[STAGE_COPY] == 1);
	CHECK(took >= 200 * MS);
	orion_upstreams_statistics(stage.upstreams, seen);
	CHECK(seen[0].state == ORION_SUSPECT || seen[0].state == ORION_DEAD);
	CHECK(seen[0].resent == 1 && seen[0].hedges == 0);
	/* It comes back, and with that it is good again. */
	hung = 0;
	do {
		usleep(1000);
		orion_upstreams_statistics(stage.upstreams, seen);
	} while (seen[0].state != ORION_GOOD);
	CHECK(seen[0].stuck == 0 && seen[0].pending == 0);
	close_stage();
}

/* Nothing fails while everybody is away, and it goes on when the first one is back. */
static void test_all_gone_and_back(void)
{
	struct stage_options options = two;
	struct orion_fetch_statistics seen;
	struct reading reading;
	uint64_t took;

	/* Threads are given up meanwhile, and reads with them. */
	options.deadline_ns = 1000 * MS;
	open_stage(&options);
	hung = 1u << STAGE_GOOD | 1u << STAGE_COPY;
	begin_and_wait_in_vain(&reading);
	CHECK(!reading.done);
	hung = 1u << STAGE_GOOD;
	CHECK(end(&reading, &took) == 0);
	orion_fetch_statistics(stage.fetch, &seen);
	CHECK(seen.waiting == 0 && seen.failed_blocks == 0 && seen.stalls == 1 && seen.longest_wait_ns <= took);
	close_stage();
}

static void test_giving_up(void)
{
	struct stage_options options = two;
	struct orion_fetch_statistics seen;
	struct reading reading;
	uint64_t took;

	options.give_up_ns = 400 * MS;
	open_stage(&options);
	hung = 1u << STAGE_GOOD | 1u << STAGE_COPY;
	begin(&reading);
	CHECK(end(&reading, &took) == -EIO && took >= 400 * MS);
	orion_fetch_statistics(stage.fetch, &seen);
	CHECK(seen.failed_blocks == 1 && seen.flights == 0);
	close_stage();
}

/* A killed process lets go of a read that waits for a server. */
static void test_cancelled_while_all_are_gone(void)
{
	struct stage_options options = two;
	struct orion_fetch_statistics seen;
	struct reading reading;

	options.deadline_ns = 1000 * MS;
	open_stage(&options);
	hung = 1u << STAGE_GOOD | 1u << STAGE_COPY;
	begin_and_wait_in_vain(&reading);
	CHECK(orion_fetch_cancel(stage.fetch, reading.read));
	orion_read_destroy(reading.read);
	do {
		usleep(1000);
		orion_fetch_statistics(stage.fetch, &seen);
	} while (seen.flights);
	CHECK(seen.failed_blocks == 0);
	close_stage();
}

/* What a server that lied still has is better than nothing, as all of it is verified. */
static void test_liar_is_asked_last(void)
{
	const struct stage_options options = {
		.direct = true, .server_count = 2, .servers = {STAGE_DAMAGED, STAGE_GOOD}};
	struct orion_server_statistics seen[2];
	struct orion_read *read;
	struct reading reading;
	uint64_t took;

	open_stage(&options);
	begin(&reading);
	CHECK(end(&reading, &took) == 0);
	orion_upstreams_statistics(stage.upstreams, seen);
	CHECK(seen[0].state == ORION_QUARANTINED && seen[0].mismatches == 1 && seen[1].current);
	CHECK(strstr(seen[0].reason, "does not match its digest") && strstr(seen[0].reason, "and not "));
	CHECK(orion_upstreams_choose(stage.upstreams, 0) == 1 && orion_upstreams_choose(stage.upstreams, 2) == 0);
	CHECK(orion_upstreams_remove(stage.upstreams, 1) == 0 && orion_upstreams_remove(stage.upstreams, 0) == -EBUSY);
	/* Its other blocks are good. */
	_Atomic bool done = false;

	CHECK(orion_read_create(stage.fetch, SH, BLOCK, BLOCK, 0, &read) == 0);
	read->done = note_done;
	read->context = &done;
	if (!orion_fetch_read(stage.fetch, read))
		while (!done)
			usleep(500);
	CHECK(read->error == 0);
	orion_read_destroy(read);
	close_stage();
}

/* Servers come and go, and each is the current one for a while. */
static void test_add_remove_drain_replace(void)
{
	const struct stage_options options = {.direct = true, .server_count = 1, .servers = {STAGE_GOOD}};
	struct orion_server_statistics seen[ORION_SERVERS_MAX];
	char path[100];
	int before = 0;

	open_stage(&options);
	for (int turn = 0; turn < 50; turn++) {
		struct reading reading;
		int after;
		uint64_t took;

		snprintf(path, sizeof path, "%s/%d", stage_top, turn % 2 ? STAGE_GOOD : STAGE_COPY);
		after = orion_upstreams_add(stage.upstreams, open(path, O_PATH | O_CLOEXEC), path, true);
		CHECK(after >= 0 && after != before);
		CHECK(orion_upstreams_drain(stage.upstreams, (uint32_t)before, true) == 0);
		orion_upstreams_statistics(stage.upstreams, seen);
		CHECK(seen[before].draining && seen[after].current);
		begin(&reading);
		CHECK(end(&reading, &took) == 0);
		CHECK(orion_upstreams_replace(stage.upstreams, (uint32_t)after, open(path, O_PATH | O_CLOEXEC)) == 0);
		CHECK(orion_upstreams_remove(stage.upstreams, (uint32_t)before) == 0);
		before = after;
	}
	/* A place is free again when its threads have ended, which they do soon. */
	CHECK(orion_upstreams_count(stage.upstreams) < 8);
	close_stage();
}

/* All are good, and each gets its share. */
static void test_spread(void)
{
	struct stage_options options = two;

	options.spread = true;
	open_stage(&options);
	for (int turn = 0; turn < 10; turn++) {
		struct reading reading;
		uint64_t took;

		begin(&reading);
		CHECK(end(&reading, &took) == 0);
	}
	/* Not half of them each: on a busy machine one may look slower for a moment. */
	CHECK(read_from[STAGE_GOOD] + read_from[STAGE_COPY] >= 10 && read_from[STAGE_GOOD] >= 2 && read_from[STAGE_COPY] >= 2);
	close_stage();
}

static _Atomic uint32_t probed;

static int probe(void *context, uint32_t server, uint8_t *scratch)
{
	(void)context;
	(void)scratch;
	probed |= 1u << server;
	while (hung && server < 15)
		usleep(1000);
	return 0;
}

/* Looked at beside each other, the dead are known in one patience, and reads go where somebody lives. */
static void test_fifteen_of_sixteen_are_dead(void)
{
	struct stage_options options = two;
	struct orion_server_statistics seen[ORION_SERVERS_MAX];
	struct reading reading;
	uint64_t took;

	options.server_count = 16;
	for (int i = 0; i < 15; i++)
		options.servers[i] = STAGE_GOOD;
	options.servers[15] = STAGE_COPY;
	open_stage(&options);
	hung = 1u << STAGE_GOOD;
	orion_upstreams_probe(stage.upstreams, probe, NULL);
	begin(&reading);
	CHECK(end(&reading, &took) == 0 && read_from[STAGE_COPY] == 1);
	/* A hedge or two, and one patience; a machine under load may be late. */
	CHECK(took < 1500 * MS);
	CHECK(probed == 0xffff);
	orion_upstreams_statistics(stage.upstreams, seen);
	CHECK(seen[15].state == ORION_GOOD);
	while (!seen[15].current) {
		usleep(1000);
		orion_upstreams_statistics(stage.upstreams, seen);
	}
	begin(&reading);
	CHECK(end(&reading, &took) == 0 && took < 100 * MS && read_from[STAGE_COPY] == 2);
	close_stage();
}

static int probe_all(void *context, uint32_t server, uint8_t *scratch)
{
	(void)context;
	(void)scratch;
	while (server == 0 && hung)
		usleep(1000);
	return 0;
}

/* It may be one spot, or a moment's trouble of the server: so it is asked again, once it answers otherwise. */
static void test_read_errors_of_a_moment(void)
{
	struct orion_fetch_statistics seen;
	struct reading reading;
	uint64_t took;

	open_stage(&two);
	orion_upstreams_probe(stage.upstreams, probe, NULL);
	broken = 1u << STAGE_GOOD | 1u << STAGE_COPY;
	begin_and_wait_in_vain(&reading);
	broken = 0;
	CHECK(end(&reading, &took) == 0);
	orion_fetch_statistics(stage.fetch, &seen);
	CHECK(seen.failed_blocks == 0);
	close_stage();
}

static void test_read_errors_that_stay(void)
{
	struct orion_fetch_statistics seen;
	struct reading reading;
	uint64_t took;

	open_stage(&two);
	orion_upstreams_probe(stage.upstreams, probe, NULL);
	broken = 1u << STAGE_GOOD | 1u << STAGE_COPY;
	begin(&reading);
	CHECK(end(&reading, &took) == -EIO);
	orion_fetch_statistics(stage.fetch, &seen);
	CHECK(seen.failed_blocks == 1 && seen.waiting == 0);
	broken = 0;
	close_stage();
}

/* A liar that is well is no reason to ask who is in trouble again and again, until all hope is gone. */
static void test_read_errors_beside_a_liar(void)
{
	struct stage_options options = two;
	struct orion_server_statistics seen[2];
	struct reading reading;
	uint64_t took;

	options.servers[1] = STAGE_DAMAGED;
	open_stage(&options);
	broken = 1u << STAGE_GOOD;
	begin(&reading);
	do {
		usleep(1000);
		orion_upstreams_statistics(stage.upstreams, seen);
	} while (seen[1].state != ORION_QUARANTINED);
	/* Nobody probes here: it stays suspect, and is let alone. */
	usleep(500000);
	CHECK(!reading.done && read_from[STAGE_GOOD] == 2);
	broken = 0;
	orion_upstreams_probe(stage.upstreams, probe, NULL);
	CHECK(end(&reading, &took) == 0);
	close_stage();
}

/* What a server had no good copy of is no reason not to ask the one that has its number now. */
static void test_number_of_a_liar_is_given_to_another(void)
{
	struct stage_options options = two;
	struct orion_fetch_statistics seen;
	struct reading reading;
	uint64_t took;

	options.servers[1] = STAGE_DAMAGED;
	open_stage(&options);
	hung = 1u << STAGE_GOOD;
	begin(&reading);
	do {
		usleep(1000);
		orion_fetch_statistics(stage.fetch, &seen);
	} while (!seen.waiting && !reading.done && orion_now_ns() - reading.began < 3000 * MS);
	CHECK(!reading.done);
	/* Its number is free when its threads have ended. */
	int number = 1;
	char path[100];

	snprintf(path, sizeof path, "%s/%d", stage_top, STAGE_COPY);
	do {
		CHECK(orion_upstreams_remove(stage.upstreams, (uint32_t)number) == 0);
		usleep(1000);
		number = orion_upstreams_add(stage.upstreams, open(path, O_PATH | O_CLOEXEC), "another", true);
		CHECK(number >= 1);
	} while (number != 1);
	orion_fetch_forget(stage.fetch, 1);
	orion_upstreams_probe(stage.upstreams, probe_all, NULL);
	CHECK(end(&reading, &took) == 0 && read_from[STAGE_COPY] > 0);
	close_stage();
}

int main(void)
{
	stage_make_servers();
	test_late_read_is_asked_of_another();
	test_suspect_server_loses_what_is_in_flight();
	test_all_gone_and_back();
	test_giving_up();
	test_cancelled_while_all_are_gone();
	test_liar_is_asked_last();
	test_add_remove_drain_replace();
	test_spread();
	test_fifteen_of_sixteen_are_dead();
	test_read_errors_of_a_moment();
	test_read_errors_that_stay();
	test_read_errors_beside_a_liar();
	test_number_of_a_liar_is_given_to_another();
	printf("test_failover: ok\n");
	return 0;
}
