/* A builder's life, its messages, its threads. */
#define _GNU_SOURCE
#include "builder_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define JOBS_MAX 256

int orion_builder_create(const struct orion_builder_options *options, struct orion_builder **ret)
{
	struct orion_builder *builder;

	if (!orion_digest_size(options->digest_kind) || options->block_size < 4096 || options->block_size > 1u << 20 ||
	    options->block_size & (options->block_size - 1) || strlen(options->name) >= sizeof builder->name ||
	    strlen(options->label) >= sizeof builder->label || !options->jobs || options->jobs > JOBS_MAX)
		return -EINVAL;
	builder = calloc(1, sizeof *builder);
	if (!builder)
		return -ENOMEM;
	builder->pack = builder->journal = builder->work = -1;
	pthread_mutex_init(&builder->message_lock, NULL);
	memcpy(builder->name, options->name, strlen(options->name));
	memcpy(builder->label, options->label, strlen(options->label));
	builder->digest_kind = options->digest_kind;
	builder->block_size = options->block_size;
	builder->jobs = options->jobs;
	builder->rehash = options->rehash;
	builder->cross = options->cross;
	builder->blocks.digest_size = (uint32_t)orion_digest_size(options->digest_kind);
	clock_gettime(CLOCK_REALTIME, &builder->started);
	builder->walk_arenas = calloc(builder->jobs, sizeof *builder->walk_arenas);
	builder->packs = calloc(1, sizeof *builder->packs);
	builder->pack_count = 1; /* NEW_PACK */
	builder->root = open(options->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (builder->root >= 0)
		builder->work = open(options->work, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const int error = errno;

	if (!builder->walk_arenas || !builder->packs || builder->work < 0) {
		const bool no_memory = !builder->walk_arenas || !builder->packs;

		orion_builder_destroy(builder);
		return no_memory ? -ENOMEM : -error;
	}
	*ret = builder;
	return 0;
}

void orion_builder_destroy(struct orion_builder *builder)
{
	if (!builder)
		return;
	/* Nodes are in the arenas; only lists of extents have memory of their own. */
	for (uint32_t i = 0; i < builder->node_count; i++)
		node_clear(builder->nodes[i]);
	free(builder->nodes);
	for (uint32_t i = 0; builder->walk_arenas && i < builder->jobs; i++)
		arena_free(builder->walk_arenas + i);
	free(builder->walk_arenas);
	arena_free(&builder->arena);
	for (uint32_t i = 0; i < builder->known_count; i++)
		if (!builder->known[i].manifest)
			free(builder->known[i].extents.list);
	free(builder->known);
	inode_map_free(&builder->known_map);
	for (struct source *source = builder->sources, *next; source; source = next) {
		next = source->next;
		free(source->blocks);
		free(source);
	}
	block_table_free(&builder->blocks);
	free(builder->packs);
	free(builder->patterns);
	for (size_t i = 0; i < WARNINGS_KEPT; i++)
		free(builder->warnings[i]);
	close_fd(&builder->root);
	close_fd(&builder->work);
	close_fd(&builder->pack);
	close_fd(&builder->journal);
	pthread_mutex_destroy(&builder->message_lock);
	free(builder);
}

int orion_builder_exclude(struct orion_builder *builder, const char *pattern)
{
	/* "/etc/x" and "etc/x" are the same: both are seen from the root. */
	const bool path = strchr(pattern, '/');
	const char **grown = realloc(builder->patterns, (builder->pattern_count + 1) * sizeof *grown);
	char *copy;

	if (!grown)
		return -ENOMEM;
	builder->patterns = grown;
	copy = arena_copy(&builder->arena, pattern, strlen(pattern));
	if (!copy)
		return -ENOMEM;
	builder->patterns[builder->pattern_count++] = copy;
	builder->paths_matter |= path;
	return 0;
}

void orion_builder_cancel(struct orion_builder *builder)
{
	builder_fail(builder, -ECANCELED, NULL, "cancelled");
}

const char *orion_builder_error(const struct orion_builder *builder)
{
	return builder->message;
}

const char *orion_builder_warning(const struct orion_builder *builder, uint32_t number)
{
	return number < WARNINGS_KEPT ? builder->warnings[number] : NULL;
}

void orion_builder_pack_id(const struct orion_builder *builder, uint8_t ret[16])
{
	memcpy(ret, builder->pack_id, 16);
}

void orion_builder_progress(const struct orion_builder *builder, struct orion_builder_progress *ret)
{
	*ret = (struct orion_builder_progress){
		.phase = builder->phase,
		.warnings = builder->warning_count,
		.inodes = builder->inodes,
		.files = builder->files,
		.content_bytes = builder->content_bytes,
		.known_files = builder->known_files,
		.known_bytes = builder->known_bytes,
		.files_total = builder->files_total,
		.bytes_total = builder->bytes_total,
		.files_done = builder->files_done,
		.bytes_done = builder->bytes_done,
		.new_bytes = builder->new_bytes,
		.resumed_bytes = builder->resumed_bytes,
		.store_blocks = builder->store_blocks,
		.pack_bytes = builder->pack_bytes,
		.used_new_blocks = builder->used_new_blocks,
		.manifest_bytes = builder->manifest_bytes,
		.stored_bytes = builder->stored_bytes,
	};
}

const char *node_path(const struct node *node, char *buffer, size_t capacity)
{
	size_t at = capacity - 1;

	buffer[at] = 0;
	for (; node && node->parent; node = node->parent) {
		const size_t length = strlen(node->name);

		if (length + 1 > at)
			break;
		if (buffer[at])
			buffer[--at] = '/';
		at -= length;
		memcpy(buffer + at, node->name, length);
	}
	return buffer[at] ? buffer + at : ".";
}

int builder_fail(struct orion_builder *builder, int code, const struct node *node, const char *format, ...)
{
	char path[MESSAGE_MAX / 2], text[MESSAGE_MAX / 2];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	pthread_mutex_lock(&builder->message_lock);
	if (!builder->failure) {
		builder->failure = code;
		snprintf(builder->message, sizeof builder->message, "%s%s%s",
			 node ? node_path(node, path, sizeof path) : "", node ? ": " : "", text);
	}
	pthread_mutex_unlock(&builder->message_lock);
	builder->stop = true;
	return code;
}

void builder_warn(struct orion_builder *builder, const struct node *node, const char *what)
{
	char path[MESSAGE_MAX / 2], *text = NULL;

	pthread_mutex_lock(&builder->message_lock);
	if (builder->warning_count < WARNINGS_KEPT) {
		if (asprintf(&text, "%s: %s", node_path(node, path, sizeof path), what) >= 0)
			builder->warnings[builder->warning_count] = text;
	}
	builder->warning_count++;
	pthread_mutex_unlock(&builder->message_lock);
}

struct thread {
	struct orion_builder *builder;
	void (*work)(struct orion_builder *, void *, uint32_t);
	void *argument;
	uint32_t number;
	pthread_t id;
};

static void *run_thread(void *argument)
{
	struct thread *thread = argument;

	thread->work(thread->builder, thread->argument, thread->number);
	return NULL;
}

int builder_run(struct orion_builder *builder, void (*work)(struct orion_builder *, void *, uint32_t), void *argument)
{
	struct thread threads[JOBS_MAX];
	uint32_t count = 0;

	for (; count + 1 < builder->jobs; count++) {
		threads[count] = (struct thread){builder, work, argument, count + 1, 0};
		/* With fewer threads it only takes longer. */
		if (pthread_create(&threads[count].id, NULL, run_thread, threads + count))
			break;
	}
	work(builder, argument, 0);
	while (count--)
		pthread_join(threads[count].id, NULL);
	return builder->failure;
}

int write_all(int fd, const void *bytes, size_t length, uint64_t offset)
{
	const uint8_t *next = bytes;

	while (length) {
		const ssize_t written = pwrite(fd, next, length, (off_t)offset);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return -errno;
		next += written;
		offset += (uint64_t)written;
		length -= (size_t)written;
	}
	return 0;
}
