/* Reading, hashing and writing, on all processors.
 *
 * The files to be read are cut into batches. A thread takes the next batch with its ticket, reads it into its own
 * buffer and hashes it; then, when it is the ticket's turn, looks up which blocks are new and gives them their places in
 * the pack; and writes these after its turn. So the pack's order, and with it all that the manifest says, is that of the
 * tree, whichever thread was faster.
 */
#define _GNU_SOURCE
#include "builder_parts.h"
#include "orion.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#define ITEMS_MAX 1024
/* Items of nothing but a hole end at their file, so that each batch has at most this many blocks. */
#define BLOCKS_MAX (BATCH_BYTES / 4096 + ITEMS_MAX)
#define TRIES 3
#define RUNS_MAX 256
/* The disk is asked to begin whenever so much more has been written: the fsync at the end is then short. */
#define FLUSH_BYTES (16u << 20)

/* Part of a file: some bytes, after a hole of any size. */
struct item {
	struct node *node;
	uint64_t offset;
	uint32_t hole; /* blocks before offset */
	uint32_t length; /* bytes */
	bool last;
	bool changed; /* the file is not what the walk saw */
};

struct hashed {
	uint8_t digest[ORION_DIGEST_MAX];
	uint32_t length;
	bool zero;
};

struct batch {
	uint64_t ticket;
	uint32_t count, length;
	struct item items[ITEMS_MAX];
	struct hashed blocks[BLOCKS_MAX];
	struct iovec runs[RUNS_MAX]; /* of new blocks, one after the other in the pack */
	uint32_t run_count;
	uint64_t pack_offset;
	struct record record;
	uint8_t *buffer;
	int directory;
	const struct node *directory_node; /* which one is open */
};

struct hashing {
	pthread_mutex_t lock;
	pthread_cond_t turned;
	uint64_t next_ticket, turn; /* lock */
	uint32_t next_node; /* lock */
	uint64_t offset; /* lock: in that file */
	uint64_t flushed; /* lock */
};

static int open_file(struct orion_builder *builder, struct batch *batch, const struct node *node)
{
	const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
	int fd;

	if (batch->directory_node != node->parent) {
		close_fd(&batch->directory);
		batch->directory_node = NULL;
		batch->directory = open_node_directory(builder, node->parent);
		if (batch->directory < 0)
			return batch->directory;
		batch->directory_node = node->parent;
	}
	/* A build leaves no trace in the times of what it reads, where it may. */
	fd = openat(batch->directory, node->name, flags | O_NOATIME);
	if (fd < 0 && errno == EPERM)
		fd = openat(batch->directory, node->name, flags);
	return fd < 0 ? -errno : fd;
}

/* Where the next bytes of a sparse file are, from a block's beginning on: its size if there are none. */
static int next_data(struct orion_builder *builder, struct batch *batch, const struct node *node, uint64_t offset,
		     uint64_t *ret)
{
	scoped_fd fd = open_file(builder, batch, node);
	off_t found;

	if (fd < 0)
		return fd;
	found = lseek(fd, (off_t)offset, SEEK_DATA);
	if (found < 0 && errno != ENXIO)
		*ret = offset; /* it cannot tell: all is read */
	else
		*ret = found < 0 ? node->stamp.size : (uint64_t)found & ~(uint64_t)(builder->block_size - 1);
	if (*ret > node->stamp.size)
		*ret = node->stamp.size;
	return 0;
}

static bool is_sparse(const struct orion_builder *builder, const struct node *node)
{
	return node->stamp.size > builder->block_size && node->allocated < node->stamp.size;
}

/* The next part of a file at *offset, of at most room bytes; moves *offset on. */
static int cut(struct orion_builder *builder, struct batch *batch, struct node *node, uint64_t *offset, uint32_t room,
	       struct item *ret)
{
	uint64_t data = *offset;
	int result = 0;

	if (is_sparse(builder, node))
		result = next_data(builder, batch, node, *offset, &data);
	const uint64_t left = node->stamp.size - data;

	*ret = (struct item){
		.node = node,
		.offset = data,
		.hole = (uint32_t)((data - *offset + builder->block_size - 1) / builder->block_size),
		.length = (uint32_t)(left < room ? left : room),
		.changed = result < 0,
	};
	*offset = data + ret->length;
	ret->last = *offset == node->stamp.size;
	return 0;
}

/* Fills a batch with the files that come next; false: there are no more. Called under the lock. */
static bool take_batch(struct orion_builder *builder, struct hashing *hashing, struct batch *batch)
{
	batch->count = batch->length = batch->run_count = 0;
	while (batch->count < ITEMS_MAX && hashing->next_node < builder->node_count) {
		struct node *node = builder->nodes[hashing->next_node];
		const uint32_t room = BATCH_BYTES - batch->length;

		if (!S_ISREG(node->mode) || !node->stamp.size || (node->count && !hashing->offset)) {
			hashing->next_node++; /* known already */
			continue;
		}
		if (room < BATCH_BYTES && node->stamp.size - hashing->offset > room)
			break; /* a file is not torn apart for the sake of a full batch */
		struct item *item = batch->items + batch->count++;

		cut(builder, batch, node, &hashing->offset, room, item);
		batch->length += item->length;
		if (item->last || item->changed) {
			hashing->offset = 0;
			hashing->next_node++;
		}
	}
	batch->ticket = hashing->next_ticket++;
	return batch->count;
}

static int read_file(int fd, uint8_t *buffer, uint32_t length, uint64_t offset)
{
	while (length) {
		const ssize_t got = pread(fd, buffer, length, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (!got)
			return -ESTALE;
		buffer += got;
		offset += (uint64_t)got;
		length -= (uint32_t)got;
	}
	return 0;
}

/* Reads an item; -ESTALE if the file is not, or no longer, what the walk saw. */
static int read_item(struct orion_builder *builder, struct batch *batch, const struct item *item, uint8_t *buffer)
{
	scoped_fd fd = open_file(builder, batch, item->node);
	struct stat st;
	struct stamp stamp;
	int result;

	if (fd < 0)
		return fd == -ENOENT || fd == -ELOOP || fd == -ENXIO || fd == -ENOTDIR ? -ESTALE : fd;
	result = read_file(fd, buffer, item->length, item->offset);
	if (result && result != -ESTALE && result != -EAGAIN && result != -EISDIR)
		return result;
	/* Looked at after it was read: what was seen before and after is what was there between. */
	if (fstat(fd, &st))
		return -errno;
	stamp_of(&st, &stamp);
	return result || !same_stamp(&stamp, &item->node->stamp) ? -ESTALE : 0;
}

static uint32_t hash_item(const struct orion_builder *builder, const uint8_t *data, uint32_t length,
			  struct hashed *ret)
{
	uint32_t count = 0;

	for (uint32_t at = 0; at < length; at += builder->block_size, count++) {
		struct hashed *block = ret + count;

		block->length = length - at < builder->block_size ? length - at : builder->block_size;
		block->zero = orion_is_zero(data + at, block->length);
		if (!block->zero)
			orion_digest_bytes(builder->digest_kind, data + at, block->length, block->digest);
	}
	return count;
}

static int read_batch(struct orion_builder *builder, struct batch *batch)
{
	uint8_t *buffer = batch->buffer;
	struct hashed *block = batch->blocks;

	for (uint32_t i = 0; i < batch->count; i++) {
		struct item *item = batch->items + i;
		int result = item->changed ? -ESTALE : 0;

		if (!result)
			result = read_item(builder, batch, item, buffer);
		if (result == -ESTALE)
			item->changed = true;
		else if (result)
			return builder_fail(builder, result, item->node, "%s", strerror(-result));
		if (!item->changed)
			block += hash_item(builder, buffer, item->length, block);
		buffer += item->length;
		builder->bytes_done += item->length;
		builder->files_done += item->last;
	}
	return 0;
}

/* A new block gets its place: right behind the one before. */
static int place_block(struct orion_builder *builder, struct batch *batch, uint8_t *data, const struct hashed *block,
		       uint32_t *ret)
{
	const struct place place = {builder->pack_end, NEW_PACK, block->length, NOWHERE};
	bool new;
	int result = block_table_add(&builder->blocks, block->digest, &place, ret, &new);

	if (result || !new)
		return result;
	struct iovec *last = batch->run_count ? batch->runs + batch->run_count - 1 : NULL;

	if (last && (uint8_t *)last->iov_base + last->iov_len == data) {
		last->iov_len += block->length;
	} else {
		/* So many gaps are rare: closed by moving what follows up to the last run. */
		if (batch->run_count == RUNS_MAX) {
			memmove((uint8_t *)last->iov_base + last->iov_len, data, block->length);
			last->iov_len += block->length;
		} else {
			batch->runs[batch->run_count++] = (struct iovec){data, block->length};
		}
	}
	builder->pack_end += block->length;
	builder->new_bytes += block->length;
	return journal_block(builder, &batch->record, *ret);
}

/* What is done in order: blocks get their numbers and places, files their extents. */
static int settle(struct orion_builder *builder, struct batch *batch)
{
	uint8_t *data = batch->buffer;
	const struct hashed *block = batch->blocks;
	int result = 0;

	batch->run_count = 0;
	batch->pack_offset = builder->pack_end;
	for (uint32_t i = 0; i < batch->count && !result; i++) {
		const struct item *item = batch->items + i;
		struct node *node = item->node;
		uint32_t file_block = (uint32_t)(item->offset / builder->block_size);

		if (item->changed || node->changed) {
			for (uint32_t at = 0; !item->changed && at < item->length; at += builder->block_size)
				block++;
			node_clear(node);
			node->changed = true;
			data += item->length;
			continue;
		}
		if (item->hole)
			result = node_add(node, (uint32_t)((item->offset + builder->block_size - 1) / builder->block_size) -
							item->hole,
					  item->hole, ORION_HOLE);
		for (uint32_t at = 0; !result && at < item->length; at += block->length, block++, file_block++) {
			uint32_t number = ORION_HOLE;

			if (!block->zero)
				result = place_block(builder, batch, data + at, block, &number);
			if (!result)
				result = node_add(node, file_block, 1, number);
		}
		data += item->length;
		if (!result && item->last)
			result = journal_file(builder, &batch->record, node);
	}
	return result;
}

static int write_runs(struct orion_builder *builder, struct batch *batch)
{
	struct iovec *run = batch->runs;
	uint32_t left = batch->run_count;
	uint64_t offset = batch->pack_offset;

	while (left) {
		ssize_t written = pwritev(builder->pack, run, (int)left, (off_t)offset);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return -errno;
		offset += (uint64_t)written;
		builder->pack_bytes += (uint64_t)written;
		for (; left && (size_t)written >= run->iov_len; run++, left--)
			written -= (ssize_t)run->iov_len;
		if (left) {
			run->iov_base = (uint8_t *)run->iov_base + written;
			run->iov_len -= (size_t)written;
		}
	}
	return 0;
}

static int write_batch(struct orion_builder *builder, struct batch *batch)
{
	int result = write_runs(builder, batch);

	if (!result)
		result = journal_append(builder, &batch->record);
	return result ? builder_fail(builder, result, NULL, "the store: %s", strerror(-result)) : 0;
}

/* The disk begins with what lies well behind, without anybody waiting. */
static void flush_behind(struct orion_builder *builder, struct hashing *hashing)
{
	uint64_t from, to;

	pthread_mutex_lock(&hashing->lock);
	from = hashing->flushed;
	to = builder->pack_end > 2 * FLUSH_BYTES ? builder->pack_end - FLUSH_BYTES : 0;
	to -= to % FLUSH_BYTES;
	if (to > from)
		hashing->flushed = to;
	pthread_mutex_unlock(&hashing->lock);
	if (to > from)
		sync_file_range(builder->pack, (off_t)from, (off_t)(to - from), SYNC_FILE_RANGE_WRITE);
}

static struct batch *batch_create(void)
{
	struct batch *batch = calloc(1, sizeof *batch);

	if (!batch)
		return NULL;
	batch->directory = -1;
	batch->buffer = malloc(BATCH_BYTES);
	if (!batch->buffer) {
		free(batch);
		return NULL;
	}
	return batch;
}

static void batch_destroy(struct batch *batch)
{
	close_fd(&batch->directory);
	free(batch->record.bytes);
	free(batch->buffer);
	free(batch);
}

static void hash(struct orion_builder *builder, void *argument, uint32_t number)
{
	struct hashing *hashing = argument;
	struct batch *batch = batch_create();

	(void)number;
	if (!batch) {
		builder_fail(builder, -ENOMEM, NULL, "%s", strerror(ENOMEM));
		return;
	}
	while (!builder->stop) {
		bool any;
		int result;

		pthread_mutex_lock(&hashing->lock);
		any = take_batch(builder, hashing, batch);
		pthread_mutex_unlock(&hashing->lock);
		if (!any)
			break;
		/* Even a batch that failed takes its turn, or the others would wait for it. */
		result = read_batch(builder, batch);
		pthread_mutex_lock(&hashing->lock);
		while (hashing->turn != batch->ticket)
			pthread_cond_wait(&hashing->turned, &hashing->lock);
		if (!result && !builder->stop && (result = settle(builder, batch)))
			builder_fail(builder, result, NULL, "%s", strerror(-result));
		hashing->turn++;
		pthread_cond_broadcast(&hashing->turned);
		pthread_mutex_unlock(&hashing->lock);
		if (result || builder->stop || write_batch(builder, batch))
			break;
		flush_behind(builder, hashing);
	}
	batch_destroy(batch);
}

/* Takes a file's present state for the one that the walk saw. -ENOENT if it is gone. */
static int look_again(struct orion_builder *builder, struct batch *batch, struct node *node)
{
	scoped_fd fd = open_file(builder, batch, node);
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -ESTALE;
	node_from_stat(node, &st);
	return read_attributes(&builder->arena, NULL, fd, &node->attributes);
}

static int read_once(struct orion_builder *builder, struct batch *batch, struct node *node)
{
	uint64_t offset = 0;
	int result;

	batch->directory_node = NULL; /* the directory may be another by now */
	node_clear(node);
	node->changed = false;
	result = look_again(builder, batch, node);
	while (!result && !builder->stop && offset < node->stamp.size) {
		cut(builder, batch, node, &offset, BATCH_BYTES, batch->items);
		batch->count = 1;
		result = read_batch(builder, batch);
		if (!result)
			result = settle(builder, batch);
		if (!result)
			result = write_batch(builder, batch);
		if (!result && node->changed)
			result = -ESTALE;
	}
	return result;
}

/* A file that changed while it was read is read by itself, until it stands still for long enough. */
static int read_changed(struct orion_builder *builder, struct batch *batch, struct node *node)
{
	int result = -ESTALE;

	for (int i = 0; i < TRIES && result == -ESTALE && !builder->stop; i++)
		result = read_once(builder, batch, node);
	if (builder->failure)
		return builder->failure;
	if (result == -ENOENT || result == -ENOTDIR) {
		builder_warn(builder, node, "vanished, and is left out");
		node_clear(node);
		node->gone = true;
		return 0;
	}
	if (result == -ESTALE || result == -ELOOP || result == -ENXIO)
		return builder_fail(builder, -EBUSY, node, "it changes whenever it is read");
	return result ? builder_fail(builder, result, node, "%s", strerror(-result)) : 0;
}

static int read_all_changed(struct orion_builder *builder)
{
	struct batch *batch = batch_create();
	bool gone = false;
	int result = batch ? 0 : -ENOMEM;

	for (uint32_t i = 0; !result && i < builder->node_count; i++) {
		struct node *node = builder->nodes[i];

		if (!node->changed)
			continue;
		result = read_changed(builder, batch, node);
		gone |= node->gone;
	}
	if (batch)
		batch_destroy(batch);
	if (!result && gone)
		result = number_nodes(builder);
	return result;
}

int orion_builder_hash(struct orion_builder *builder)
{
	struct hashing hashing = {
		.lock = PTHREAD_MUTEX_INITIALIZER, .turned = PTHREAD_COND_INITIALIZER, .flushed = builder->pack_end};
	int result;

	builder->phase = ORION_BUILD_HASHING;
	hashing.flushed -= hashing.flushed % FLUSH_BYTES;
	result = builder_run(builder, hash, &hashing);
	if (!result)
		result = read_all_changed(builder);
	return result && !builder->failure ? builder_fail(builder, result, NULL, "%s", strerror(-result)) : result;
}
