/* libFuzzer target: orion_block_unpack takes any bytes and never serves what the digest does not name.
 *
 * Input: three bytes for the block's length (little-endian), the rest is the packed block.
 */
#include "orion.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void free_buffer(uint8_t **buffer)
{
	free(*buffer);
}

#define scoped_buffer __attribute__((cleanup(free_buffer))) uint8_t *

static void require(int condition)
{
	if (!condition)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_length);

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_length)
{
	uint8_t digest[ORION_DIGEST_SIZE] = {0};

	if (input_length < 3)
		return 0;
	/* Up to twice the largest block, so that the range check is met as well. */
	const size_t length = (input[0] | (size_t)input[1] << 8 | (size_t)input[2] << 16) & 0x1fffff;
	const uint8_t *packed = input + 3;
	const size_t packed_length = input_length - 3;
	scoped_buffer block = malloc(length ? length : 1);
	scoped_buffer again = malloc(packed_length ? packed_length : 1);

	require(block && again);
	int result = orion_block_unpack(packed, packed_length, digest, length, block);
	require(result == -EINVAL || result == -EBADMSG);
	if (result == -EBADMSG) {
		/* Well formed: with its own digest it must be accepted. */
		orion_digest(block, length, digest);
		require(orion_block_unpack(packed, packed_length, digest, length, block) == 0);
	}
	/* The input as a block of its own goes there and back. */
	size_t again_length = 0;
	scoped_buffer small = malloc(packed_length ? packed_length : 1);

	require(small != NULL);
	result = orion_block_pack(packed, packed_length, small, packed_length, &again_length, digest);
	require(result == 0);
	require(orion_block_unpack(small, again_length, digest, packed_length, again) == 0);
	require(memcmp(again, packed, packed_length) == 0);
	return 0;
}
