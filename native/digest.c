/* The three kinds of digest, and Ed25519. */
#define XXH_STATIC_LINKING_ONLY /* for the size of its state: it never changes within libxxhash.so.0 */
#include "xxh3.h"
#include "digest.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include <sodium.h>

#define MEMBER_FITS(type) \
	static_assert(sizeof(type) <= sizeof((struct orion_hash *)0)->state && \
			      _Alignof(struct orion_hash) % _Alignof(type) == 0, \
		      #type)

MEMBER_FITS(XXH3_state_t);
MEMBER_FITS(crypto_generichash_blake2b_state);
MEMBER_FITS(crypto_hash_sha256_state);

static pthread_once_t sodium_once = PTHREAD_ONCE_INIT;

/* libsodium chooses BLAKE2b's fastest form for this processor here, and only here; should it fail, the plain one stays
 * chosen. */
static void start_sodium(void)
{
	if (sodium_init() < 0)
		return;
}

size_t orion_digest_size(uint32_t kind)
{
	switch (kind) {
	case ORION_XXH3_128:
		return sizeof(XXH128_canonical_t);
	case ORION_BLAKE2B_256:
	case ORION_SHA_256:
		return 32;
	default:
		return 0;
	}
}

static void put_xxh3(XXH128_hash_t hash, uint8_t *ret)
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, hash);
	memcpy(ret, canonical.digest, sizeof canonical.digest);
}

void orion_digest_bytes(uint32_t kind, const uint8_t *data, size_t length, uint8_t ret[ORION_DIGEST_MAX])
{
	switch (kind) {
	case ORION_XXH3_128:
		put_xxh3(XXH3_128bits(data, length), ret);
		break;
	case ORION_BLAKE2B_256:
		pthread_once(&sodium_once, start_sodium);
		crypto_generichash_blake2b(ret, 32, data, length, NULL, 0);
		break;
	default:
		crypto_hash_sha256(ret, data, length);
	}
}

void orion_hash_begin(struct orion_hash *hash, uint32_t kind)
{
	hash->kind = kind;
	switch (kind) {
	case ORION_XXH3_128:
		XXH3_128bits_reset((XXH3_state_t *)hash->state);
		break;
	case ORION_BLAKE2B_256:
		pthread_once(&sodium_once, start_sodium);
		crypto_generichash_blake2b_init((crypto_generichash_blake2b_state *)hash->state, NULL, 0, 32);
		break;
	default:
		crypto_hash_sha256_init((crypto_hash_sha256_state *)hash->state);
	}
}

void orion_hash_add(struct orion_hash *hash, const uint8_t *data, size_t length)
{
	switch (hash->kind) {
	case ORION_XXH3_128:
		XXH3_128bits_update((XXH3_state_t *)hash->state, data, length);
		break;
	case ORION_BLAKE2B_256:
		crypto_generichash_blake2b_update((crypto_generichash_blake2b_state *)hash->state, data, length);
		break;
	default:
		crypto_hash_sha256_update((crypto_hash_sha256_state *)hash->state, data, length);
	}
}

void orion_hash_end(struct orion_hash *hash, uint8_t ret[ORION_DIGEST_MAX])
{
	switch (hash->kind) {
	case ORION_XXH3_128:
		put_xxh3(XXH3_128bits_digest((XXH3_state_t *)hash->state), ret);
		break;
	case ORION_BLAKE2B_256:
		crypto_generichash_blake2b_final((crypto_generichash_blake2b_state *)hash->state, ret, 32);
		break;
	default:
		crypto_hash_sha256_final((crypto_hash_sha256_state *)hash->state, ret);
	}
}

void orion_signed_message(uint32_t kind, const uint8_t digest[ORION_DIGEST_MAX], uint8_t ret[ORION_SIGNED_SIZE])
{
	/* The purpose comes first, so that no signature made for another one can be taken for this. */
	static const char purpose[18] = "orion manifest v1";

	static_assert(sizeof purpose + sizeof kind + ORION_DIGEST_MAX == ORION_SIGNED_SIZE, "three parts");
	memcpy(ret, purpose, sizeof purpose);
	memcpy(ret + sizeof purpose, &kind, sizeof kind);
	memcpy(ret + sizeof purpose + sizeof kind, digest, ORION_DIGEST_MAX);
}

static int verify(uint32_t kind, const uint8_t *message, size_t length, const uint8_t *signature, const uint8_t *key)
{
	if (kind != ORION_BLAKE2B_256 && kind != ORION_SHA_256)
		return -EINVAL;
	return crypto_sign_ed25519_verify_detached(signature, message, length, key) == 0 ? 0 : -EBADMSG;
}

int orion_signature_verify(uint32_t kind, const uint8_t digest[ORION_DIGEST_MAX],
			   const uint8_t signature[ORION_SIGNATURE_SIZE], const uint8_t key[ORION_PUBLIC_KEY_SIZE])
{
	uint8_t message[ORION_SIGNED_SIZE];

	orion_signed_message(kind, digest, message);
	return verify(kind, message, sizeof message, signature, key);
}

int orion_bundle_signature_verify(uint32_t kind, const uint8_t digest[ORION_DIGEST_MAX],
				  const uint8_t signature[ORION_SIGNATURE_SIZE],
				  const uint8_t key[ORION_PUBLIC_KEY_SIZE])
{
	static const char purpose[16] = "orion bundle v1";
	uint8_t message[sizeof purpose + sizeof kind + ORION_DIGEST_MAX];

	memcpy(message, purpose, sizeof purpose);
	memcpy(message + sizeof purpose, &kind, sizeof kind);
	memcpy(message + sizeof purpose + sizeof kind, digest, ORION_DIGEST_MAX);
	return verify(kind, message, sizeof message, signature, key);
}
