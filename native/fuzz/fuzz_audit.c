/* libFuzzer target: any manifest may be audited; a block is good exactly if it lies in its pack and has its digest.
 *
 * Input: a byte that chooses the packs, then changes to the sample's manifest.
 */
#define _GNU_SOURCE
#include "audit.h"
#include "input.h"
#include "tests/stage.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_length);

static int packs[STAGE_SERVERS];

static void open_packs(void)
{
	char path[100];

	stage_make_servers();
	for (int i = 0; i < STAGE_SERVERS; i++) {
		snprintf(path, sizeof path, "%s/%d%s", stage_top, i, i == STAGE_EMPTY ? "" : "/packs");
		packs[i] = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		stage_require(packs[i] > 0);
	}
}

/* What the pack has, if it is there. */
static bool is_good(const struct orion_manifest *manifest, enum stage_server server, uint32_t block)
{
	static const uint8_t id[16] = {1};
	const struct orion_place *place = &manifest->blocks[block];
	const size_t size = server == STAGE_EMPTY ? 0 : server == STAGE_SHORT ? BLOCK + 1 : SAMPLE_CONTENT;
	uint8_t content[SAMPLE_CONTENT], digest[ORION_DIGEST_MAX];

	if (place->pack >= manifest->pack_count || memcmp(manifest->packs[place->pack].id, id, sizeof id) != 0 ||
	    place->offset > size || place->length > size - place->offset)
		return false;
	sample_content(content);
	content[7] ^= server == STAGE_DAMAGED;
	orion_digest_bytes(manifest->header->digest_kind, content + place->offset, place->length, digest);
	return memcmp(digest, manifest->digests + (size_t)block * manifest->header->digest_size,
		      manifest->header->digest_size) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	struct input input = {bytes, length};
	const enum stage_server server = input_byte(&input) % STAGE_SERVERS;
	struct sample *sample = make_sample();
	struct orion_manifest manifest;
	struct orion_audit *audit;

	if (!packs[0])
		open_packs();
	input_change(&input, (uint8_t *)sample, sizeof *sample);
	if (orion_manifest_open((uint8_t *)sample, sizeof *sample, &manifest) == 0) {
		uint8_t *verdicts = malloc(manifest.block_count + 1);

		stage_require(verdicts != NULL);
		stage_require(orion_audit_create(&manifest, packs[server], 1, 0, &audit) == 0);
		stage_require(orion_audit_run(audit, verdicts) == 0);
		orion_audit_destroy(audit);
		for (uint32_t i = 0; i < manifest.block_count; i++)
			stage_require((verdicts[i] == ORION_BLOCK_GOOD) == is_good(&manifest, server, i));
		free(verdicts);
	}
	free(sample);
	return 0;
}
