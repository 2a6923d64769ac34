/* Reads every block of a release and compares it with its digest. */
#define _GNU_SOURCE
#include "audit.h"
#include "events.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RUN_BYTES (2u << 20) /* one read; blocks are no longer than 1 MiB */
#define JOBS_MAX 256
#define NAP_NS 100000000u /* so long at most is nobody seen who cancels */

struct orion_audit {
	const struct orion_manifest *manifest;
	int *packs; /* by number; -1: cannot be opened */
	uint32_t jobs;
	uint8_t *verdicts;
	pthread_mutex_t lock;
	uint32_t next; /* lock: the first block that nobody has taken */
	uint64_t rate; /* bytes per second; 0: any */
	size_t run; /* bytes of one read, if that is more than one block */
	uint64_t due; /* lock: when the last read that somebody took may begin, as orion_now_ns() */
	atomic_ullong done;
	atomic_bool stop;
};

int orion_audit_create(const struct orion_manifest *manifest, int packs, uint32_t jobs, uint64_t rate,
		       struct orion_audit **ret)
{
	struct orion_audit *audit = calloc(1, sizeof *audit);

	if (!audit)
		return -ENOMEM;
	audit->manifest = manifest;
	audit->jobs = jobs && jobs <= JOBS_MAX ? jobs : 1;
	audit->rate = rate;
	/* Several reads in a second, where there are few bytes in one. */
	audit->run = rate && rate / 4 < RUN_BYTES ? (size_t)(rate / 4) : RUN_BYTES;
	pthread_mutex_init(&audit->lock, NULL);
	audit->packs = malloc((manifest->pack_count + 1) * sizeof *audit->packs);
	if (!audit->packs) {
		free(audit);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < manifest->pack_count; i++) {
		char name[40] = "";

		for (int j = 0; j < 16; j++)
			snprintf(name + 2 * j, 3, "%02x", manifest->packs[i].id[j]);
		strcat(name, ".pack");
		audit->packs[i] = openat(packs, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	}
	*ret = audit;
	return 0;
}

void orion_audit_destroy(struct orion_audit *audit)
{
	if (!audit)
		return;
	for (uint32_t i = 0; i < audit->manifest->pack_count; i++)
		if (audit->packs[i] >= 0)
			close(audit->packs[i]);
	free(audit->packs);
	pthread_mutex_destroy(&audit->lock);
	free(audit);
}

uint64_t orion_audit_done(const struct orion_audit *audit)
{
	return audit->done;
}

void orion_audit_cancel(struct orion_audit *audit)
{
	audit->stop = true;
}

/* Waits for as long as so many bytes take. */
static void wait_for_turn(struct orion_audit *audit, size_t length)
{
	uint64_t now = orion_now_ns(), turn;

	if (!audit->rate)
		return;
	pthread_mutex_lock(&audit->lock);
	turn = (audit->due > now ? audit->due : now) + (uint64_t)((double)length / (double)audit->rate * 1e9);
	audit->due = turn;
	pthread_mutex_unlock(&audit->lock);
	while (!audit->stop && (now = orion_now_ns()) < turn)
		nanosleep(&(struct timespec){.tv_nsec = (long)(turn - now < NAP_NS ? turn - now : NAP_NS)}, NULL);
}

/* The next blocks that lie behind each other in one pack; their number, 0 at the end. */
static uint32_t take(struct orion_audit *audit, uint32_t *ret_first)
{
	const struct orion_manifest *manifest = audit->manifest;
	uint32_t count = 0;
	uint64_t length = 0;

	pthread_mutex_lock(&audit->lock);
	*ret_first = audit->next;
	while (audit->next < manifest->block_count) {
		const struct orion_place *first = manifest->blocks + *ret_first, *place = manifest->blocks + audit->next;

		if (count && (place->pack != first->pack || place->offset != first->offset + length ||
			      length + place->length > audit->run))
			break;
		length += place->length;
		count++;
		audit->next++;
	}
	pthread_mutex_unlock(&audit->lock);
	return count;
}

/* How much of it there is. */
static size_t read_run(int fd, uint8_t *buffer, size_t length, uint64_t offset)
{
	size_t done = 0;

	while (done < length) {
		const ssize_t got = pread(fd, buffer + done, length - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		done += (size_t)got;
	}
	return done;
}

static void look_at(struct orion_audit *audit, uint32_t first, uint32_t count, uint8_t *buffer)
{
	const struct orion_manifest *manifest = audit->manifest;
	const struct orion_place *place = manifest->blocks + first, *last = place + count - 1;
	const size_t length = (size_t)(last->offset + last->length - place->offset);
	const uint32_t size = manifest->header->digest_size;
	size_t at = 0, got = 0;

	/* Of a hostile manifest, one block may be too long by itself; it cannot be good. */
	if (place->pack < manifest->pack_count && length <= RUN_BYTES && audit->packs[place->pack] >= 0) {
		wait_for_turn(audit, length);
		got = read_run(audit->packs[place->pack], buffer, length, place->offset);
	}
	for (uint32_t i = first; i < first + count; i++) {
		uint8_t digest[ORION_DIGEST_MAX];

		place = manifest->blocks + i;
		if (at + place->length > got) {
			audit->verdicts[i] = ORION_BLOCK_MISSING;
		} else {
			orion_digest_bytes(manifest->header->digest_kind, buffer + at, place->length, digest);
			audit->verdicts[i] = memcmp(digest, manifest->digests + (size_t)i * size, size) == 0 ?
						     ORION_BLOCK_GOOD :
						     ORION_BLOCK_DIFFERS;
		}
		at += place->length;
		audit->done += place->length;
	}
}

static void *work(void *argument)
{
	struct orion_audit *audit = argument;
	uint8_t *buffer = malloc(RUN_BYTES);
	uint32_t first, count;

	while (buffer && !audit->stop && (count = take(audit, &first)))
		look_at(audit, first, count, buffer);
	/* NULL: out of memory. */
	void *const result = buffer ? audit : NULL;

	free(buffer);
	return result;
}

int orion_audit_run(struct orion_audit *audit, uint8_t *ret_verdicts)
{
	pthread_t threads[JOBS_MAX];
	uint32_t count = 0;
	bool worked;

	audit->verdicts = ret_verdicts;
	while (count + 1 < audit->jobs && pthread_create(threads + count, NULL, work, audit) == 0)
		count++;
	worked = work(audit);
	while (count--)
		pthread_join(threads[count], NULL);
	/* One thread that had its buffer did everything. */
	return audit->stop ? -ECANCELED : worked || audit->next == audit->manifest->block_count ? 0 : -ENOMEM;
}
