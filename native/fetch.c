/* Flights: each block that is on its way, who waits for it, and which read on which server brings it. */
#define _GNU_SOURCE
#include "fetch.h"

#include "digest.h"
#include "packs.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUCKETS 1024 /* of the table of flights; a power of two */
/* Reading around a miss: below this round trip it is worth nothing; it grows to the whole at the other one. */
#define AROUND_FROM_NS 500000u
#define AROUND_FULL_NS 10000000u
#define AROUND_MOST (1u << 20)
/* A read as small as this takes a round trip and no more. */
#define SMALL_READ (64u << 10)
/* Speculative bytes on their way at the same time. */
#define AHEAD_MOST (8u << 20)

struct orion_flight {
	uint32_t number; /* of the block */
	struct orion_flight *chain; /* of the table */
	struct orion_slot *waiting;
	struct attempt *attempt; /* what brings it; may be changed for another server's */
	bool ahead; /* nobody has waited for it yet */
	bool speculative; /* nobody waited for it when it took off */
};

/* One run of neighbouring blocks, asked of one server. A thread that comes back from a dead server after its deadline
 * touches nothing but this. */
struct attempt {
	struct orion_job job; /* first: the upstreams' */
	struct orion_fetch *fetch;
	uint32_t tried; /* a bit for each server that has been asked, this one included */
	uint32_t first, count; /* numbers of blocks */
	enum orion_trace_reason reason;
	uint64_t traced;
	size_t bytes;
	struct orion_block *blocks[ORION_RUN_BLOCKS]; /* before run(): none; after it: those that are good */
};

/* A block that somebody may still look into, although the kernel has it whole. Few of them: each is memory that the next
 * block does not use again at once, and page faults in its place. */
#define RECENT 16

struct recent {
	struct orion_block *block; /* held; NULL: none */
	uint32_t number;
};

struct orion_fetch {
	const struct orion_manifest *manifest;
	struct orion_store *store;
	struct orion_upstreams *upstreams;
	struct orion_events *events;
	struct orion_fetch_options options;
	struct orion_packs *packs;
	pthread_mutex_t lock; /* of what follows, and of slots' next, flight, block and read->missing while it is under way */
	struct orion_flight *flights[BUCKETS];
	size_t ahead_bytes; /* on their way */
	bool *was_ahead; /* for each block: fetched speculatively, and not demanded since */
	bool *kernel_has; /* for each block: the page cache was given all of it, and has not asked for any of it since */
	struct orion_fetch_statistics count;
	bool remembers;
	struct recent recent[RECENT]; /* what was read last */
	uint32_t recent_next;
};

static const uint8_t zeros[1u << 20];

static const uint8_t *digest_of(const struct orion_fetch *fetch, uint32_t number)
{
	return fetch->manifest->digests + (size_t)number * fetch->manifest->header->digest_size;
}

int orion_fetch_create(const struct orion_manifest *manifest, struct orion_store *store,
		       struct orion_upstreams *upstreams, struct orion_events *events,
		       const struct orion_fetch_options *options, struct orion_fetch **ret)
{
	struct orion_fetch *fetch = calloc(1, sizeof(*fetch));

	if (!fetch)
		return -ENOMEM;
	fetch->was_ahead = calloc(manifest->block_count + 1, sizeof(bool));
	fetch->kernel_has = calloc(manifest->block_count + 1, sizeof(bool));
	if (!fetch->was_ahead || !fetch->kernel_has || orion_packs_create(manifest, upstreams, &fetch->packs)) {
		free(fetch->was_ahead);
		free(fetch->kernel_has);
		free(fetch);
		return -ENOMEM;
	}
	fetch->manifest = manifest;
	fetch->store = store;
	fetch->upstreams = upstreams;
	fetch->events = events;
	fetch->options = *options;
	pthread_mutex_init(&fetch->lock, NULL);
	*ret = fetch;
	return 0;
}

void orion_fetch_destroy(struct orion_fetch *fetch)
{
	if (!fetch)
		return;
	orion_fetch_remember(fetch, false);
	pthread_mutex_destroy(&fetch->lock);
	orion_packs_destroy(fetch->packs);
	free(fetch->was_ahead);
	free(fetch->kernel_has);
	free(fetch);
}

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
		if (memcmp(digest, digest_of(fetch, attempt->first + i), header->digest_size) == 0)
			continue;
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

/* In a reader thread: reads straight into blocks, and keeps those that are good. Past the page cache it is by way of a
 * scratch buffer: NFS sends a READ of its own for each part of a list that does not fill its pages. */
static int run_attempt(struct orion_job *job, uint32_t server)
{
	struct attempt *attempt = (struct attempt *)job;
	struct orion_fetch *fetch = attempt->fetch;
	const struct orion_place *place = &fetch->manifest->blocks[attempt->first];
	const int fd = orion_packs_open(fetch->packs, place->pack, server);

	uint8_t *scratch = attempt->count > 1 && orion_upstreams_direct(fetch->upstreams, server) ? job->scratch : NULL;

	if (fd < 0)
		return fd;
	int error = create_blocks(attempt);

	if (!error)
		error = fill_blocks(attempt, fd, (off_t)place->offset, 0, scratch);
	if (error == -ESTALE) {
		error = orion_packs_reopen(fetch->packs, place->pack, server, fd);
		if (!error)
			error = fill_blocks(attempt, fd, (off_t)place->offset, 0, scratch);
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

/* In whatever thread asks: the same, if a local source has all of it in its page cache; waits for nothing. What is
 * there need not be handed to another thread and back, which costs more than to copy it. */
static bool run_at_once(struct attempt *attempt, uint32_t server, int *ret_error)
{
	struct orion_fetch *fetch = attempt->fetch;
	const struct orion_place *place = &fetch->manifest->blocks[attempt->first];

	if (orion_upstreams_direct(fetch->upstreams, server))
		return false;
	const int fd = orion_packs_opened(fetch->packs, place->pack, server);

	/* Whatever goes wrong, a reader thread meets it again and deals with it; or none does, and an attempt that never ran
	 * must have no blocks, for they would be taken for good ones. */
	if (fd < 0 || create_blocks(attempt) ||
	    fill_blocks(attempt, fd, (off_t)place->offset, orion_upstreams_at_once(fetch->upstreams, server), NULL)) {
		release_blocks(attempt);
		return false;
	}
	orion_upstreams_count_read(fetch->upstreams, server, attempt->bytes);
	*ret_error = verify_blocks(attempt);
	return true;
}

static void drop_attempt(struct orion_job *job)
{
	struct attempt *attempt = (struct attempt *)job;

	release_blocks(attempt);
	free(attempt);
}

static struct orion_flight **find_flight(struct orion_fetch *fetch, uint32_t number)
{
	struct orion_flight **link = &fetch->flights[number & (BUCKETS - 1)];

	while (*link && (*link)->number != number)
		link = &(*link)->chain;
	return link;
}

/* Locked. */
static void remember(struct orion_fetch *fetch, uint32_t number, struct orion_block *block)
{
	if (!fetch->remembers)
		return;
	for (uint32_t i = 0; i < RECENT; i++)
		if (fetch->recent[i].block == block)
			return;
	struct recent *recent = &fetch->recent[fetch->recent_next++ % RECENT];

	orion_block_release(recent->block);
	orion_block_hold(block);
	*recent = (struct recent){block, number};
}

/* Ends a flight: its block, or none, goes to all who wait. Locked; reads that are complete now are added to done. */
static void land(struct orion_fetch *fetch, uint32_t number, struct orion_block *block, struct orion_slot **done)
{
	struct orion_flight **link = find_flight(fetch, number), *flight = *link;

	*link = flight->chain;
	fetch->count.flights--;
	if (flight->ahead) {
		fetch->ahead_bytes -= fetch->manifest->blocks[number].length;
		fetch->was_ahead[number] = block != NULL;
	}
	if (!block) {
		fetch->count.failed_blocks++;
		fetch->kernel_has[number] = false;
	} else if (flight->waiting) {
		remember(fetch, number, block);
	}
	for (struct orion_slot *slot = flight->waiting, *next; slot; slot = next) {
		next = slot->next;
		slot->flight = NULL;
		slot->block = block;
		if (block)
			orion_block_hold(block);
		else
			slot->read->error = -EIO;
		if (--slot->read->missing == 0) {
			slot->next = *done;
			*done = slot;
		}
	}
	free(flight);
}

static void finish_read(struct orion_read *read);

static void tell_done(struct orion_slot *done)
{
	while (done) {
		struct orion_read *read = done->read;

		done = done->next;
		finish_read(read);
		read->done(read);
	}
}

/* Why blocks are asked for, and of whom first. */
struct errand {
	enum orion_trace_reason reason;
	int server; /* -1: the current one */
};

static int ask(struct orion_fetch *fetch, uint32_t first, uint32_t count, uint32_t tried, struct errand errand);

/* How many bytes of a slot's the kernel will keep in our place. */
static uint32_t bytes_kept(const struct orion_slot *slot)
{
	return slot->read->kept ? slot->length : 0;
}

/* How much of a block the kernel will keep, as those who wait for it have asked. */
static uint32_t bytes_waited_for(struct orion_fetch *fetch, uint32_t number)
{
	uint32_t bytes = 0;

	pthread_mutex_lock(&fetch->lock);
	for (const struct orion_slot *slot = (*find_flight(fetch, number))->waiting; slot; slot = slot->next)
		bytes += bytes_kept(slot);
	pthread_mutex_unlock(&fetch->lock);
	return bytes;
}

/* In the words of an administrator. */
static const char *what_went_wrong(int error)
{
	switch (-error) {
	case EBADMSG:
		return "content does not match its digest";
	case ENODATA:
		return "the pack ends too early";
	case ETIMEDOUT:
		return "no answer in time";
	default:
		return strerrordesc_np(-error);
	}
}

/* A run of blocks, in the same words. Searches the whole manifest: for what should never happen. */
static void name_blocks(const struct orion_fetch *fetch, uint32_t first, uint32_t count, char *ret, size_t capacity)
{
	uint32_t inode, file_block;
	char path[128], more[32] = "";

	if (count > 1)
		snprintf(more, sizeof(more), " and %u more", count - 1);
	if (orion_manifest_block_user(fetch->manifest, first, &inode, &file_block) ||
	    orion_manifest_path(fetch->manifest, inode, path, sizeof(path)))
		snprintf(ret, capacity, "block number %u%s", first, more);
	else
		snprintf(ret, capacity, "block %u of /%s%s", file_block, path, more);
}

static void tell_no_good_copy(const struct orion_fetch *fetch, uint32_t first, uint32_t count, uint32_t tried)
{
	char blocks[192], servers[ORION_EVENT_TEXT] = "";
	size_t at = 0;

	for (uint32_t i = 0; i < ORION_SERVERS_MAX && at < sizeof(servers); i++)
		if (tried & 1u << i)
			at += (size_t)snprintf(servers + at, sizeof(servers) - at, "%s%s", at ? ", " : "",
					       orion_upstreams_source(fetch->upstreams, i));
	name_blocks(fetch, first, count, blocks, sizeof(blocks));
	orion_events_tell(fetch->events, ORION_ERROR, "%s: no good copy on %s", blocks, servers);
}

/* Which blocks an attempt did not bring; only those of a damaged pack are looked up by name. */
static void tell_failure(const struct attempt *attempt, uint32_t server, int error)
{
	const struct orion_fetch *fetch = attempt->fetch;
	uint32_t first = 0, bad = 0;
	char blocks[192];

	if (error != -EBADMSG && error != -ENODATA) {
		orion_events_tell(fetch->events, ORION_WARNING, "%s: %u blocks: %s",
				  orion_upstreams_source(fetch->upstreams, server), attempt->count,
				  what_went_wrong(error));
		return;
	}
	for (uint32_t i = attempt->count; i-- > 0;)
		if (!attempt->blocks[i]) {
			first = i;
			bad++;
		}
	name_blocks(fetch, attempt->first + first, bad, blocks, sizeof(blocks));
	orion_events_tell(fetch->events, ORION_WARNING, "%s: %s: %s", orion_upstreams_source(fetch->upstreams, server),
			  blocks, what_went_wrong(error));
}

static void finish_attempt(struct orion_job *job, int error)
{
	struct attempt *attempt = (struct attempt *)job;
	struct orion_fetch *fetch = attempt->fetch;
	struct orion_slot *done = NULL;
	/* After a deadline the thread may still be writing to attempt->blocks. */
	const bool any = error != -ETIMEDOUT;
	const bool ours = orion_error_is_ours(error);

	if (!ours)
		orion_upstreams_report(fetch->upstreams, job->server, error == 0, error == -EBADMSG || error == -ENODATA);
	if (error && error != -ECANCELED)
		tell_failure(attempt, job->server, error);
	/* Kept before the flights land: whoever finds no flight finds the block. */
	for (uint32_t i = 0; any && i < attempt->count; i++)
		if (attempt->blocks[i])
			orion_store_put(fetch->store, digest_of(fetch, attempt->first + i), attempt->blocks[i],
					bytes_waited_for(fetch, attempt->first + i));
	for (uint32_t i = 0; i < attempt->count;) {
		const bool good = any && attempt->blocks[i];
		uint32_t end = i + 1;

		while (end < attempt->count && (any && attempt->blocks[end]) == good)
			end++;
		/* Who is asked next is told before the flight lands, if anybody can be. */
		if (good || ours ||
		    ask(fetch, attempt->first + i, end - i, attempt->tried, (struct errand){attempt->reason, -1})) {
			pthread_mutex_lock(&fetch->lock);
			for (uint32_t k = i; k < end; k++)
				land(fetch, attempt->first + k, good ? attempt->blocks[k] : NULL, &done);
			pthread_mutex_unlock(&fetch->lock);
			if (!good && !ours)
				tell_no_good_copy(fetch, attempt->first + i, end - i, attempt->tried);
		}
		i = end;
	}
	orion_trace_end(fetch->options.trace, attempt->traced, error ? ORION_TRACE_ERROR : ORION_TRACE_HIT, attempt->count);
	tell_done(done);
}

/* Asks the next server for a run of blocks that are in flight; -EIO if there is none. */
static int ask(struct orion_fetch *fetch, uint32_t first, uint32_t count, uint32_t tried, struct errand errand)
{
	const bool is_wished = errand.server >= 0 && !(tried & 1u << errand.server) &&
			       orion_upstreams_is_up(fetch->upstreams, (uint32_t)errand.server);
	const int server = is_wished ? errand.server : orion_upstreams_choose(fetch->upstreams, tried);
	/* Whoever waited for a bad server has waited long enough. */
	const bool urgent = tried || errand.reason == ORION_TRACE_DEMAND;

	if (server < 0)
		return server;
	struct attempt *attempt = calloc(1, sizeof(*attempt));

	if (!attempt)
		return -ENOMEM;
	attempt->job = (struct orion_job){
		.run = run_attempt, .finish = finish_attempt, .drop = drop_attempt, .urgent = urgent};
	attempt->fetch = fetch;
	attempt->tried = tried | 1u << server;
	attempt->first = first;
	attempt->count = count;
	attempt->reason = errand.reason;
	for (uint32_t i = 0; i < count; i++)
		attempt->bytes += fetch->manifest->blocks[first + i].length;
	attempt->job.measures = attempt->bytes <= SMALL_READ;
	attempt->traced = orion_trace_begin_fetch(fetch->options.trace, errand.reason, (uint32_t)server, first, count,
						  fetch->manifest->blocks[first].offset, attempt->bytes);
	/* A demand that finds one of these flights promotes this job: it must not be gone, so before it can run. */
	pthread_mutex_lock(&fetch->lock);
	for (uint32_t i = 0; i < count; i++)
		(*find_flight(fetch, first + i))->attempt = attempt;
	pthread_mutex_unlock(&fetch->lock);
	int error;

	/* Not after a failure: a bad server's blocks are asked of others in their own time. */
	if (urgent && !tried && run_at_once(attempt, (uint32_t)server, &error)) {
		attempt->job.server = (uint32_t)server;
		finish_attempt(&attempt->job, error);
		drop_attempt(&attempt->job);
		return 0;
	}
	orion_upstreams_submit(fetch->upstreams, (uint32_t)server, &attempt->job);
	return 0;
}

/* A run ends where the next block lies elsewhere, or where it would be too long. */
static bool goes_on(const struct orion_fetch *fetch, uint32_t first, uint32_t count, size_t bytes)
{
	const struct orion_place *blocks = fetch->manifest->blocks;
	const uint32_t next = first + count;

	return count < ORION_RUN_BLOCKS && next < fetch->manifest->block_count &&
	       bytes + blocks[next].length <= ORION_RUN_BYTES && blocks[next].pack == blocks[first].pack &&
	       blocks[next].offset == blocks[next - 1].offset + blocks[next - 1].length;
}

/* Asks for blocks that have flights now: ascending numbers. If it cannot even be asked for, the flights land. */
static void depart(struct orion_fetch *fetch, const uint32_t *numbers, uint32_t total, struct errand errand)
{
	for (uint32_t i = 0; i < total;) {
		size_t bytes = fetch->manifest->blocks[numbers[i]].length;
		uint32_t count = 1;

		while (i + count < total && numbers[i + count] == numbers[i] + count &&
		       goes_on(fetch, numbers[i], count, bytes))
			bytes += fetch->manifest->blocks[numbers[i + count++]].length;
		if (ask(fetch, numbers[i], count, 0, errand)) {
			struct orion_slot *done = NULL;

			pthread_mutex_lock(&fetch->lock);
			for (uint32_t k = 0; k < count; k++)
				land(fetch, numbers[i] + k, NULL, &done);
			pthread_mutex_unlock(&fetch->lock);
			tell_done(done);
		}
		i += count;
	}
}

/* Locked: a new flight; NULL if there is no memory. */
static struct orion_flight *take_off(struct orion_fetch *fetch, uint32_t number, bool ahead)
{
	struct orion_flight *flight = calloc(1, sizeof(*flight));
	const uint32_t length = fetch->manifest->blocks[number].length;

	if (!flight)
		return NULL;
	flight->number = number;
	flight->ahead = flight->speculative = ahead;
	flight->chain = fetch->flights[number & (BUCKETS - 1)];
	fetch->flights[number & (BUCKETS - 1)] = flight;
	fetch->count.flights++;
	if (ahead) {
		fetch->ahead_bytes += length;
		fetch->count.ahead_blocks++;
		fetch->count.ahead_bytes += length;
	} else {
		fetch->count.demand_blocks++;
		fetch->count.demand_bytes += length;
	}
	return flight;
}

int orion_read_create(struct orion_fetch *fetch, uint32_t inode, uint64_t offset, uint32_t size, uint32_t leading,
		      struct orion_read **ret)
{
	const struct orion_manifest *manifest = fetch->manifest;
	const uint32_t block_size = manifest->header->block_size;
	const struct orion_inode *found;
	int error = orion_manifest_inode(manifest, inode, &found);

	if (error)
		return error;
	if (!S_ISREG(found->mode))
		return S_ISDIR(found->mode) ? -EISDIR : -EINVAL;

	const uint64_t left = offset < found->size ? found->size - offset : 0;
	const uint32_t length = left < size ? (uint32_t)left : size;
	const uint32_t skip = (uint32_t)(offset & (block_size - 1));
	const uint32_t count = length ? (uint32_t)(((uint64_t)skip + length + block_size - 1) >> manifest->block_shift) : 0;
	struct orion_read *read = calloc(1, sizeof(*read) + count * sizeof(*read->slots) +
						    (leading + count) * sizeof(*read->parts));

	if (!read)
		return -ENOMEM;
	read->inode = inode;
	read->offset = offset;
	read->length = length;
	read->leading = leading;
	read->parts = (struct iovec *)(read->slots + count);
	read->slot_count = count;
	for (uint32_t i = 0; i < count && !error; i++) {
		struct orion_slot *slot = &read->slots[i];
		struct orion_block_of_file block;

		error = orion_manifest_block(manifest, inode, (offset >> manifest->block_shift) + i, &block);
		slot->read = read;
		slot->number = block.number;
		slot->skip = i ? 0 : skip;
		slot->length = block_size - slot->skip;
		if (i == count - 1)
			slot->length = length - (i ? i * block_size - skip : 0);
		/* What is asked for must be in the block, whatever the manifest says. */
		if (!error && slot->skip + slot->length > block.length)
			error = -EIO;
	}
	if (error) {
		free(read);
		return error;
	}
	*ret = read;
	return 0;
}

void orion_read_destroy(struct orion_read *read)
{
	if (!read)
		return;
	for (uint32_t i = 0; i < read->slot_count; i++)
		orion_block_release(read->slots[i].block);
	free(read);
}

/* All blocks are there, or will never be. */
static void finish_read(struct orion_read *read)
{
	read->part_count = read->leading;
	if (read->error) {
		read->length = 0;
		return;
	}
	for (uint32_t i = 0; i < read->slot_count; i++) {
		const struct orion_slot *slot = &read->slots[i];
		const uint8_t *bytes = slot->block ? slot->block->bytes + slot->skip : zeros;

		read->parts[read->part_count++] = (struct iovec){(void *)bytes, slot->length};
	}
}

/* Locked. */
static void note_demand(struct orion_fetch *fetch, const struct orion_slot *slot)
{
	const uint32_t number = slot->number;

	/* What it asks for again it has dropped. */
	fetch->kernel_has[number] = bytes_kept(slot) >= fetch->manifest->blocks[number].length;
	if (fetch->was_ahead[number]) {
		fetch->was_ahead[number] = false;
		fetch->count.ahead_used++;
	}
}

/* A slot's block, held, if it is here. */
static struct orion_block *stored(struct orion_fetch *fetch, const struct orion_slot *slot)
{
	struct orion_block *block = orion_store_get(fetch->store, digest_of(fetch, slot->number), bytes_kept(slot));

	/* In a hostile manifest another block may have this one's digest. What is fetched in its place will not. */
	if (block && block->length != fetch->manifest->blocks[slot->number].length) {
		orion_block_release(block);
		return NULL;
	}
	return block;
}

/* Locked: lets a slot wait for a block that was not in the store a moment ago; whether it takes a new flight. */
static bool join(struct orion_fetch *fetch, struct orion_slot *slot)
{
	struct orion_flight *flight = *find_flight(fetch, slot->number);
	const bool is_new = !flight;

	if (is_new) {
		/* It may have landed since. */
		slot->block = stored(fetch, slot);
		if (slot->block)
			return false;
		flight = take_off(fetch, slot->number, false);
		if (!flight) {
			slot->read->error = -ENOMEM;
			return false;
		}
	}
	if (flight->ahead) {
		flight->ahead = false;
		fetch->ahead_bytes -= fetch->manifest->blocks[slot->number].length;
		fetch->count.ahead_used++;
		if (flight->attempt)
			orion_upstreams_promote(fetch->upstreams, &flight->attempt->job);
	}
	slot->flight = flight;
	slot->next = flight->waiting;
	flight->waiting = slot;
	slot->read->missing++;
	slot->read->missed++;
	slot->read->late += flight->speculative;
	return is_new;
}

static size_t bytes_around(struct orion_fetch *fetch)
{
	if (fetch->options.read_around >= 0)
		return (size_t)fetch->options.read_around;

	const uint64_t trip = orion_upstreams_round_trip(fetch->upstreams);

	if (trip <= AROUND_FROM_NS)
		return 0;
	if (trip >= AROUND_FULL_NS)
		return AROUND_MOST;
	return (size_t)(AROUND_MOST * (trip - AROUND_FROM_NS) / (AROUND_FULL_NS - AROUND_FROM_NS));
}

/* No file has led here, so nobody has looked at the block's record yet. */
static bool is_good_place(const struct orion_manifest *manifest, uint32_t number)
{
	const struct orion_place *place = &manifest->blocks[number];

	return place->length && place->length <= manifest->header->block_size && place->pack < manifest->pack_count &&
	       place->offset <= INT64_MAX && place->offset + place->length <= manifest->packs[place->pack].size;
}

/* Locked: takes off for a block that is neither here nor on its way; false when there is no more room. */
static bool take_ahead(struct orion_fetch *fetch, uint32_t number, uint32_t *numbers, uint32_t *count)
{
	if (*count == ORION_RUN_BLOCKS || fetch->ahead_bytes >= AHEAD_MOST)
		return false;
	if (is_good_place(fetch->manifest, number) && !fetch->kernel_has[number] && !*find_flight(fetch, number) &&
	    !orion_store_has(fetch->store, digest_of(fetch, number)) && take_off(fetch, number, true))
		numbers[(*count)++] = number;
	return true;
}

/* What lies around a miss in its pack is likely to be asked for next: neighbours there are neighbours in the tree. A
 * quarter of it before, the rest behind. */
static void read_around(struct orion_fetch *fetch, uint32_t first, uint32_t last)
{
	const struct orion_place *blocks = fetch->manifest->blocks;
	const size_t bytes = bytes_around(fetch);
	uint32_t numbers[ORION_RUN_BLOCKS], count = 0, begin = first;

	if (!bytes)
		return;
	for (size_t left = bytes / 4; begin > 0 && blocks[begin - 1].pack == blocks[first].pack &&
				      blocks[begin - 1].length <= left;)
		left -= blocks[--begin].length;
	pthread_mutex_lock(&fetch->lock);
	for (uint32_t number = begin; number < first && take_ahead(fetch, number, numbers, &count);)
		number++;
	size_t left = bytes - bytes / 4;

	for (uint32_t number = last + 1;
	     number < fetch->manifest->block_count && blocks[number].pack == blocks[last].pack &&
	     blocks[number].length <= left && take_ahead(fetch, number, numbers, &count);)
		left -= blocks[number++].length;
	pthread_mutex_unlock(&fetch->lock);
	depart(fetch, numbers, count, (struct errand){ORION_TRACE_AROUND, -1});
}

static int compare_numbers(const void *left, const void *right)
{
	const uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

	return a < b ? -1 : a > b;
}

bool orion_fetch_read(struct orion_fetch *fetch, struct orion_read *read)
{
	uint32_t numbers[ORION_RUN_BLOCKS + 1], count = 0;

	for (uint32_t i = 0; i < read->slot_count; i++) {
		struct orion_slot *slot = &read->slots[i];

		if (slot->number == ORION_HOLE)
			continue;
		slot->block = stored(fetch, slot);
	}
	pthread_mutex_lock(&fetch->lock);
	for (uint32_t i = 0; i < read->slot_count; i++) {
		struct orion_slot *slot = &read->slots[i];

		if (slot->number == ORION_HOLE)
			continue;
		if (!slot->block && join(fetch, slot))
			numbers[count++] = slot->number;
		if (slot->block)
			remember(fetch, slot->number, slot->block);
		note_demand(fetch, slot);
	}
	const bool done = read->missing == 0, alone = read->alone;

	pthread_mutex_unlock(&fetch->lock);
	/* From here on the read may be done, and gone, at any moment, unless it waits for nothing. */
	if (done)
		finish_read(read);
	if (count) {
		qsort(numbers, count, sizeof(*numbers), compare_numbers);
		depart(fetch, numbers, count, (struct errand){ORION_TRACE_DEMAND, -1});
		if (!alone)
			read_around(fetch, numbers[0], numbers[count - 1]);
	}
	return done;
}

bool orion_fetch_cancel(struct orion_fetch *fetch, struct orion_read *read)
{
	pthread_mutex_lock(&fetch->lock);
	const bool cancelled = read->missing > 0;

	for (uint32_t i = 0; cancelled && i < read->slot_count; i++) {
		struct orion_slot *slot = &read->slots[i];

		if (slot->number != ORION_HOLE)
			fetch->kernel_has[slot->number] = false;
		if (!slot->flight)
			continue;
		struct orion_slot **link = &slot->flight->waiting;

		while (*link != slot)
			link = &(*link)->next;
		*link = slot->next;
		slot->flight = NULL;
	}
	if (cancelled)
		read->missing = 0;
	pthread_mutex_unlock(&fetch->lock);
	return cancelled;
}

void orion_fetch_prefetch(struct orion_fetch *fetch, uint32_t server, const uint32_t *blocks, size_t total,
			  bool *departed)
{
	const struct errand errand = {ORION_TRACE_AHEAD, server < ORION_SERVERS_MAX ? (int)server : -1};
	uint32_t numbers[ORION_RUN_BLOCKS], count;
	bool room = true;

	for (size_t i = 0; i < total;) {
		count = 0;
		pthread_mutex_lock(&fetch->lock);
		for (; i < total && count < ORION_RUN_BLOCKS; i++) {
			const uint32_t before = count;

			/* When enough is on its way; the caller comes back. */
			room = room && (blocks[i] >= fetch->manifest->block_count ||
					take_ahead(fetch, blocks[i], numbers, &count));
			departed[i] = count > before;
		}
		pthread_mutex_unlock(&fetch->lock);
		depart(fetch, numbers, count, errand);
	}
}

enum orion_presence orion_fetch_find(struct orion_fetch *fetch, uint32_t block)
{
	if (block >= fetch->manifest->block_count)
		return ORION_ABSENT;
	/* Locked together: a block that lands is in the store before its flight ends. */
	pthread_mutex_lock(&fetch->lock);
	const bool comes = *find_flight(fetch, block);
	const bool is_here = fetch->kernel_has[block] || orion_store_has(fetch->store, digest_of(fetch, block));

	pthread_mutex_unlock(&fetch->lock);
	return is_here ? ORION_PRESENT : comes ? ORION_COMING : ORION_ABSENT;
}

struct orion_block *orion_fetch_peek(struct orion_fetch *fetch, uint32_t number)
{
	if (number >= fetch->manifest->block_count)
		return NULL;
	struct orion_block *block = orion_store_peek(fetch->store, digest_of(fetch, number));

	pthread_mutex_lock(&fetch->lock);
	for (uint32_t i = 0; i < RECENT && !block; i++)
		if (fetch->recent[i].block && fetch->recent[i].number == number) {
			block = fetch->recent[i].block;
			orion_block_hold(block);
		}
	pthread_mutex_unlock(&fetch->lock);
	/* As in stored(). */
	if (block && block->length != fetch->manifest->blocks[number].length) {
		orion_block_release(block);
		return NULL;
	}
	return block;
}

void orion_fetch_remember(struct orion_fetch *fetch, bool remember)
{
	pthread_mutex_lock(&fetch->lock);
	fetch->remembers = remember;
	for (uint32_t i = 0; i < RECENT && !remember; i++) {
		orion_block_release(fetch->recent[i].block);
		fetch->recent[i].block = NULL;
	}
	pthread_mutex_unlock(&fetch->lock);
}

void orion_fetch_prepare(struct orion_fetch *fetch, uint32_t server)
{
	orion_packs_open_early(fetch->packs, server);
}

void orion_fetch_given(struct orion_fetch *fetch, uint32_t block)
{
	orion_store_given(fetch->store, digest_of(fetch, block));
	pthread_mutex_lock(&fetch->lock);
	fetch->kernel_has[block] = true;
	pthread_mutex_unlock(&fetch->lock);
}

void orion_fetch_statistics(struct orion_fetch *fetch, struct orion_fetch_statistics *ret)
{
	pthread_mutex_lock(&fetch->lock);
	*ret = fetch->count;
	pthread_mutex_unlock(&fetch->lock);
}
