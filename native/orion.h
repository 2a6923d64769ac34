/* liborion: the native part of the OrionOS read cache. Pure C; it has never heard of Python.
 *
 * Conventions: functions return 0 or a negative errno; out-parameters come last and are named ret;
 * the caller owns every buffer (pointer plus length in bytes).
 */
#ifndef ORION_H
#define ORION_H

#include <stddef.h>
#include <stdint.h>

#define ORION_DIGEST_SIZE 16

/* xxh3-128 of a block, in canonical (big-endian) byte order. */
void orion_digest(const uint8_t *data, size_t length, uint8_t ret[ORION_DIGEST_SIZE]);

#endif
