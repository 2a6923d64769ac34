/* Remembered answers: two tables of fixed size, in which a newcomer takes the place of who was there before. */
#define _GNU_SOURCE
#include "answers.h"

#include "events.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

/* Places, powers of two: 1024 answers of 1.4 KiB, and as many questions under way. */
#define PLACES 1024

struct place {
	struct orion_asked asked;
	struct orion_answer answer;
	uint64_t until; /* 0: empty */
};

struct expected {
	uint64_t unique; /* 0: empty */
	struct orion_asked asked;
};

struct orion_answers {
	uint64_t ttl_ns;
	pthread_mutex_t lock; /* of what follows */
	struct place places[PLACES];
	struct expected expected[PLACES];
};

int orion_answers_create(uint64_t ttl_ns, struct orion_answers **ret)
{
	struct orion_answers *answers = calloc(1, sizeof(*answers));

	if (!answers)
		return -ENOMEM;
	answers->ttl_ns = ttl_ns;
	pthread_mutex_init(&answers->lock, NULL);
	*ret = answers;
	return 0;
}

void orion_answers_destroy(struct orion_answers *answers)
{
	if (!answers)
		return;
	pthread_mutex_destroy(&answers->lock);
	free(answers);
}

bool orion_answers_covers(const struct orion_answers *answers, const struct fuse_in_header *header, const uint8_t *body,
			  size_t length, struct orion_asked *ret)
{
	switch (header->opcode) {
	case FUSE_GETXATTR:
	case FUSE_LISTXATTR:
	case FUSE_READLINK:
	case FUSE_STATFS:
		break;
	default:
		return false;
	}
	if (!answers->ttl_ns || length > sizeof(ret->body))
		return false;
	ret->node = header->nodeid;
	ret->opcode = header->opcode;
	ret->length = (uint32_t)length;
	memcpy(ret->body, body, length);
	return true;
}

static bool same(const struct orion_asked *left, const struct orion_asked *right)
{
	return left->node == right->node && left->opcode == right->opcode && left->length == right->length &&
	       memcmp(left->body, right->body, left->length) == 0;
}

static struct place *place_of(struct orion_answers *answers, const struct orion_asked *asked)
{
	return &answers->places[XXH3_64bits_withSeed(asked->body, asked->length, asked->node ^ asked->opcode) % PLACES];
}

static struct expected *expected_of(struct orion_answers *answers, uint64_t unique)
{
	/* The kernel counts in steps of two. */
	return &answers->expected[unique / 2 % PLACES];
}

bool orion_answers_find(struct orion_answers *answers, const struct orion_asked *asked, struct orion_answer *ret)
{
	const struct place *place = place_of(answers, asked);

	pthread_mutex_lock(&answers->lock);
	const bool found = place->until > orion_now_ns() && same(&place->asked, asked);

	if (found) {
		ret->error = place->answer.error;
		ret->length = place->answer.length;
		memcpy(ret->bytes, place->answer.bytes, place->answer.length);
	}
	pthread_mutex_unlock(&answers->lock);
	return found;
}

void orion_answers_expect(struct orion_answers *answers, uint64_t unique, const struct orion_asked *asked)
{
	struct expected *expected = expected_of(answers, unique);

	pthread_mutex_lock(&answers->lock);
	expected->unique = unique;
	expected->asked = *asked;
	pthread_mutex_unlock(&answers->lock);
}

/* Errors that say something about the file, and not about a server. */
static bool is_lasting(int32_t error)
{
	return error == 0 || error == -ENODATA || error == -EOPNOTSUPP || error == -ERANGE || error == -EINVAL;
}

void orion_answers_came(struct orion_answers *answers, uint64_t unique, int32_t error, const uint8_t *bytes,
			size_t length)
{
	struct expected *expected = expected_of(answers, unique);

	pthread_mutex_lock(&answers->lock);
	if (unique && expected->unique == unique) {
		expected->unique = 0;
		if (is_lasting(error) && length <= ORION_ANSWER_MAX) {
			struct place *place = place_of(answers, &expected->asked);

			place->asked = expected->asked;
			place->answer.error = error;
			place->answer.length = (uint32_t)length;
			memcpy(place->answer.bytes, bytes, length);
			place->until = orion_now_ns() + answers->ttl_ns;
		}
	}
	pthread_mutex_unlock(&answers->lock);
}

void orion_answers_forget(struct orion_answers *answers, uint64_t node)
{
	if (!answers->ttl_ns)
		return;
	pthread_mutex_lock(&answers->lock);
	for (int i = 0; i < PLACES; i++) {
		if (answers->places[i].asked.node == node)
			answers->places[i].until = 0;
		/* An answer under way may be the old inode's. */
		if (answers->expected[i].asked.node == node)
			answers->expected[i].unique = 0;
	}
	pthread_mutex_unlock(&answers->lock);
}
