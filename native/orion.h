/* liborion: the native part of the OrionOS read cache. Pure C; it has never heard of Python.
 *
 * Conventions: functions return 0 or a negative errno; out-parameters come last and are named ret or ret_…;
 * the caller owns every buffer (pointer plus length in bytes). No function keeps state, so all may be called
 * from any thread at the same time.
 */
#ifndef ORION_H
#define ORION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Goes up with every change of a declaration below; the binding refuses a library of another version. */
#define ORION_VERSION 1

#define ORION_DIGEST_SIZE 16

/* No block is longer: 1 MiB, the largest read that FUSE hands us. */
#define ORION_BLOCK_MAX (1u << 20)

/* ORION_VERSION of the library that was linked, which need not be the header's. */
int orion_version(void);

/* xxh3-128 of any number of bytes, in canonical (big-endian) byte order. */
void orion_digest(const uint8_t *data, size_t length, uint8_t ret[ORION_DIGEST_SIZE]);

/* Whether all bytes are zero; true for no bytes. */
bool orion_is_zero(const uint8_t *data, size_t length);

/* Packs one block, and takes its digest while the bytes are warm.
 *
 * A packed block has no header; its length says what it is:
 *   0                    all bytes of the block are zero
 *   the block's length   the block as it is, because lz4 saves less than a sixteenth
 *   anything between     one raw lz4 block
 * so a packed block is never longer than the block.
 *
 * capacity: bytes at packed; at least length.
 * ret_digest: may be NULL, when the caller knows the digest.
 * Returns -EINVAL if length is above ORION_BLOCK_MAX or capacity below length.
 */
int orion_block_pack(const uint8_t *data, size_t length, uint8_t *packed, size_t capacity,
		     size_t *ret_packed_length, uint8_t *ret_digest);

/* Packs one block as small as lz4 can, for what is packed once and read often: 8 MB/s in place of 400, and
 * 17 percent smaller (measured: what a boot reads). Zeros have no form of their own here.
 *
 * packed: room for length bytes. ret_packed_length: the block's length: as it is; anything less: one raw lz4 block.
 * Returns -EINVAL if length is above ORION_BLOCK_MAX.
 */
int orion_block_squeeze(const uint8_t *data, size_t length, uint8_t *packed, size_t *ret_packed_length);

/* Restores a packed block and verifies it. Any bytes may be handed in.
 *
 * digest: NULL if the caller has a digest of another kind to verify it by.
 * length: of the block, and bytes at ret. What is at ret is of no use after an error.
 * Returns -EINVAL if packed is no packed block of that length, -EBADMSG if it is one with another digest.
 */
int orion_block_unpack(const uint8_t *packed, size_t packed_length,
		       const uint8_t digest[ORION_DIGEST_SIZE], size_t length, uint8_t *ret);

/* Keeps the process's pages in RAM, those that it has and those that it will touch, so that a daemon never
 * waits for a page which only it could read. Pages are locked when first touched (MCL_ONFAULT: eight thread
 * stacks of 8 MiB would cost 64 MiB otherwise); kernels before 4.4 lock everything at once.
 * Returns -EPERM or -ENOMEM where RLIMIT_MEMLOCK forbids it.
 */
int orion_lock_memory(void);

/* Writes another command line over the process's own, where the kernel shows it, and names the process so (without a
 * leading '@'). Does nothing if the name is longer than what is there. -EIO if /proc cannot be read. */
int orion_rename_process(const char *name);

#endif
