/* liborion's own test; built with sanitizers by `make -C native check`.
 *
 * orion_lock_memory is tested from Python instead: the sanitizers make mlockall do nothing.
 */
#include "check.h"
#include "orion.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void free_buffer(uint8_t **buffer)
{
	free(*buffer);
}

/* A buffer on the heap, so that the sanitizer sees a single byte too many; freed at the end of its scope. */
#define scoped_buffer __attribute__((cleanup(free_buffer))) uint8_t *

enum content { ZERO, NOISE, TEXT, LAST_BYTE, CONTENTS };

static uint8_t *make_block(size_t length, enum content content)
{
	uint8_t *block = calloc(1, length ? length : 1);
	uint64_t state = 88172645463325252u + length;

	CHECK(block);
	for (size_t i = 0; i < length; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		if (content == NOISE)
			block[i] = (uint8_t)state;
		else if (content == TEXT)
			block[i] = (uint8_t)"orionos\n"[(state >> 8) % 97 ? i % 8 : state % 8];
	}
	if (content == LAST_BYTE && length)
		block[length - 1] = 1;
	return block;
}

static void check_round_trip(size_t length, enum content content)
{
	scoped_buffer block = make_block(length, content);
	scoped_buffer packed = malloc(length ? length : 1);
	scoped_buffer again = malloc(length ? length : 1);
	uint8_t digest[ORION_DIGEST_SIZE], expected[ORION_DIGEST_SIZE];
	size_t packed_length = SIZE_MAX;

	CHECK(packed && again);
	CHECK(orion_block_pack(block, length, packed, length, &packed_length, digest) == 0);
	orion_digest(block, length, expected);
	CHECK(memcmp(digest, expected, sizeof digest) == 0);
	CHECK(packed_length <= length);
	CHECK((packed_length == 0) == orion_is_zero(block, length));
	/* Exactly as long as it is: reading past the end would be seen. */
	scoped_buffer exact = malloc(packed_length ? packed_length : 1);
	CHECK(exact);
	memcpy(exact, packed, packed_length);
	CHECK(orion_block_unpack(exact, packed_length, digest, length, again) == 0);
	CHECK(memcmp(again, block, length) == 0);
	digest[length % ORION_DIGEST_SIZE] ^= 1;
	CHECK(orion_block_unpack(exact, packed_length, digest, length, again) == -EBADMSG);
}

static void test_round_trips(void)
{
	const size_t lengths[] = {0, 1, 2, 12, 13, 15, 16, 17, 31, 32, 33, 240, 241, 4095, 4096, 131072, ORION_BLOCK_MAX};

	for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
		for (int content = 0; content < CONTENTS; content++)
			check_round_trip(lengths[i], (enum content)content);
}

static void test_is_zero(void)
{
	for (size_t length = 0; length < 70; length++) {
		scoped_buffer block = make_block(length, ZERO);

		CHECK(orion_is_zero(block, length));
		for (size_t i = 0; i < length; i++) {
			block[i] = 0x80;
			CHECK(!orion_is_zero(block, length));
			block[i] = 0;
		}
	}
}

static void test_each_flipped_bit_is_found(void)
{
	const size_t length = 600;
	scoped_buffer block = make_block(length, TEXT);
	scoped_buffer packed = malloc(length);
	scoped_buffer again = malloc(length);
	uint8_t digest[ORION_DIGEST_SIZE];
	size_t packed_length;

	CHECK(packed && again);
	CHECK(orion_block_pack(block, length, packed, length, &packed_length, digest) == 0);
	CHECK(packed_length > 0 && packed_length < length);
	for (size_t bit = 0; bit < packed_length * 8; bit++) {
		packed[bit / 8] ^= (uint8_t)(1 << bit % 8);
		int result = orion_block_unpack(packed, packed_length, digest, length, again);
		/* Another way to write the same bytes (a match at another offset) is no harm. */
		CHECK(result == -EINVAL || result == -EBADMSG || memcmp(again, block, length) == 0);
		packed[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (size_t shorter = 1; shorter < packed_length; shorter++)
		CHECK(orion_block_unpack(packed, shorter, digest, length, again) < 0);
}

static void test_ranges(void)
{
	uint8_t byte = 1, packed[2] = {0}, digest[ORION_DIGEST_SIZE];
	size_t packed_length;

	CHECK(orion_block_pack(&byte, ORION_BLOCK_MAX + 1u, packed, SIZE_MAX, &packed_length, digest) == -EINVAL);
	CHECK(orion_block_pack(&byte, SIZE_MAX, packed, SIZE_MAX, &packed_length, digest) == -EINVAL);
	CHECK(orion_block_pack(&byte, 1, packed, 0, &packed_length, digest) == -EINVAL);
	CHECK(orion_block_pack(&byte, 1, packed, 1, &packed_length, NULL) == 0 && packed_length == 1);
	CHECK(orion_block_unpack(packed, 2, digest, 1, &byte) == -EINVAL);
	CHECK(orion_block_unpack(packed, 1, digest, SIZE_MAX, &byte) == -EINVAL);
	orion_digest(NULL, 0, digest);
	CHECK(orion_block_unpack(NULL, 0, digest, 0, NULL) == 0);
}

int main(void)
{
	CHECK(orion_version() == ORION_VERSION);
	test_round_trips();
	test_is_zero();
	test_each_flipped_bit_is_found();
	test_ranges();
	puts("test_block: ok");
	return 0;
}
