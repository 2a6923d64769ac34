/* libFuzzer target: a killed build may leave any journal and any pack; what is taken over from them is there, and a build
 * that is killed right afterwards leaves as much.
 *
 * Input: a byte of setup, whose upper bits say how much there is of the sample's pack, then frames of the journal, each
 * after two bytes of length and flags; or, as it is, the whole journal.
 */
#define _GNU_SOURCE
#include "builder_parts.h"
#include "input.h"
#include "tests/sample_manifest.h"

#include <fcntl.h>
#include <stdio.h>

#define AS_IT_IS 1u
#define REHASH 2u
/* A flag in a frame's length. */
#define DAMAGED 0x8000u
#define LENGTH 0x0fffu

/* A tmpfs; it is gone when the process exits. */
static char work[] = "/dev/shm/orion-journal-XXXXXX";
static int journal, pack;

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_length);

static void require(bool condition)
{
	if (!condition)
		abort();
}

static int open_file(const char *name)
{
	char path[100];

	snprintf(path, sizeof path, "%s/%s", work, name);
	return open(path, O_RDWR | O_CREAT | O_APPEND, 0600);
}

static void remove_work(void)
{
	char path[100];

	snprintf(path, sizeof path, "%s/journal", work);
	unlink(path);
	snprintf(path, sizeof path, "%s/new.pack", work);
	unlink(path);
	rmdir(work);
}

static void make_work(void)
{
	require(mkdtemp(work) && atexit(remove_work) == 0);
	journal = open_file("journal");
	pack = open_file("new.pack");
	require(journal >= 0 && pack >= 0);
}

static void append(int fd, const void *bytes, size_t length)
{
	require(write(fd, bytes, length) == (ssize_t)length);
}

static void write_frames(struct input *input)
{
	struct journal_header header = {.version = JOURNAL_VERSION, .digest_kind = ORION_XXH3_128, .block_size = BLOCK};

	memcpy(header.magic, JOURNAL_MAGIC, sizeof header.magic);
	append(journal, &header, sizeof header);
	while (input->left) {
		const uint32_t flags = input_short(input);
		size_t length;
		uint8_t *bytes = input_copy(input, flags & LENGTH, &length);
		const struct frame frame = {length, checksum(bytes, length) ^ !!(flags & DAMAGED)};

		append(journal, &frame, sizeof frame);
		append(journal, bytes, length);
		free(bytes);
	}
}

static struct orion_builder *resume(bool rehash)
{
	const struct orion_builder_options options = {
		.root = work, .work = work, .name = "n", .label = "1", .digest_kind = ORION_XXH3_128, .block_size = BLOCK,
		.jobs = 1, .rehash = rehash};
	struct orion_builder *builder;

	require(orion_builder_create(&options, &builder) == 0);
	require(orion_builder_resume(builder) == 0);
	return builder;
}

/* Each block is in the pack, behind the one before, with its digest; and the pack ends with the last one. Returns whether
 * nothing lies between them. */
static bool check_blocks(const struct orion_builder *builder)
{
	const struct block_table *table = &builder->blocks;
	uint8_t bytes[BLOCK], digest[ORION_DIGEST_MAX];
	uint64_t end = 0;
	bool dense = true;
	struct stat st;

	for (uint32_t i = 0; i < table->count; i++) {
		const struct place *place = table->places + i;

		require(place->pack == NEW_PACK && place->offset >= end && place->length && place->length <= BLOCK);
		dense = dense && place->offset == end;
		end = place->offset + place->length;
		require(pread(pack, bytes, place->length, (off_t)place->offset) == place->length);
		orion_digest_bytes(ORION_XXH3_128, bytes, place->length, digest);
		require(memcmp(digest, table->digests + (size_t)16 * i, 16) == 0);
	}
	require(fstat(pack, &st) == 0 && (uint64_t)st.st_size == builder->pack_end && end <= builder->pack_end);
	return dense && end == builder->pack_end;
}

/* Each file that is known is found, and has the blocks that a file of its size has. */
static void check_files(struct orion_builder *builder, struct record *record)
{
	for (uint32_t i = 0; i < builder->known_count; i++) {
		struct node node = {.mode = S_IFREG, .stamp = builder->known[i].stamp};

		require(match_known(builder, &node) == 1);
		require(node_is_whole(&node, &builder->blocks, BLOCK));
		for (uint32_t j = 0; j < node.count; j++) {
			const struct orion_extent *extent = node_extents(&node) + j;

			require(extent->block == ORION_HOLE || (extent->block < builder->blocks.count &&
							       extent->count <= builder->blocks.count - extent->block));
		}
		require(journal_file(builder, record, &node) == 0);
		node_clear(&node);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	struct input input = {bytes, length};
	const uint32_t setup = input_byte(&input);
	uint8_t content[SAMPLE_CONTENT];
	struct record record = {0};

	if (!journal)
		make_work();
	require(ftruncate(journal, 0) == 0 && ftruncate(pack, 0) == 0);
	sample_content(content);
	append(pack, content, (size_t)(setup >> 2) * sizeof content / 63);
	if (setup & AS_IT_IS)
		append(journal, input.next, input.left);
	else
		write_frames(&input);
	struct orion_builder *builder = resume(setup & REHASH);
	const uint32_t blocks = builder->blocks.count, files = builder->known_count;
	const uint64_t end = builder->pack_end;

	const bool dense = check_blocks(builder);

	for (uint32_t i = 0; i < blocks; i++)
		require(journal_block(builder, &record, i) == 0);
	check_files(builder, &record);
	require(journal_append(builder, &record) == 0);
	free(record.bytes);
	orion_builder_destroy(builder);
	/* The next one finds the same, once more. Where a hole was punched it may find zeros, of which the journal speaks. */
	builder = resume(setup & REHASH);
	check_blocks(builder);
	require(!dense || (builder->blocks.count == blocks && builder->known_count == files && builder->pack_end == end));
	orion_builder_destroy(builder);
	return 0;
}
