/* Blocks: digest, compression, verification. */
#include "orion.h"
#include "xxh3.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include <lz4.h>
#include <lz4hc.h>

/* lz4 that saves less than length >> WORTH_SHIFT costs more time than it saves memory. */
#define WORTH_SHIFT 4

static_assert(sizeof(XXH128_canonical_t) == ORION_DIGEST_SIZE, "a digest is a canonical xxh3-128");
static_assert(ORION_BLOCK_MAX <= LZ4_MAX_INPUT_SIZE, "lz4 counts in int");

int orion_version(void)
{
	return ORION_VERSION;
}

void orion_digest(const uint8_t *data, size_t length, uint8_t ret[ORION_DIGEST_SIZE])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, length));
	memcpy(ret, canonical.digest, ORION_DIGEST_SIZE);
}

bool orion_is_zero(const uint8_t *data, size_t length)
{
	/* If the first bytes are zero and each byte equals the one a step before it, all are zero; memcmp is
	 * the fastest loop that there is, and almost every block that is not zero leaves before it. */
	const size_t step = 16;

	for (size_t i = 0; i < length && i < step; i++)
		if (data[i])
			return false;
	return length <= step || memcmp(data, data + step, length - step) == 0;
}

int orion_block_pack(const uint8_t *data, size_t length, uint8_t *packed, size_t capacity,
		     size_t *ret_packed_length, uint8_t *ret_digest)
{
	if (length > ORION_BLOCK_MAX || capacity < length)
		return -EINVAL;
	if (ret_digest)
		orion_digest(data, length, ret_digest);
	if (orion_is_zero(data, length)) {
		*ret_packed_length = 0;
		return 0;
	}
	/* Below 16 bytes the limit is the length itself: lz4 must not return that, it would read as "as it is". */
	const size_t limit = length - (length >> WORTH_SHIFT) - 1;
	const int written = LZ4_compress_default((const char *)data, (char *)packed, (int)length, (int)limit);

	if (written > 0) {
		*ret_packed_length = (size_t)written;
		return 0;
	}
	memcpy(packed, data, length);
	*ret_packed_length = length;
	return 0;
}

int orion_block_squeeze(const uint8_t *data, size_t length, uint8_t *packed, size_t *ret_packed_length)
{
	if (length > ORION_BLOCK_MAX)
		return -EINVAL;

	const int written = length ? LZ4_compress_HC((const char *)data, (char *)packed, (int)length, (int)length - 1,
						     LZ4HC_CLEVEL_DEFAULT) : 0;

	*ret_packed_length = written > 0 ? (size_t)written : length;
	if (written <= 0 && length)
		memcpy(packed, data, length);
	return 0;
}

int orion_block_unpack(const uint8_t *packed, size_t packed_length,
		       const uint8_t digest[ORION_DIGEST_SIZE], size_t length, uint8_t *ret)
{
	uint8_t found[ORION_DIGEST_SIZE];

	if (length > ORION_BLOCK_MAX || packed_length > length)
		return -EINVAL;
	if (packed_length == 0) {
		if (length)
			memset(ret, 0, length);
	} else if (packed_length == length) {
		memcpy(ret, packed, length);
	} else if (LZ4_decompress_safe((const char *)packed, (char *)ret, (int)packed_length, (int)length) !=
		   (int)length) {
		return -EINVAL;
	}
	if (!digest)
		return 0;
	orion_digest(ret, length, found);
	return memcmp(found, digest, ORION_DIGEST_SIZE) == 0 ? 0 : -EBADMSG;
}
