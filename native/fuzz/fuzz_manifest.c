/* libFuzzer target: any bytes may be opened as a manifest and asked everything.
 *
 * The manifest's digest is not looked at: what it would refuse is what this is about.
 */
#define _GNU_SOURCE
#include "tests/walk_manifest.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_length);

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_length)
{
	/* A copy: aligned, and no longer than it says. */
	uint8_t *bytes = malloc(input_length ? input_length : 1);
	struct orion_manifest manifest;

	if (!bytes)
		abort();
	memcpy(bytes, input, input_length);
	int result = orion_manifest_open(bytes, input_length, &manifest);

	if (result == 0)
		walk_manifest(&manifest);
	else
		walk_require(result == -EINVAL || result == -EPROTONOSUPPORT || result == -EBADMSG);
	free(bytes);
	return 0;
}
