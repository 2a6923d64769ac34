/* libFuzzer target: any bytes may come from the kernel, for any manifest, and whatever the servers have.
 *
 * Input: a byte that sets the stage, changes to the sample's manifest, then messages, each after two bytes of length and
 * flags. Each request that wants an answer gets one, that the kernel would take; what is read from a release that is
 * right is what is in it.
 */
#define _GNU_SOURCE
#include "input.h"
#include "tests/stage.h"

#include <sched.h>

#define MESSAGES_MAX 32
/* Flags in a message's length: its header's length is not mended; it is a list of blocks to be fetched ahead. */
#define AS_IT_IS 0x8000u
#define AHEAD 0x4000u
#define LENGTH 0x3fffu

/* What a message asked for. */
struct asked {
	uint32_t opcode, size;
	uint64_t node, offset;
	bool is_read; /* with an argument */
	uint32_t answers;
};

struct play {
	struct stage stage;
	bool is_right; /* the release is as the sample is */
	bool settles; /* each message is answered before the next one is sent */
	uint32_t count;
	struct asked asked[MESSAGES_MAX];
};

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_length);

static struct stage_options choose_options(uint32_t setup)
{
	static const struct stage_options servers[] = {
		{.server_count = 1, .servers = {STAGE_GOOD}},
		{.server_count = 2, .servers = {STAGE_DAMAGED, STAGE_GOOD}},
		{.server_count = 3, .servers = {STAGE_EMPTY, STAGE_SHORT, STAGE_DAMAGED}},
		{.server_count = 0},
	};
	static const int64_t around[] = {0, 6000, 1 << 20, ORION_READ_AROUND_AUTO};
	static const size_t sizes[][2] = {{1 << 20, 1 << 20}, {6000, 6000}, {0, 1 << 20}, {0, 0}};
	struct stage_options options = servers[setup & 3];

	options.read_around = around[setup >> 2 & 3];
	options.cache_size = sizes[setup >> 4 & 3][0];
	options.compressed_size = sizes[setup >> 4 & 3][1];
	options.direct = setup & 0x40;
	return options;
}

static void settle(struct play *play)
{
	struct orion_fetch_statistics statistics;

	do {
		sched_yield();
		orion_fetch_statistics(play->stage.fetch, &statistics);
	} while (statistics.flights || orion_served_in_flight(play->stage.served));
}

/* The header says who asks, and the argument of most requests how much of what. */
static struct asked note(const uint8_t *message, size_t length)
{
	const struct fuse_in_header *header = (const void *)message;
	const struct fuse_read_in *in = (const void *)(header + 1);
	struct asked asked = {.opcode = header->opcode, .node = header->nodeid};

	asked.is_read = length >= sizeof *header + sizeof *in;
	if (asked.is_read) {
		asked.offset = in->offset;
		asked.size = in->size;
	}
	if (asked.opcode == FUSE_GETXATTR || asked.opcode == FUSE_LISTXATTR)
		asked.size = length >= sizeof *header + sizeof(struct fuse_getxattr_in)
				     ? ((const struct fuse_getxattr_in *)(const void *)in)->size
				     : 0;
	return asked;
}

static void send_one(struct play *play, uint8_t *message, size_t length, bool as_it_is)
{
	struct fuse_in_header *header = (struct fuse_in_header *)(void *)message;
	struct asked *asked = &play->asked[play->count];

	if (length >= sizeof *header) {
		/* What the kernel counts by itself; so each answer's question is known. */
		header->unique = 2 * (uint64_t)++play->count;
		if (!as_it_is)
			header->len = (uint32_t)length;
		*asked = note(message, length);
	}
	if (!stage_send(&play->stage, message, length) && length >= sizeof *header)
		asked->opcode = FUSE_FORGET; /* no request, and no answer */
}

static bool wants_answer(uint32_t opcode)
{
	return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT;
}

static void check_entries(const uint8_t *bytes, size_t length, bool plus)
{
	const size_t fixed = plus ? sizeof(struct fuse_direntplus) : sizeof(struct fuse_dirent);

	while (length) {
		struct fuse_dirent entry;

		stage_require(length >= fixed);
		memcpy(&entry, bytes + fixed - sizeof entry, sizeof entry);
		const size_t size = FUSE_DIRENT_ALIGN(fixed + entry.namelen);

		stage_require(entry.namelen && entry.namelen <= ORION_NAME_MAX && size <= length);
		stage_require(!memchr(bytes + fixed, '/', entry.namelen) && !memchr(bytes + fixed, 0, entry.namelen));
		length -= size;
		bytes += size;
	}
}

/* What the sample's two files have. */
static void check_content(const struct asked *asked, const uint8_t *bytes, size_t length)
{
	static uint8_t files[INODES][3 * BLOCK];
	const uint64_t inode = asked->node - 1;
	const uint64_t size = inode == SH ? 2 * BLOCK + 100 : inode == SPARSE ? 3 * BLOCK : 0;
	const uint64_t left = asked->offset < size ? size - asked->offset : 0;

	if (!files[SH][0] && !files[SH][1]) {
		uint8_t content[SAMPLE_CONTENT];

		sample_content(content);
		memcpy(files[SH], content, 2 * BLOCK + 100);
		memcpy(files[SPARSE] + BLOCK, content + 2 * BLOCK + 100, BLOCK);
	}
	stage_require(length == (left < asked->size ? left : asked->size));
	stage_require(!length || memcmp(bytes, files[inode] + asked->offset, length) == 0);
}

static void check_answer(const struct play *play, const struct asked *asked, const uint8_t *bytes, size_t length)
{
	switch (asked->opcode) {
	case FUSE_LOOKUP:
		stage_require(length == sizeof(struct fuse_entry_out));
		break;
	case FUSE_GETATTR:
		stage_require(length == sizeof(struct fuse_attr_out));
		break;
	case FUSE_READLINK:
		stage_require(length && length <= ORION_TARGET_MAX && !memchr(bytes, 0, length));
		break;
	case FUSE_READ:
		stage_require(asked->is_read && length <= asked->size);
		if (play->is_right)
			check_content(asked, bytes, length);
		break;
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
		stage_require(asked->is_read && length <= asked->size);
		check_entries(bytes, length, asked->opcode == FUSE_READDIRPLUS);
		break;
	case FUSE_GETXATTR:
	case FUSE_LISTXATTR:
		stage_require(length <= (asked->size ? asked->size : sizeof(struct fuse_getxattr_out)));
		break;
	}
}

static void check_answers(struct play *play)
{
	const off_t end = lseek(play->stage.answers, 0, SEEK_END);
	uint8_t *bytes = malloc((size_t)end + 1);

	stage_require(bytes && pread(play->stage.answers, bytes, (size_t)end, 0) == end);
	for (size_t at = 0; at < (size_t)end;) {
		/* Answers follow each other without gaps, whatever their lengths. */
		struct fuse_out_header header;
		const size_t data = at + sizeof header;

		stage_require(data <= (size_t)end);
		memcpy(&header, bytes + at, sizeof header);
		stage_require(header.len >= sizeof header && header.len <= (size_t)end - at);
		at += header.len;
		if (!header.unique) {
			stage_require(header.error == FUSE_NOTIFY_STORE);
			continue;
		}
		stage_require(header.unique % 2 == 0 && header.unique / 2 <= play->count);
		/* As fs/fuse/dev.c has it. */
		stage_require(header.error <= 0 && header.error > -512);
		stage_require(!header.error || header.len == sizeof header);
		struct asked *asked = &play->asked[header.unique / 2 - 1];

		asked->answers++;
		if (!header.error)
			check_answer(play, asked, bytes + data, header.len - sizeof header);
	}
	free(bytes);
	for (uint32_t i = 0; i < play->count; i++)
		stage_require(wants_answer(play->asked[i].opcode)
				      ? play->asked[i].answers == 1
				      : play->asked[i].answers <= (play->asked[i].opcode == FUSE_INTERRUPT));
}

static void prefetch(struct play *play, const uint32_t *blocks, size_t count)
{
	bool *departed = calloc(count + 1, sizeof(*departed));

	stage_require(departed);
	orion_fetch_prefetch(play->stage.fetch, 1, blocks, count, departed);
	for (size_t i = 0; i < count; i++)
		orion_block_release(orion_fetch_peek(play->stage.fetch, blocks[i]));
	free(departed);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	static bool is_set;
	struct input input = {bytes, length};
	const uint32_t setup = input_byte(&input);
	const struct stage_options options = choose_options(setup);
	struct sample *sample = make_sample();
	struct play play = {.settles = setup & 0x80};
	struct orion_manifest manifest;

	if (!is_set)
		stage_make_servers();
	is_set = true;
	play.is_right = !input_change(&input, (uint8_t *)sample, sizeof *sample);
	if (orion_manifest_open((uint8_t *)sample, sizeof *sample, &manifest)) {
		free(sample);
		return 0;
	}
	stage_open(&play.stage, &manifest, &options);
	for (uint32_t i = 0; i < MESSAGES_MAX && input.left; i++) {
		const uint32_t flags = input_short(&input);
		size_t message_length;
		uint8_t *message = input_copy(&input, flags & LENGTH, &message_length);

		if (flags & AHEAD)
			prefetch(&play, (uint32_t *)(void *)message, message_length / sizeof(uint32_t));
		else
			send_one(&play, message, message_length, flags & AS_IT_IS);
		free(message);
		if (play.settles)
			settle(&play);
	}
	stage_close(&play.stage);
	check_answers(&play);
	close(play.stage.answers);
	free(sample);
	return 0;
}
