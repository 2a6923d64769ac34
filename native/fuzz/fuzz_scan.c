/* libFuzzer target: the store may have any manifest and any scan; what a builder takes from them is whole.
 *
 * Input: a byte of setup, changes to the sample's manifest, then the scan's records; or, as it is, the whole scan.
 */
#define _GNU_SOURCE
#include "builder_parts.h"
#include "input.h"
#include "tests/sample_manifest.h"

#include <errno.h>

#define AS_IT_IS 1u
#define REHASH 2u
#define OTHER_CHECKSUM 4u
#define OTHER_MANIFEST 8u
#define UNSEALED 16u
#define TWICE 32u /* the first one counts */

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_length);

static void require(bool condition)
{
	if (!condition)
		abort();
}

/* The rest of the input as a scan of the sample, for the caller to free. */
static uint8_t *make_scan(struct input *input, const struct sample *sample, uint32_t setup, size_t *ret_length)
{
	const size_t size = input->left;
	struct scan_header header = {
		.version = SCAN_VERSION,
		.record_size = sizeof(struct scan_record),
		.count = size / sizeof(struct scan_record),
		.checksum = checksum(input->next, size) ^ !!(setup & OTHER_CHECKSUM),
	};

	if (setup & AS_IT_IS)
		return input_copy(input, size, ret_length);
	memcpy(header.magic, SCAN_MAGIC, sizeof header.magic);
	memcpy(header.manifest, sample->header.digest, sizeof header.manifest);
	header.manifest[0] ^= !!(setup & OTHER_MANIFEST);
	uint8_t *scan = malloc(sizeof header + size);

	require(scan);
	memcpy(scan, &header, sizeof header);
	memcpy(scan + sizeof header, input_take(input, size), size);
	*ret_length = sizeof header + size;
	return scan;
}

static void check_blocks(const struct orion_builder *builder)
{
	for (uint32_t i = 0; i < builder->blocks.count; i++) {
		const struct place *place = builder->blocks.places + i;

		require(place->pack > NEW_PACK && place->pack < builder->pack_count);
		require(place->length && place->length <= BLOCK);
		require(place->offset + place->length <= builder->packs[place->pack].size);
	}
}

/* A file either is as long as its blocks say, or it is not known. */
static void check_files(struct orion_builder *builder)
{
	for (uint32_t i = 0; i < builder->known_count; i++) {
		struct node node = {.mode = S_IFREG, .stamp = builder->known[i].stamp};
		const int result = match_known(builder, &node);

		require(result == 0 || result == 1);
		require(result || !node.count);
		require(!result || node_is_whole(&node, &builder->blocks, BLOCK));
		for (uint32_t j = 0; j < node.count; j++) {
			const struct orion_extent *extent = node_extents(&node) + j;

			require(extent->block == ORION_HOLE || (extent->block < builder->blocks.count &&
							       extent->count <= builder->blocks.count - extent->block));
		}
		node_clear(&node);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	struct input input = {bytes, length};
	const uint32_t setup = input_byte(&input);
	const struct orion_builder_options options = {
		.root = "/", .work = "/", .name = "n", .label = "1", .digest_kind = ORION_XXH3_128, .block_size = BLOCK,
		.jobs = 1, .rehash = setup & REHASH};
	struct sample *sample = make_sample();
	struct orion_builder *builder;
	size_t scan_length;

	input_change(&input, (uint8_t *)sample, sizeof *sample);
	if (!(setup & UNSEALED))
		seal(sample);
	uint8_t *scan = make_scan(&input, sample, setup, &scan_length);

	require(orion_builder_create(&options, &builder) == 0);
	for (uint32_t turn = 0; turn < (setup & TWICE ? 2 : 1); turn++) {
		const int result =
			orion_builder_add_release(builder, (uint8_t *)sample, sizeof *sample, scan, scan_length);

		require(result == 0 || result == -EBADMSG);
		require(!result || !builder->known_count);
		check_blocks(builder);
		check_files(builder);
	}
	orion_builder_destroy(builder);
	free(scan);
	free(sample);
	return 0;
}
