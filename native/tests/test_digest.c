/* Digests against published values, in one piece and in many; signatures. */
#include "check.h"
#include "digest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

/* Of "abc": RFC 7693's algorithm with 32 bytes, FIPS 180-4's example, and xxhsum -H2. */
static const struct {
	uint32_t kind;
	const char *hex;
} known[] = {
	{ORION_XXH3_128, "06b05ab6733a618578af5f94892f3950"},
	{ORION_BLAKE2B_256, "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"},
	{ORION_SHA_256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
};

static void test_known_values(void)
{
	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		uint8_t digest[ORION_DIGEST_MAX];
		char hex[2 * ORION_DIGEST_MAX + 1];
		const size_t size = orion_digest_size(known[i].kind);

		CHECK(size * 2 == strlen(known[i].hex));
		orion_digest_bytes(known[i].kind, (const uint8_t *)"abc", 3, digest);
		sodium_bin2hex(hex, sizeof hex, digest, size);
		CHECK(strcmp(hex, known[i].hex) == 0);
	}
	CHECK(orion_digest_size(0) == 0 && orion_digest_size(4) == 0 && orion_digest_size(UINT32_MAX) == 0);
}

static void test_pieces(void)
{
	uint8_t data[5000];

	for (size_t i = 0; i < sizeof data; i++)
		data[i] = (uint8_t)(i * 7 >> 2);
	for (uint32_t kind = ORION_XXH3_128; kind <= ORION_SHA_256; kind++) {
		for (size_t step = 1; step <= sizeof data; step = step * 3 + 1) {
			struct orion_hash hash;
			uint8_t whole[ORION_DIGEST_MAX], pieces[ORION_DIGEST_MAX];

			orion_hash_begin(&hash, kind);
			for (size_t at = 0; at < sizeof data; at += step)
				orion_hash_add(&hash, data + at, step < sizeof data - at ? step : sizeof data - at);
			orion_hash_end(&hash, pieces);
			orion_digest_bytes(kind, data, sizeof data, whole);
			CHECK(memcmp(whole, pieces, orion_digest_size(kind)) == 0);
		}
	}
}

static void test_signature(void)
{
	uint8_t key[ORION_PUBLIC_KEY_SIZE], secret[crypto_sign_ed25519_SECRETKEYBYTES], seed[32] = {1};
	uint8_t digest[ORION_DIGEST_MAX] = {2}, message[ORION_SIGNED_SIZE], signature[ORION_SIGNATURE_SIZE];

	crypto_sign_ed25519_seed_keypair(key, secret, seed);
	orion_signed_message(ORION_SHA_256, digest, message);
	CHECK(memcmp(message, "orion manifest v1\0\3\0\0\0\2", 23) == 0);
	crypto_sign_ed25519_detached(signature, NULL, message, sizeof message, secret);

	CHECK(orion_signature_verify(ORION_SHA_256, digest, signature, key) == 0);
	CHECK(orion_signature_verify(ORION_BLAKE2B_256, digest, signature, key) == -EBADMSG);
	CHECK(orion_signature_verify(ORION_XXH3_128, digest, signature, key) == -EINVAL);
	CHECK(orion_signature_verify(0, digest, signature, key) == -EINVAL);
	for (size_t bit = 0; bit < 8 * sizeof signature; bit += 5) {
		signature[bit / 8] ^= (uint8_t)(1 << bit % 8);
		CHECK(orion_signature_verify(ORION_SHA_256, digest, signature, key) == -EBADMSG);
		signature[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	digest[31] ^= 1;
	CHECK(orion_signature_verify(ORION_SHA_256, digest, signature, key) == -EBADMSG);
	digest[31] ^= 1;
	key[0] ^= 1;
	CHECK(orion_signature_verify(ORION_SHA_256, digest, signature, key) == -EBADMSG);
	memset(key, 0, sizeof key);
	CHECK(orion_signature_verify(ORION_SHA_256, digest, signature, key) == -EBADMSG);
}

int main(void)
{
	test_known_values();
	test_pieces();
	test_signature();
	puts("test_digest: ok");
	return 0;
}
