/* One run of blocks read on one server, and verified. */
#define _GNU_SOURCE
#include "fetch_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

/* A read as small as this takes a round trip and no more. */
#define SMALL_READ (64u << 10)

/* Takes bytes that have come from a list of parts; the rest of it. */
static struct iovec *advance(struct iovec *parts, size_t bytes)
{
	while (bytes && bytes >= parts->iov_len)
		bytes -= (parts++)->iov_len;
	if (bytes) {
		parts->iov_base = (uint8_t *)parts->iov_base + bytes;
		parts->iov_len -= bytes;
	}
	return parts;
}

/* Fills all blocks of an attempt; flags as for preadv2(). scratch: by way of it, if not NULL. */
static int fill_blocks(const struct attempt *attempt, int fd, off_t offset, int flags, uint8_t *scratch)
{
	struct iovec all[ORION_RUN_BLOCKS], *parts = all;
	size_t left = attempt->bytes;

	uint32_t count = attempt->count;

	for (uint32_t i = 0; i < count; i++)
		all[i] = (struct iovec){attempt->blocks[i]->bytes, attempt->blocks[i]->length};
	if (scratch) {
		all[0] = (struct iovec){scratch, attempt->bytes};
		count = 1;
	}
	while (left) {
		const ssize_t got = preadv2(fd, parts, (int)(all + count - parts), offset, flags);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -ENODATA; /* the pack ends too early */
		parts = advance(parts, (size_t)got);
		left -= (size_t)got;
		offset += got;
	}
	for (uint32_t i = 0; scratch && i < attempt->count; scratch += attempt->blocks[i++]->length)
		memcpy(attempt->blocks[i]->bytes, scratch, attempt->blocks[i]->length);
	return 0;
}

static void release_blocks(struct attempt *attempt)
{
	for (uint32_t i = 0; i < attempt->count; i++) {
		orion_block_release(attempt->blocks[i]);
		attempt->blocks[i] = NULL;
	}
}

/* -ENOMEM, and then there are none. */
static int create_blocks(struct attempt *attempt)
{
	const struct orion_place *place = &attempt->fetch->manifest->blocks[attempt->first];

	for (uint32_t i = 0; i < attempt->count; i++)
		if (!attempt->blocks[i] && !(attempt->blocks[i] = orion_block_create(place[i].length))) {
			release_blocks(attempt);
			return -ENOMEM;
		}
	return 0;
}

/* Keeps the blocks that are what their digests say: 0, or -EBADMSG if not all are. */
static int verify_blocks(struct attempt *attempt)
{
	struct orion_fetch *fetch = attempt->fetch;
	const struct orion_header *header = fetch->manifest->header;
	uint8_t digest[ORION_DIGEST_MAX];
	int error = 0;

	for (uint32_t i = 0; i < attempt->count; i++) {
		struct orion_block *block = attempt->blocks[i];

		if (!block)
			continue;
		orion_digest_bytes(header->digest_kind, block->bytes, block->length, digest);
		if (memcmp(digest, orion_fetch_digest(fetch, attempt->first + i), header->digest_size) == 0)
			continue;
		if (attempt->bad == ORION_HOLE) {
			attempt->bad = attempt->first + i;
			memcpy(attempt->bad_digest, digest, header->digest_size);
		}
		orion_block_release(block);
		attempt->blocks[i] = NULL;
		error = -EBADMSG;
	}
	return error;
}

/* One by one, after a read of all of them failed: a bad spot costs its own block alone, as the next server may be bad
 * elsewhere. Blocks that cannot be read are left out; the last error. */
static int fill_each(struct attempt *attempt, int fd, off_t offset)
{
	int error = 0;

	for (uint32_t i = 0; i < attempt->count; i++) {
		struct attempt one = {.count = 1, .bytes = attempt->blocks[i]->length, .blocks = {attempt->blocks[i]}};
		const int failed = fill_blocks(&one, fd, offset, 0, NULL);

		offset += (off_t)one.bytes;
		if (!failed)
			continue;
		error = failed;
		orion_block_release(attempt->blocks[i]);
		attempt->blocks[i] = NULL;
	}
	return error;
}

/* Whether somebody still wants any of it: another server may have been quicker. */
static bool is_wanted(const struct attempt *attempt, uint32_t server)
{
	struct orion_fetch *fetch = attempt->fetch;
	bool wanted = false;

	pthread_mutex_lock(&fetch->lock);
	for (uint32_t i = 0; i < attempt->count && !wanted; i++) {
		const struct orion_flight *flight = *orion_flight_find(fetch, attempt->first + i);

		wanted = flight && flight->serial < attempt->serial && flight->in_air & 1u << server;
	}
	pthread_mutex_unlock(&fetch->lock);
	return wanted;
}

/* In a reader thread: reads straight into blocks, and keeps those that are good. Past the page cache it is by way of a
 * scratch buffer: NFS sends a READ of its own for each part of a list that does not fill its pages. */
static int run_attempt(struct orion_job *job, uint32_t server)
{
	struct attempt *attempt = (struct attempt *)job;
	struct orion_fetch *fetch = attempt->fetch;
	const struct orion_place *place = &fetch->manifest->blocks[attempt->first];

	if (!is_wanted(attempt, server))
		return -ECANCELED;
	int fd = orion_packs_open(fetch->packs, place->pack, server);
	uint8_t *scratch = attempt->count > 1 && orion_upstreams_direct(fetch->upstreams, server) ? job->scratch : NULL;

	if (fd < 0)
		return fd;
	int error = create_blocks(attempt);

	if (!error)
		error = fill_blocks(attempt, fd, (off_t)place->offset, 0, scratch);
	if (error == -ESTALE) {
		fd = orion_packs_reopen(fetch->packs, place->pack, server);
		error = fd < 0 ? fd : fill_blocks(attempt, fd, (off_t)place->offset, 0, scratch);
	}
	/* Other errors are the server's and not one spot's: there each try would wait again. */
	if (error == -ENODATA || error == -EIO)
		error = fill_each(attempt, fd, (off_t)place->offset);
	else if (error)
		release_blocks(attempt);
	if (error && error != -ENODATA && error != -EIO)
		return error;
	orion_upstreams_count_read(fetch->upstreams, server, attempt->bytes);

	const int bad = verify_blocks(attempt);

	return error ? error : bad;
}

/* What is there need not be handed to another thread and back, which costs more than to copy it. */
bool orion_attempt_at_once(struct attempt *attempt, uint32_t server, int *ret_error)
{
	struct orion_fetch *fetch = attempt->fetch;
	const struct orion_place *place = &fetch->manifest->blocks[attempt->first];
	struct orion_borrowed borrowed;

	if (orion_upstreams_direct(fetch->upstreams, server))
		return false;
	const int fd = orion_packs_borrow(fetch->packs, place->pack, server, &borrowed);

	if (fd < 0)
		return false;
	int error = create_blocks(attempt);

	if (!error)
		error = fill_blocks(attempt, fd, (off_t)place->offset, orion_upstreams_at_once(fetch->upstreams, server), NULL);
	orion_upstreams_return(fetch->upstreams, &borrowed);
	/* Whatever goes wrong, a reader thread meets it again and deals with it; or none does, and an attempt that never ran
	 * must have no blocks, for they would be taken for good ones. */
	if (error) {
		release_blocks(attempt);
		return false;
	}
	orion_upstreams_count_read(fetch->upstreams, server, attempt->bytes);
	*ret_error = verify_blocks(attempt);
	return true;
}

void orion_attempt_drop(struct orion_job *job)
{
	struct attempt *attempt = (struct attempt *)job;

	release_blocks(attempt);
	free(attempt);
}

struct attempt *orion_attempt_create(struct orion_fetch *fetch, uint32_t first, uint32_t count, struct errand errand)
{
	struct attempt *attempt = calloc(1, sizeof(*attempt));

	if (!attempt)
		return NULL;
	attempt->fetch = fetch;
	attempt->first = first;
	attempt->count = count;
	attempt->reason = errand.reason;
	attempt->bad = ORION_HOLE;
	for (uint32_t i = 0; i < count; i++)
		attempt->bytes += fetch->manifest->blocks[first + i].length;
	attempt->job = (struct orion_job){
		.run = run_attempt,
		.finish = orion_attempt_finish,
		.drop = orion_attempt_drop,
		.late = orion_attempt_late,
		.urgent = errand.urgent || errand.reason == ORION_TRACE_DEMAND,
		.measures = attempt->bytes <= SMALL_READ,
	};
	return attempt;
}
