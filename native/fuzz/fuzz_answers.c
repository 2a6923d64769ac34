/* libFuzzer target: requests, replies and forgotten inodes in any order; what is answered from memory is what was said.
 *
 * Input: messages, each a byte that says what it is, two bytes of length, and its bytes: a request of the kernel,
 * a reply of libfuse to one of the requests before, or a FORGET.
 */
#define _GNU_SOURCE
#include "answers.h"
#include "input.h"

#include <errno.h>

#define MESSAGES_MAX 64
#define NODES 16
#define TTL_NS 3600000000000u

/* A request that libfuse was asked, and its reply. */
struct said {
	uint8_t *body; /* NULL: nothing of it may be remembered */
	size_t length;
	uint64_t node, unique;
	uint32_t opcode;
	uint8_t *reply; /* NULL: not yet */
	size_t reply_length;
	int32_t error;
	bool is_forgotten; /* its inode */
};

struct play {
	struct orion_answers *answers;
	uint32_t count;
	struct said said[MESSAGES_MAX];
};

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_length);

static void require(bool condition)
{
	if (!condition)
		abort();
}

static void drop(struct said *said)
{
	free(said->body);
	free(said->reply);
	said->body = said->reply = NULL;
}

/* Whether libfuse has given the answer to the same request before. */
static bool was_said(const struct play *play, const struct said *asked, const struct orion_answer *answer)
{
	for (uint32_t i = 0; i < play->count; i++) {
		const struct said *said = &play->said[i];

		if (said->reply && said->node == asked->node && said->opcode == asked->opcode &&
		    said->length == asked->length && memcmp(said->body, asked->body, said->length) == 0 &&
		    said->error == answer->error && said->reply_length == answer->length &&
		    memcmp(said->reply, answer->bytes, answer->length) == 0)
			return true;
	}
	return false;
}

static void ask(struct play *play, struct input *input, size_t length)
{
	static const uint32_t opcodes[] = {FUSE_GETXATTR, FUSE_LISTXATTR, FUSE_READLINK, FUSE_STATFS, FUSE_READ, FUSE_LOOKUP};
	const uint32_t who = input_byte(input);
	const struct fuse_in_header header = {.opcode = opcodes[(who >> 4) % 6], .nodeid = who % NODES};
	struct said *said = &play->said[play->count++];
	struct orion_asked asked;
	struct orion_answer answer;

	said->node = header.nodeid;
	said->opcode = header.opcode;
	/* Of its own, and in one of few places: one takes another's. */
	said->unique = 2048 * (uint64_t)play->count + 2 * (input_byte(input) & 7);
	said->body = input_copy(input, length, &said->length);
	const bool covers = orion_answers_covers(play->answers, &header, said->body, said->length, &asked);

	require(covers == (header.opcode != FUSE_READ && header.opcode != FUSE_LOOKUP && said->length <= ORION_ASKED_MAX));
	if (covers && !orion_answers_find(play->answers, &asked, &answer)) {
		orion_answers_expect(play->answers, said->unique, &asked);
		return;
	}
	require(!covers || was_said(play, said, &answer));
	drop(said);
}

/* Only the first reply counts. */
static void reply(struct play *play, struct input *input, size_t length)
{
	static const int32_t errors[] = {0, -ENODATA, -ERANGE, -EIO, -ENOENT, 7, -EINVAL, -EOPNOTSUPP};
	const uint32_t which = input_byte(input);
	const int32_t error = errors[which >> 5];
	struct said *said = play->count ? &play->said[(which & 31) % play->count] : NULL;
	size_t reply_length;
	uint8_t *bytes = input_copy(input, length, &reply_length);

	orion_answers_came(play->answers, said ? said->unique : 0, error, bytes, reply_length);
	if (!said || !said->body || said->reply) {
		free(bytes);
		return;
	}
	said->reply = bytes;
	said->reply_length = reply_length;
	said->error = error;
	/* Trouble of the server's, and what is too long, is not for the next time. */
	if (error == -EIO || error == -ENOENT || error > 0 || reply_length > ORION_ANSWER_MAX)
		drop(said);
}

static void forget(struct play *play, uint64_t node)
{
	orion_answers_forget(play->answers, node);
	for (uint32_t i = 0; i < play->count; i++)
		if (play->said[i].node == node) {
			drop(&play->said[i]);
			play->said[i].is_forgotten = true;
		}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	/* Its tables have 1.8 MB: they are emptied, not made anew. */
	static struct orion_answers *answers;
	struct input input = {bytes, length};
	struct play play = {0};

	require(answers || orion_answers_create(TTL_NS, &answers) == 0);
	play.answers = answers;
	while (input.left && play.count < MESSAGES_MAX) {
		const uint32_t what = input_byte(&input);

		if (what % 8 == 0)
			forget(&play, input_byte(&input) % NODES);
		else if (what % 8 < 4)
			reply(&play, &input, input_short(&input) % (ORION_ANSWER_MAX + 8));
		else
			ask(&play, &input, input_short(&input) % (ORION_ASKED_MAX + 8));
	}
	for (uint32_t i = 0; i < play.count; i++)
		if (!play.said[i].is_forgotten)
			forget(&play, play.said[i].node);
	return 0;
}
