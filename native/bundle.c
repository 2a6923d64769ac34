/* The stream: pieces that are asked of servers, frames that land, pages that are stored. */
#define _GNU_SOURCE
#include "bundle.h"

#include "bundle_names.h"
#include "fuse_session.h"
#include "mount.h"
#include "supervision.h"
#include "whole.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define STACK_BYTES (128u << 10)
/* The largest index that is taken, and what is read of a bundle at first: most indexes are shorter. */
#define INDEX_MOST ((size_t)32 << 20)
#define INDEX_FIRST ((size_t)128 << 10)
/* One read of a server: frames of so many packed bytes. */
#define PIECE_BYTES (256u << 10)
#define PIECE_FRAMES 32
/* Bytes on their way. More of them while reads do not queue longer than QUEUE_NS on the link; then less. */
#define WINDOW_FIRST (1u << 20)
#define WINDOW_LEAST (2 * PIECE_BYTES)
#define WINDOW_MOST (8u << 20)
#define QUEUE_NS 20000000u
/* How long nothing may come of its beginning until another server is asked. */
#define PATIENCE_NS 100000000u
/* What the kernel takes in one go. */
#define STORE_BYTES (128u << 10)

enum state {
	WAITING, /* nobody has asked for it */
	ASKED,
	LANDED, /* its bytes are here */
	STORED, /* and went to the kernel */
	FAILED, /* no server has a good copy, or there is no room for it */
};

struct frame {
	enum state state;
	uint32_t tried; /* a bit for each server that was asked */
	struct orion_block *block; /* while it has landed */
};

struct orion_bundle {
	const struct orion_manifest *manifest;
	struct orion_upstreams *upstreams;
	struct orion_events *events;
	struct orion_bundle_options options;
	char path[ORION_BUNDLE_ROLE_MAX + 24];
	struct orion_session *session;
	int root, readahead; /* of the mount, while it streams */
	uint64_t memory; /* bytes that pages of it may take */
	pthread_t thread;
	bool runs;
	uint8_t *bytes; /* of header and index */
	size_t length;
	struct orion_bundle_index index;
	struct orion_kept_file file;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t changed;
	bool stopping, is_open; /* is_open: the index is there */
	struct frame *frames;
	uint32_t frame_count;
	uint32_t landed; /* frames in that state, for the thread */
	size_t in_flight, window;
	uint64_t base_ns; /* the quickest piece */
	struct orion_bundle_wait *waits;
	struct orion_bundle_statistics count;
};

struct piece {
	struct orion_job job; /* first: the upstreams' */
	struct orion_bundle *bundle;
	uint32_t first, count; /* frames */
	uint64_t asked_at, traced;
	size_t bytes; /* packed */
	bool given_up; /* its frames were asked of another server; under the bundle's lock */
	struct orion_block *blocks[PIECE_FRAMES]; /* when run() has ended: the good ones */
};

int orion_bundle_create(const struct orion_manifest *manifest, struct orion_upstreams *upstreams,
			struct orion_events *events, const struct orion_bundle_options *options, struct orion_bundle **ret)
{
	struct orion_bundle *bundle = calloc(1, sizeof(*bundle));

	if (!bundle)
		return -ENOMEM;
	bundle->manifest = manifest;
	bundle->upstreams = upstreams;
	bundle->events = events;
	bundle->options = *options;
	snprintf(bundle->path, sizeof(bundle->path), "bundles/%.*s.bundle", ORION_BUNDLE_ROLE_MAX, options->role);
	bundle->window = WINDOW_FIRST;
	orion_kept_file_init(&bundle->file);
	pthread_mutex_init(&bundle->lock, NULL);
	pthread_cond_init(&bundle->changed, NULL);
	*ret = bundle;
	return 0;
}

void orion_bundle_destroy(struct orion_bundle *bundle)
{
	if (!bundle)
		return;
	for (uint32_t i = 0; i < bundle->frame_count; i++)
		orion_block_release(bundle->frames[i].block);
	orion_kept_file_close(&bundle->file);
	free(bundle->frames);
	orion_bundle_index_destroy(&bundle->index);
	if (bundle->bytes)
		munmap(bundle->bytes, bundle->length);
	pthread_cond_destroy(&bundle->changed);
	pthread_mutex_destroy(&bundle->lock);
	free(bundle);
}

/* Locked: takes out those who wait for a frame that is not on its way any more. */
static struct orion_bundle_wait *take_ready(struct orion_bundle *bundle)
{
	struct orion_bundle_wait *ready = NULL, **link = &bundle->waits;

	while (*link) {
		struct orion_bundle_wait *wait = *link;

		if (bundle->frames[wait->frame].state == ASKED) {
			link = &wait->next;
			continue;
		}
		*link = wait->next;
		wait->next = ready;
		ready = wait;
	}
	return ready;
}

static void tell_ready(struct orion_bundle_wait *ready)
{
	while (ready) {
		struct orion_bundle_wait *wait = ready;

		ready = wait->next;
		wait->ready(wait);
	}
}

/* Reads so many bytes to a page's boundary, as O_DIRECT wants it; where they begin at ret. */
static int read_packed(int fd, uint64_t offset, size_t length, uint8_t *scratch, const uint8_t **ret)
{
	const uint64_t from = offset & ~(uint64_t)4095;
	const size_t skip = (size_t)(offset - from), wanted = (skip + length + 4095) & ~(size_t)4095;

	for (size_t at = 0; at < skip + length;) {
		const ssize_t got = pread(fd, scratch + at, wanted - at, (off_t)(from + at));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -ENODATA;
		at += (size_t)got;
	}
	*ret = scratch + skip;
	return 0;
}

/* In a reader thread. */
static int run_piece(struct orion_job *job, uint32_t server)
{
	struct piece *piece = (struct piece *)job;
	struct orion_bundle *bundle = piece->bundle;
	const struct orion_frame *frame = &bundle->index.frames[piece->first];
	const int fd = orion_upstreams_keep(bundle->upstreams, server, &bundle->file, bundle->path, O_NOFOLLOW | O_NONBLOCK);
	const uint8_t *packed = NULL;

	if (fd < 0)
		return fd;
	int error = read_packed(fd, frame->offset, piece->bytes, job->scratch, &packed);

	if (error)
		return error;
	orion_upstreams_count_read(bundle->upstreams, server, piece->bytes);
	for (uint32_t i = 0; i < piece->count; packed += frame[i++].packed) {
		struct orion_block *block = orion_block_create(frame[i].raw);

		if (!block)
			return -ENOMEM;
		if (orion_frame_unpack(&bundle->index, &frame[i], packed, block->bytes)) {
			orion_block_release(block);
			error = -EBADMSG;
		} else {
			piece->blocks[i] = block;
		}
	}
	return error;
}

/* Locked: as many bytes on their way as the link takes without a queue. */
static void adapt_window(struct orion_bundle *bundle, const struct piece *piece)
{
	const uint64_t took = orion_now_ns() - piece->asked_at;

	if (!bundle->base_ns || took < bundle->base_ns)
		bundle->base_ns = took;
	if (took - bundle->base_ns < QUEUE_NS)
		bundle->window = bundle->window + piece->bytes > WINDOW_MOST ? WINDOW_MOST : bundle->window + piece->bytes;
	else
		bundle->window = bundle->window * 3 / 4 < WINDOW_LEAST ? WINDOW_LEAST : bundle->window * 3 / 4;
}

/* Locked: a frame that a piece brought, or did not. */
static void take_frame(struct orion_bundle *bundle, struct piece *piece, uint32_t i, bool any, int error)
{
	struct frame *frame = &bundle->frames[piece->first + i];

	if (frame->state != WAITING && frame->state != ASKED)
		return; /* it came from another server */
	if (any && piece->blocks[i]) {
		frame->block = piece->blocks[i];
		piece->blocks[i] = NULL;
		frame->state = LANDED;
		bundle->landed++;
		bundle->count.landed++;
	} else if (!piece->given_up) {
		frame->state = orion_error_is_ours(error) ? FAILED : WAITING; /* the next server's, if there is one */
		bundle->count.failed += frame->state == FAILED;
	}
}

static void finish_piece(struct orion_job *job, int error)
{
	struct piece *piece = (struct piece *)job;
	struct orion_bundle *bundle = piece->bundle;
	/* After a deadline the thread may still be writing to piece->blocks. */
	const bool any = error != -ETIMEDOUT;
	char text[ORION_EVENT_TEXT];

	snprintf(text, sizeof(text), "%s: %s", bundle->path,
		 error == -EBADMSG ? "a frame does not match its digest" : strerrordesc_np(-error));
	if (error == -EBADMSG || error == -ENODATA)
		orion_upstreams_lied(bundle->upstreams, job->server, text);
	else if (error && !orion_error_is_ours(error))
		orion_upstreams_failed(bundle->upstreams, job->server, error, text);
	orion_trace_end(bundle->options.trace, piece->traced, error ? ORION_TRACE_ERROR : ORION_TRACE_HIT, piece->count);
	pthread_mutex_lock(&bundle->lock);
	if (!piece->given_up)
		bundle->in_flight -= piece->bytes;
	if (!error) {
		adapt_window(bundle, piece);
		bundle->count.packed_bytes += piece->bytes;
	}
	for (uint32_t i = 0; i < piece->count; i++)
		take_frame(bundle, piece, i, any, error);
	struct orion_bundle_wait *ready = take_ready(bundle);

	pthread_cond_signal(&bundle->changed);
	pthread_mutex_unlock(&bundle->lock);
	tell_ready(ready);
}

/* A server has become suspect: what was asked of it is asked of the next one. A piece that is merely late is left to come:
 * most wait in a queue of our own making. */
static bool late_piece(struct orion_job *job, bool resend)
{
	struct piece *piece = (struct piece *)job;
	struct orion_bundle *bundle = piece->bundle;

	if (!resend || orion_upstreams_choose_well(bundle->upstreams, 1u << job->server) < 0)
		return false;
	pthread_mutex_lock(&bundle->lock);
	const bool again = !piece->given_up;

	if (again) {
		piece->given_up = true;
		bundle->in_flight -= piece->bytes;
	}
	for (uint32_t i = 0; again && i < piece->count; i++) {
		struct frame *frame = &bundle->frames[piece->first + i];

		if (frame->state == ASKED)
			frame->state = WAITING;
	}
	/* They ask for its blocks then, as if there were no bundle. */
	struct orion_bundle_wait *ready = take_ready(bundle);

	pthread_cond_signal(&bundle->changed);
	pthread_mutex_unlock(&bundle->lock);
	tell_ready(ready);
	return again;
}

static void drop_piece(struct orion_job *job)
{
	struct piece *piece = (struct piece *)job;

	for (uint32_t i = 0; i < piece->count; i++)
		orion_block_release(piece->blocks[i]);
	free(piece);
}

/* Locked: the first frame that somebody can be asked for, and whom; those that nobody has are given up. */
static bool first_wanted(struct orion_bundle *bundle, uint32_t *ret_first, uint32_t *ret_server)
{
	for (uint32_t i = 0; i < bundle->frame_count; i++) {
		if (bundle->frames[i].state != WAITING)
			continue;
		const int server = orion_upstreams_choose(bundle->upstreams, bundle->frames[i].tried);

		if (server >= 0) {
			*ret_first = i;
			*ret_server = (uint32_t)server;
			return true;
		}
		bundle->frames[i].state = FAILED;
		bundle->count.failed++;
	}
	return false;
}

/* Locked: takes the next frames that nobody has asked for, all of one server; NULL if there are none, or no memory. */
static struct piece *next_piece(struct orion_bundle *bundle, uint32_t *ret_server)
{
	const struct orion_frame *records = bundle->index.frames;
	struct piece *piece;
	uint32_t first;

	if (!first_wanted(bundle, &first, ret_server) || !(piece = calloc(1, sizeof(*piece))))
		return NULL;
	*piece = (struct piece){
		.job = {.run = run_piece, .finish = finish_piece, .drop = drop_piece, .late = late_piece},
		.bundle = bundle,
		.first = first,
	};

	const uint32_t tried = bundle->frames[first].tried;

	while (first + piece->count < bundle->frame_count && piece->count < PIECE_FRAMES) {
		struct frame *frame = &bundle->frames[first + piece->count];
		const uint32_t packed = records[first + piece->count].packed;

		if (frame->state != WAITING || frame->tried != tried ||
		    (piece->count && piece->bytes + packed > PIECE_BYTES))
			break;
		frame->state = ASKED;
		frame->tried |= 1u << *ret_server;
		piece->bytes += packed;
		piece->count++;
	}
	return piece;
}

/* Locked, and unlocked meanwhile: asks for as much as may be on its way. */
static void ask_for_more(struct orion_bundle *bundle)
{
	while (!bundle->stopping && bundle->in_flight < bundle->window) {
		uint32_t server;
		struct piece *piece = next_piece(bundle, &server);

		if (!piece)
			return;
		bundle->in_flight += piece->bytes;
		piece->asked_at = orion_now_ns();
		pthread_mutex_unlock(&bundle->lock);
		piece->traced = orion_trace_begin_fetch(bundle->options.trace, ORION_TRACE_BUNDLE, server, piece->first,
							piece->count, bundle->index.frames[piece->first].offset,
							piece->bytes);
		orion_upstreams_submit(bundle->upstreams, server, &piece->job);
		pthread_mutex_lock(&bundle->lock);
	}
}

/* One frame's pages into the page cache. */
static void store_frame(struct orion_bundle *bundle, struct orion_bundle_names *names, uint32_t number)
{
	const struct orion_frame *record = &bundle->index.frames[number];
	const struct orion_block *block = bundle->frames[number].block;
	uint64_t stored = 0;

	for (uint32_t i = record->first; i < record->first + record->count; i++) {
		const struct orion_chunk *chunk = &bundle->index.chunks[i];

		orion_bundle_names_look_up(names, chunk->inode);
		if (bundle->options.is_in_flight(bundle->options.context, chunk->inode, chunk->offset, chunk->length))
			continue;
		for (uint32_t at = 0; at < chunk->length; at += STORE_BYTES)
			orion_session_store(bundle->session, (uint64_t)chunk->inode + 1, chunk->offset + at,
					    block->bytes + chunk->at + at,
					    chunk->length - at < STORE_BYTES ? chunk->length - at : STORE_BYTES);
		stored += chunk->length;
	}
	pthread_mutex_lock(&bundle->lock);
	bundle->count.stored_bytes += stored;
	pthread_mutex_unlock(&bundle->lock);
}

/* Locked: the first frame that has landed; its number, or frame_count. */
static uint32_t first_landed(const struct orion_bundle *bundle)
{
	uint32_t number = 0;

	while (number < bundle->frame_count && bundle->frames[number].state != LANDED)
		number++;
	return number;
}

/* Until all frames are stored or have failed, or the end has come. */
static void stream(struct orion_bundle *bundle, struct orion_bundle_names *names)
{
	pthread_mutex_lock(&bundle->lock);
	for (;;) {
		ask_for_more(bundle);
		if (bundle->stopping)
			break;
		if (bundle->landed) {
			const uint32_t number = first_landed(bundle);

			pthread_mutex_unlock(&bundle->lock);
			store_frame(bundle, names, number);
			pthread_mutex_lock(&bundle->lock);
			bundle->frames[number].state = STORED;
			bundle->landed--;
			orion_block_release(bundle->frames[number].block);
			bundle->frames[number].block = NULL;
			continue;
		}
		if (!bundle->in_flight)
			break;
		/* While nothing else is to be done, the next files are looked up. */
		pthread_mutex_unlock(&bundle->lock);
		const bool more = orion_bundle_names_next(names);

		pthread_mutex_lock(&bundle->lock);
		if (!more && !bundle->landed && !bundle->stopping && bundle->in_flight)
			pthread_cond_wait(&bundle->changed, &bundle->lock);
	}
	bundle->count.ended_at = orion_now_ns();
	pthread_mutex_unlock(&bundle->lock);
}

static bool is_stopping(struct orion_bundle *bundle)
{
	pthread_mutex_lock(&bundle->lock);
	const bool stopping = bundle->stopping;

	pthread_mutex_unlock(&bundle->lock);
	return stopping;
}

static int check_signature(struct orion_bundle *bundle, uint32_t server)
{
	char path[sizeof(bundle->path) + 4];
	uint8_t *signature;
	size_t length;

	snprintf(path, sizeof(path), "%s.sig", bundle->path);

	int error = orion_whole_get(bundle->upstreams, server, path,
				    &(struct orion_whole_options){.most = ORION_SIGNATURE_SIZE}, &signature, &length);

	if (error)
		return error;
	error = length == ORION_SIGNATURE_SIZE
			? orion_bundle_signature_verify(bundle->index.header->digest_kind, bundle->index.header->digest,
							signature, bundle->options.key)
			: -EBADMSG;
	munmap(signature, length);
	return error;
}

/* So many bytes of the bundle from one server. -EHOSTDOWN: nothing comes of it for so long that one that was not tried yet is
 * asked. */
static int get_beginning(struct orion_bundle *bundle, uint32_t server, uint32_t tried, size_t want)
{
	const struct orion_whole_options options = {.most = SIZE_MAX, .want = want, .kept = &bundle->file};
	struct orion_whole *whole;
	int error = orion_whole_begin(bundle->upstreams, server, bundle->path, &options, &whole);

	if (error)
		return error;
	do
		error = orion_whole_wait(&whole, 1, PATIENCE_NS);
	while (error == -EINPROGRESS ||
	       (error == -ETIMEDOUT && orion_upstreams_choose_well(bundle->upstreams, tried) < 0 && !is_stopping(bundle)));
	error = error < 0 ? -EHOSTDOWN : orion_whole_take(whole, &bundle->bytes, &bundle->length);
	orion_whole_destroy(whole);
	return error;
}

/* Header and index from one server; in one read, if the index is not larger than most. */
static int load_from(struct orion_bundle *bundle, uint32_t server, uint32_t tried)
{
	size_t want = INDEX_FIRST;

	for (int turn = 0; turn < 2; turn++) {
		int error = get_beginning(bundle, server, tried, want);

		if (error)
			return error;
		want = orion_bundle_index_size(bundle->bytes, bundle->length);
		if (want && want <= bundle->length)
			break;
		munmap(bundle->bytes, bundle->length);
		bundle->bytes = NULL;
		if (!want || want > INDEX_MOST || turn)
			return want ? -EFBIG : -EINVAL;
	}
	int error = orion_bundle_index_create(bundle->bytes, want, bundle->manifest, &bundle->index);

	if (!error && bundle->options.signed_only && check_signature(bundle, server)) {
		orion_bundle_index_destroy(&bundle->index);
		error = -EKEYREJECTED;
	}
	if (error) {
		munmap(bundle->bytes, bundle->length);
		bundle->bytes = NULL;
	}
	return error;
}

/* In the words of an administrator. */
static const char *what_is_wrong(int error)
{
	switch (-error) {
	case EINVAL:
		return "it is no bundle";
	case EBADMSG:
		return "it is broken";
	case EPROTONOSUPPORT:
		return "it has a version that this program does not know";
	case ESTALE:
		return "it belongs to another release";
	case EKEYREJECTED:
		return "it is not signed with the key";
	default:
		return strerrordesc_np(-error);
	}
}

/* From the servers that are not in tried, in turn; late: those of which nothing came in time. */
static bool load_from_any(struct orion_bundle *bundle, uint32_t tried, uint32_t *ret_late)
{
	int server;

	while ((server = orion_upstreams_choose(bundle->upstreams, tried)) >= 0) {
		tried |= 1u << server;

		const int error = load_from(bundle, (uint32_t)server, tried);

		if (!error)
			return true;
		if (error == -EHOSTDOWN)
			*ret_late |= 1u << server;
		else if (error != -ENOENT)
			orion_events_tell(bundle->events, ORION_WARNING, "%s/%s is not used: %s",
					  orion_upstreams_source(bundle->upstreams, (uint32_t)server), bundle->path,
					  what_is_wrong(error));
	}
	return false;
}

static bool load(struct orion_bundle *bundle)
{
	uint32_t late = 0, later = 0;

	if (load_from_any(bundle, 0, &late))
		return true;
	/* Those that were merely slow, when no other one has it: the last of them is waited for. */
	return late && load_from_any(bundle, ~late, &later);
}

/* Makes room for what is known of frames; those for which there is too little memory have failed already. */
static bool prepare(struct orion_bundle *bundle)
{
	const struct orion_bundle_header *header = bundle->index.header;
	struct frame *frames = calloc(header->frame_count, sizeof(*frames));
	uint64_t bytes = 0;
	uint32_t left_out = 0;

	if (!frames)
		return false;
	for (uint32_t i = 0; i < header->frame_count; i++) {
		bytes += bundle->index.frames[i].raw;
		if (bytes > bundle->memory) {
			frames[i].state = FAILED;
			left_out++;
		}
	}
	if (left_out)
		orion_events_tell(bundle->events, ORION_WARNING, "%s: %u of %u frames are left out: too little memory",
				  bundle->path, left_out, header->frame_count);
	pthread_mutex_lock(&bundle->lock);
	bundle->frames = frames;
	bundle->frame_count = header->frame_count;
	bundle->count.frames = header->frame_count;
	bundle->count.failed = left_out;
	bundle->is_open = true;
	pthread_mutex_unlock(&bundle->lock);
	return true;
}

/* Lets the kernel read ahead again, unless that is others' affair, and the mount be taken away. */
static void leave_mount(struct orion_bundle *bundle)
{
	if (bundle->frame_count || !bundle->options.learns)
		orion_readahead_write(bundle->readahead, ORION_READ_MAX);
	if (bundle->readahead >= 0)
		close(bundle->readahead);
	close(bundle->root);
	if (bundle->options.agreement)
		bundle->options.agreement->streamed = true;
}

static void *run(void *argument)
{
	struct orion_bundle *bundle = argument;

	if (load(bundle) && prepare(bundle)) {
		struct orion_bundle_names *names;

		bundle->options.found(bundle->options.context);
		orion_readahead_write(bundle->readahead, 0);
		if (orion_bundle_names_create(bundle->manifest, &bundle->index, bundle->root, &names) == 0) {
			stream(bundle, names);
			orion_bundle_names_destroy(names);
		}
	}
	leave_mount(bundle);
	return NULL;
}

/* Half of what a kernel could give without swapping. */
static uint64_t memory_for_pages(void)
{
	unsigned long long kib = 0;
	char line[128];
	const int fd = openat(orion_proc(), "meminfo", O_RDONLY | O_CLOEXEC);
	FILE *file = fd < 0 ? NULL : fdopen(fd, "r");

	while (file && fgets(line, sizeof(line), file) && sscanf(line, "MemAvailable: %llu kB", &kib) != 1)
		;
	if (file)
		fclose(file);
	return kib ? kib * 1024 / 2 : UINT64_MAX;
}

int orion_bundle_start(struct orion_bundle *bundle, struct orion_session *session, int root, int readahead)
{
	pthread_attr_t attributes;

	bundle->session = session;
	bundle->count.began_at = orion_now_ns();
	bundle->memory = memory_for_pages();
	bundle->root = fcntl(root, F_DUPFD_CLOEXEC, 0);
	if (bundle->root < 0)
		return -errno;
	bundle->readahead = readahead < 0 ? -1 : fcntl(readahead, F_DUPFD_CLOEXEC, 0);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	const int error = pthread_create(&bundle->thread, &attributes, run, bundle);

	pthread_attr_destroy(&attributes);
	bundle->runs = !error;
	if (error)
		leave_mount(bundle);
	return -error;
}

void orion_bundle_stop(struct orion_bundle *bundle)
{
	pthread_mutex_lock(&bundle->lock);
	bundle->stopping = true;
	pthread_cond_signal(&bundle->changed);
	pthread_mutex_unlock(&bundle->lock);
	if (bundle->runs)
		pthread_join(bundle->thread, NULL);
	bundle->runs = false;
}

/* Locked: the parts of a read; whether all are here. If one is not, ret_frame is its frame. */
static bool gather(struct orion_bundle *bundle, uint32_t inode, uint64_t offset, uint32_t length,
		   struct orion_bundle_answer *answer, uint32_t *ret_frame)
{
	*ret_frame = UINT32_MAX;
	for (answer->count = 0; length; answer->count++) {
		const struct orion_chunk *chunk = orion_bundle_index_find(&bundle->index, inode, offset);

		if (!chunk || answer->count == ORION_BUNDLE_PARTS)
			return false;
		const uint32_t number = bundle->index.frame_of[chunk - bundle->index.chunks];
		struct orion_block *block = bundle->frames[number].block;
		const uint32_t skip = (uint32_t)(offset - chunk->offset), left = chunk->length - skip;
		const uint32_t taken = left < length ? left : length;

		if (!block) {
			*ret_frame = number;
			return false;
		}
		answer->blocks[answer->count] = block;
		answer->parts[answer->count] = (struct iovec){block->bytes + chunk->at + skip, taken};
		offset += taken;
		length -= taken;
	}
	return true;
}

enum orion_bundle_has orion_bundle_ask(struct orion_bundle *bundle, uint32_t inode, uint64_t offset, uint32_t length,
				       struct orion_bundle_answer *answer, struct orion_bundle_wait *wait)
{
	enum orion_bundle_has has = ORION_BUNDLE_NOT;
	uint32_t frame;

	pthread_mutex_lock(&bundle->lock);
	if (bundle->is_open && length && gather(bundle, inode, offset, length, answer, &frame)) {
		for (uint32_t i = 0; i < answer->count; i++)
			orion_block_hold(answer->blocks[i]);
		bundle->count.asked_bytes += length;
		has = ORION_BUNDLE_HERE;
	} else if (bundle->is_open && length && frame != UINT32_MAX && bundle->frames[frame].state == ASKED) {
		wait->frame = frame;
		wait->next = bundle->waits;
		bundle->waits = wait;
		has = ORION_BUNDLE_COMES;
	}
	pthread_mutex_unlock(&bundle->lock);
	return has;
}

void orion_bundle_answer_release(struct orion_bundle_answer *answer)
{
	for (uint32_t i = 0; i < answer->count; i++)
		orion_block_release(answer->blocks[i]);
	answer->count = 0;
}

bool orion_bundle_cancel(struct orion_bundle *bundle, struct orion_bundle_wait *wait)
{
	struct orion_bundle_wait **link = &bundle->waits;

	pthread_mutex_lock(&bundle->lock);
	while (*link && *link != wait)
		link = &(*link)->next;
	const bool found = *link != NULL;

	if (found)
		*link = wait->next;
	pthread_mutex_unlock(&bundle->lock);
	return found;
}

bool orion_bundle_streams(struct orion_bundle *bundle)
{
	pthread_mutex_lock(&bundle->lock);
	const bool streams = bundle->is_open && !bundle->count.ended_at;

	pthread_mutex_unlock(&bundle->lock);
	return streams;
}

void orion_bundle_statistics(struct orion_bundle *bundle, struct orion_bundle_statistics *ret)
{
	pthread_mutex_lock(&bundle->lock);
	*ret = bundle->count;
	pthread_mutex_unlock(&bundle->lock);
}
