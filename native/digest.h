/* Digests of content, of whichever kind a release was built with; and who signed its manifest.
 *
 * The first 16 bytes of a digest are a block's key in the store, whatever the kind.
 */
#ifndef ORION_DIGEST_H
#define ORION_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#define ORION_DIGEST_MAX 32
#define ORION_SIGNATURE_SIZE 64
#define ORION_PUBLIC_KEY_SIZE 32

enum orion_digest_kind {
	ORION_XXH3_128 = 1, /* 16 bytes, canonical (big-endian): finds damage, but whoever wants to can forge it */
	ORION_BLAKE2B_256 = 2, /* 32 bytes, no key */
	ORION_SHA_256 = 3, /* 32 bytes */
};

/* Bytes of a digest of this kind; 0 if there is no such kind. */
size_t orion_digest_size(uint32_t kind);

/* The digest of these bytes; kind must be one that orion_digest_size() knows. */
void orion_digest_bytes(uint32_t kind, const uint8_t *data, size_t length, uint8_t ret[ORION_DIGEST_MAX]);

/* The same, from pieces. Holds no memory of its own: it may be dropped at any time. */
struct orion_hash {
	_Alignas(64) uint8_t state[576];
	uint32_t kind;
};

void orion_hash_begin(struct orion_hash *hash, uint32_t kind);
void orion_hash_add(struct orion_hash *hash, const uint8_t *data, size_t length);
void orion_hash_end(struct orion_hash *hash, uint8_t ret[ORION_DIGEST_MAX]);

/* What an Ed25519 signature of a manifest is over: the manifest's digest, its kind, and what it is for. */
#define ORION_SIGNED_SIZE 54
void orion_signed_message(uint32_t kind, const uint8_t digest[ORION_DIGEST_MAX], uint8_t ret[ORION_SIGNED_SIZE]);

/* Whether the key's owner signed the manifest with this digest: 0 or -EBADMSG; -EINVAL for a kind of digest that
 * proves nothing, because it can be forged. Whether the manifest has that digest is orion_manifest_verify()'s. */
int orion_signature_verify(uint32_t kind, const uint8_t digest[ORION_DIGEST_MAX],
			   const uint8_t signature[ORION_SIGNATURE_SIZE], const uint8_t key[ORION_PUBLIC_KEY_SIZE]);
/* The same for a bundle, and the digest of its header and index. */
int orion_bundle_signature_verify(uint32_t kind, const uint8_t digest[ORION_DIGEST_MAX],
				  const uint8_t signature[ORION_SIGNATURE_SIZE],
				  const uint8_t key[ORION_PUBLIC_KEY_SIZE]);

#endif
