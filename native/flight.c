/* Flights: each block that is on its way, who waits for it, and which servers were asked for it. */
#define _GNU_SOURCE
#include "fetch_parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* So many EIO of a block are a moment's trouble; the Python engine has as much patience. */
#define READ_ERRORS 5
#define RETRY_NS 200000000u

struct orion_flight **orion_flight_find(struct orion_fetch *fetch, uint32_t number)
{
	struct orion_flight **link = &fetch->flights[number & (ORION_FLIGHT_BUCKETS - 1)];

	while (*link && (*link)->number != number)
		link = &(*link)->chain;
	return link;
}

struct orion_flight *orion_flight_take_off(struct orion_fetch *fetch, uint32_t number, bool ahead)
{
	struct orion_flight *flight = calloc(1, sizeof(*flight));
	const uint32_t length = fetch->manifest->blocks[number].length;

	if (!flight)
		return NULL;
	flight->number = number;
	flight->serial = ++fetch->serials;
	flight->since = orion_now_ns();
	flight->ahead = flight->speculative = ahead;
	flight->chain = fetch->flights[number & (ORION_FLIGHT_BUCKETS - 1)];
	fetch->flights[number & (ORION_FLIGHT_BUCKETS - 1)] = flight;
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

/* Ends a flight: its block, or none, goes to all who wait. Locked; reads that are complete now are added to done. */
static void land(struct orion_fetch *fetch, struct orion_flight **link, struct orion_block *block, struct orion_slot **done)
{
	struct orion_flight *flight = *link;
	const uint32_t number = flight->number;

	*link = flight->chain;
	fetch->count.flights--;
	fetch->count.waiting -= flight->parked;
	if (flight->ahead) {
		fetch->ahead_bytes -= fetch->manifest->blocks[number].length;
		fetch->was_ahead[number] = block != NULL;
	}
	if (!block) {
		fetch->count.failed_blocks += flight->waiting != NULL;
		fetch->kernel_has[number] = false;
	} else if (flight->waiting) {
		orion_fetch_recall(fetch, number, block);
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

/* Puts a block into the store, unless it has landed before. How much of it the kernel will keep, those who wait for it have
 * asked. */
static void keep(struct orion_fetch *fetch, uint32_t number, struct orion_block *block)
{
	uint32_t bytes = 0;

	pthread_mutex_lock(&fetch->lock);
	const struct orion_flight *flight = *orion_flight_find(fetch, number);
	const bool comes = flight != NULL;

	for (const struct orion_slot *slot = comes ? flight->waiting : NULL; slot; slot = slot->next)
		bytes += orion_slot_kept(slot);
	pthread_mutex_unlock(&fetch->lock);
	if (comes)
		orion_store_put(fetch->store, orion_fetch_digest(fetch, number), block, bytes);
}

/* In the words of an administrator. */
static const char *what_went_wrong(int error)
{
	switch (-error) {
	case EBADMSG:
		return "content does not match its digest";
	case ENODATA:
		return "the pack ends too early";
	case ENOENT:
		return "the pack is missing";
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

/* Tells what was wrong with an attempt, and its server what follows; only blocks of a damaged pack are looked up by name. */
static void report(const struct attempt *attempt, uint32_t server, int error)
{
	const struct orion_fetch *fetch = attempt->fetch;
	uint32_t first = 0, bad = 0;
	char blocks[192], text[ORION_EVENT_TEXT];

	if (error != -EBADMSG && error != -ENODATA && error != -ENOENT) {
		orion_upstreams_failed(fetch->upstreams, server, error, what_went_wrong(error));
		return;
	}
	for (uint32_t i = attempt->count; i-- > 0;)
		if (!attempt->blocks[i]) {
			first = i;
			bad++;
		}
	name_blocks(fetch, attempt->first + first, bad, blocks, sizeof(blocks));
	size_t at = (size_t)snprintf(text, sizeof(text), "%.150s: %s", blocks, what_went_wrong(error));

	/* The first bytes of both are proof enough, and fit. */
	if (attempt->bad != ORION_HOLE) {
		const uint8_t *wanted = orion_fetch_digest(fetch, attempt->bad), *got = attempt->bad_digest;

		at += (size_t)snprintf(text + at, sizeof(text) - at, " (it is ");
		for (int i = 0; i < 6; i++)
			at += (size_t)snprintf(text + at, sizeof(text) - at, "%02x", got[i]);
		at += (size_t)snprintf(text + at, sizeof(text) - at, " and not ");
		for (int i = 0; i < 6; i++)
			at += (size_t)snprintf(text + at, sizeof(text) - at, "%02x", wanted[i]);
		snprintf(text + at, sizeof(text) - at, ")");
	}
	orion_upstreams_lied(fetch->upstreams, server, text);
}

static int ask(struct orion_fetch *fetch, int server, uint32_t first, uint32_t count, struct errand errand, uint32_t overtakes);

/* Locked: whether a flight is still what an attempt on a server was made for. */
static bool concerns(const struct attempt *attempt, uint32_t server, const struct orion_flight *flight)
{
	return flight && flight->serial < attempt->serial && flight->in_air & 1u << server;
}

/* Locked: whether no server can bring it, now or later. */
static bool is_hopeless(struct orion_fetch *fetch, const struct orion_flight *flight)
{
	return (orion_upstreams_all(fetch->upstreams) & ~flight->bad) == 0;
}

/* Locked: a flight that nobody brings just now. It is parked if somebody waits for it and a server may come back; else it
 * ends. */
static void park(struct orion_fetch *fetch, struct orion_flight **link, struct orion_slot **done)
{
	struct orion_flight *flight = *link;

	if (flight->ahead || !flight->waiting || is_hopeless(fetch, flight)) {
		land(fetch, link, NULL, done);
		return;
	}
	fetch->count.waiting += !flight->parked;
	flight->parked = true;
	/* Those that did not answer may when they are back. */
	flight->tried = flight->bad;
	flight->retry_at = flight->read_errors ? orion_now_ns() + RETRY_NS : 0;
}

/* Those who wait for a server, or no longer than they may, are looked at by the clock. */
static void begin_to_look(struct orion_fetch *fetch)
{
	pthread_mutex_lock(&fetch->lock);
	const bool begin = !fetch->looks && (fetch->count.waiting || fetch->options.give_up_ns);

	fetch->looks |= begin;
	pthread_mutex_unlock(&fetch->lock);
	if (begin)
		orion_upstreams_look(fetch->upstreams);
}

/* Has somebody else asked for blocks that one server did not bring; or parks them. Runs of those that can be asked of the same
 * one go together. choose: whom. */
static void ask_others(struct orion_fetch *fetch, const uint32_t *numbers, uint32_t total, struct errand errand,
		       int (*choose)(struct orion_upstreams *, uint32_t), struct orion_slot **done)
{
	uint32_t hopeless[ORION_RUN_BLOCKS], hopeless_count = 0, tried_by_all = 0;

	for (uint32_t i = 0; i < total;) {
		uint32_t count = 1, tried;

		pthread_mutex_lock(&fetch->lock);
		const struct orion_flight *flight = *orion_flight_find(fetch, numbers[i]);

		tried = flight ? flight->tried : 0;
		while (i + count < total && numbers[i + count] == numbers[i] + count &&
		       (flight = *orion_flight_find(fetch, numbers[i + count])) && flight->tried == tried)
			count++;
		pthread_mutex_unlock(&fetch->lock);
		/* Told before it lands, if anybody can be asked. */
		const int server = choose(fetch->upstreams, tried);

		if (server < 0 || ask(fetch, server, numbers[i], count, errand, 0)) {
			pthread_mutex_lock(&fetch->lock);
			for (uint32_t k = i; k < i + count; k++) {
				struct orion_flight **link = orion_flight_find(fetch, numbers[k]);

				if (!*link)
					continue;
				if (is_hopeless(fetch, *link)) {
					tried_by_all |= (*link)->bad;
					hopeless[hopeless_count++] = numbers[k];
				}
				park(fetch, link, done);
			}
			pthread_mutex_unlock(&fetch->lock);
		}
		i += count;
	}
	if (hopeless_count)
		tell_no_good_copy(fetch, hopeless[0], hopeless_count, tried_by_all);
	begin_to_look(fetch);
}

/* Locked: whether an error means that the server has answered, and has no good copy. EIO may be a bad spot or a moment's
 * trouble: it is asked for again some times, when the server answers otherwise. */
static bool is_answer(struct orion_flight *flight, int error)
{
	if (error == -EIO)
		return ++flight->read_errors > READ_ERRORS;
	return error == -EBADMSG || error == -ENODATA || error == -ENOENT;
}

void orion_attempt_finish(struct orion_job *job, int error)
{
	struct attempt *attempt = (struct attempt *)job;
	struct orion_fetch *fetch = attempt->fetch;
	const uint32_t server = job->server;
	uint32_t left[ORION_RUN_BLOCKS], left_count = 0, overtaken = 0;
	struct orion_slot *done = NULL;
	/* After a deadline the thread may still be writing to attempt->blocks. */
	const bool any = error != -ETIMEDOUT;
	const bool ours = orion_error_is_ours(error);

	if (error && !ours)
		report(attempt, server, error);
	for (uint32_t i = 0; i < attempt->count; i++) {
		struct orion_block *block = any ? attempt->blocks[i] : NULL;

		/* Kept before the flight lands: whoever finds no flight finds the block. */
		if (block)
			keep(fetch, attempt->first + i, block);
		pthread_mutex_lock(&fetch->lock);
		struct orion_flight **link = orion_flight_find(fetch, attempt->first + i), *flight = *link;

		if (flight && flight->attempt == attempt)
			flight->attempt = NULL;
		if (flight && block) {
			overtaken |= flight->serial < attempt->serial ? attempt->overtakes & flight->in_air : 0;
			land(fetch, link, block, &done);
		} else if (!block && concerns(attempt, server, flight)) {
			flight->in_air &= ~(1u << server);
			if (is_answer(flight, error))
				flight->bad |= 1u << server;
			if (ours && !flight->in_air)
				land(fetch, link, NULL, &done);
			else if (!flight->in_air)
				left[left_count++] = attempt->first + i;
		}
		pthread_mutex_unlock(&fetch->lock);
	}
	if (left_count)
		ask_others(fetch, left, left_count, (struct errand){attempt->reason, -1, true}, orion_upstreams_choose,
			   &done);
	for (uint32_t i = 0; i < ORION_SERVERS_MAX; i++)
		if (overtaken & 1u << i)
			orion_upstreams_overtaken(fetch->upstreams, i);
	orion_trace_end(fetch->options.trace, attempt->traced, error ? ORION_TRACE_ERROR : ORION_TRACE_HIT, attempt->count);
	orion_reads_tell(fetch, done);
}

bool orion_attempt_late(struct orion_job *job, bool resend)
{
	struct attempt *attempt = (struct attempt *)job;
	struct orion_fetch *fetch = attempt->fetch;
	const uint32_t server = job->server;
	bool asked = false;

	for (uint32_t i = 0; i < attempt->count;) {
		uint32_t count = 0, tried = 0;

		pthread_mutex_lock(&fetch->lock);
		for (; i + count < attempt->count; count++) {
			const struct orion_flight *flight = *orion_flight_find(fetch, attempt->first + i + count);

			/* What nobody waits for can wait, but not for a server that does not come. */
			if (!concerns(attempt, server, flight) || (!resend && !flight->waiting) ||
			    (count && flight->tried != tried))
				break;
			tried = flight->tried;
		}
		pthread_mutex_unlock(&fetch->lock);
		const int other = count ? orion_upstreams_choose_well(fetch->upstreams, tried) : -EIO;

		if (other >= 0)
			asked |= ask(fetch, other, attempt->first + i, count, (struct errand){attempt->reason, -1, true},
				     resend ? 0 : 1u << server) == 0;
		i += count ? count : 1;
	}
	return asked;
}

/* Asks a server for a run of blocks that are in flight. -ENOMEM, and nothing has changed. */
static int ask(struct orion_fetch *fetch, int server, uint32_t first, uint32_t count, struct errand errand, uint32_t overtakes)
{
	const bool urgent = errand.urgent || errand.reason == ORION_TRACE_DEMAND;
	struct attempt *attempt = orion_attempt_create(fetch, first, count, errand);

	if (!attempt)
		return -ENOMEM;
	attempt->overtakes = overtakes;
	attempt->traced = orion_trace_begin_fetch(fetch->options.trace, errand.reason, (uint32_t)server, first, count,
						  fetch->manifest->blocks[first].offset, attempt->bytes);
	/* A demand that finds one of these flights promotes this job: it must not be gone, so before it can run. */
	pthread_mutex_lock(&fetch->lock);
	attempt->serial = ++fetch->serials;
	for (uint32_t i = 0; i < count; i++) {
		struct orion_flight *flight = *orion_flight_find(fetch, first + i);

		/* It may have landed meanwhile: then this brings what nobody needs, and does no harm. */
		if (!flight)
			continue;
		flight->attempt = attempt;
		flight->tried |= 1u << server;
		flight->in_air |= 1u << server;
		fetch->count.waiting -= flight->parked;
		flight->parked = false;
	}
	pthread_mutex_unlock(&fetch->lock);
	int error;

	/* Not after a failure: a bad server's blocks are asked of others in their own time. */
	if (urgent && !errand.urgent && orion_attempt_at_once(attempt, (uint32_t)server, &error)) {
		attempt->job.server = (uint32_t)server;
		orion_attempt_finish(&attempt->job, error);
		orion_attempt_drop(&attempt->job);
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

void orion_flights_depart(struct orion_fetch *fetch, const uint32_t *numbers, uint32_t total, struct errand errand)
{
	struct orion_slot *done = NULL;

	for (uint32_t i = 0; i < total;) {
		size_t bytes = fetch->manifest->blocks[numbers[i]].length;
		uint32_t count = 1;

		while (i + count < total && numbers[i + count] == numbers[i] + count &&
		       goes_on(fetch, numbers[i], count, bytes))
			bytes += fetch->manifest->blocks[numbers[i + count++]].length;
		const bool is_wished = errand.server >= 0 && orion_upstreams_is_up(fetch->upstreams, (uint32_t)errand.server);
		const int server = is_wished ? errand.server : orion_upstreams_choose(fetch->upstreams, 0);

		/* Nobody can be asked; or for want of memory, and then they end. */
		if (server < 0 || ask(fetch, server, numbers[i], count, errand, 0)) {
			pthread_mutex_lock(&fetch->lock);
			for (uint32_t k = 0; k < count; k++) {
				struct orion_flight **link = orion_flight_find(fetch, numbers[i] + k);

				if (*link && server < 0)
					park(fetch, link, &done);
				else if (*link)
					land(fetch, link, NULL, &done);
			}
			pthread_mutex_unlock(&fetch->lock);
		}
		i += count;
	}
	begin_to_look(fetch);
	orion_reads_tell(fetch, done);
}

/* Locked: ends those that have waited for too long, and takes the numbers of those that wait for a server. */
static uint32_t take_parked(struct orion_fetch *fetch, uint32_t *numbers, uint32_t room, struct orion_slot **done)
{
	const uint64_t give_up = fetch->options.give_up_ns, now = orion_now_ns();
	uint32_t count = 0;

	for (uint32_t bucket = 0; bucket < ORION_FLIGHT_BUCKETS; bucket++)
		for (struct orion_flight **link = &fetch->flights[bucket]; *link;) {
			struct orion_flight *flight = *link;
			const bool too_long = give_up && flight->waiting && now - flight->since >= give_up;

			/* Nobody waits any more; or nobody shall. */
			if (too_long || (flight->parked && !flight->waiting)) {
				land(fetch, link, NULL, done);
				continue;
			}
			if (flight->parked && now >= flight->retry_at && count < room)
				numbers[count++] = flight->number;
			link = &flight->chain;
		}
	return count;
}

void orion_fetch_forget(struct orion_fetch *fetch, uint32_t server)
{
	pthread_mutex_lock(&fetch->lock);
	for (uint32_t bucket = 0; bucket < ORION_FLIGHT_BUCKETS; bucket++)
		for (struct orion_flight *flight = fetch->flights[bucket]; flight; flight = flight->chain) {
			flight->tried &= ~(1u << server);
			flight->bad &= ~(1u << server);
		}
	pthread_mutex_unlock(&fetch->lock);
}

static int compare_numbers(const void *left, const void *right)
{
	const uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

	return a < b ? -1 : a > b;
}

bool orion_flights_look(void *context)
{
	struct orion_fetch *fetch = context;
	uint32_t numbers[ORION_RUN_BLOCKS];
	struct orion_slot *done = NULL;

	pthread_mutex_lock(&fetch->lock);
	const uint32_t count = take_parked(fetch, numbers, ORION_RUN_BLOCKS, &done);

	pthread_mutex_unlock(&fetch->lock);
	if (count && orion_upstreams_choose_well(fetch->upstreams, 0) >= 0) {
		qsort(numbers, count, sizeof(*numbers), compare_numbers);
		/* Not who is suspect: that it fails again says nothing new. */
		ask_others(fetch, numbers, count, (struct errand){ORION_TRACE_DEMAND, -1, true}, orion_upstreams_choose_well,
			   &done);
	}
	orion_reads_tell(fetch, done);
	pthread_mutex_lock(&fetch->lock);
	/* As long as anybody may have to be told that nobody answers. */
	const bool again = fetch->count.waiting || (fetch->options.give_up_ns && fetch->count.flights);

	fetch->looks = again;
	pthread_mutex_unlock(&fetch->lock);
	return again;
}
