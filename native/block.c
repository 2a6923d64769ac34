/* Blocks: digest and compression. */
#include "orion.h"

#include <string.h>
#include <xxhash.h>

void orion_digest(const uint8_t *data, size_t length, uint8_t ret[ORION_DIGEST_SIZE])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, length));
	memcpy(ret, canonical.digest, ORION_DIGEST_SIZE);
}
