/* libFuzzer target: between the kernel and libfuse nothing is lost, nothing is made up and only INIT is amended, whatever
 * the two say; but INTERRUPT, which is ours. Nobody here is being killed.
 *
 * Input: a byte of setup, then messages, each after two bytes of length and flags: from the kernel, or from libfuse. The
 * kernel's are 16 bytes that become a header, and a body.
 */
#define _GNU_SOURCE
#include "fuse_live.h"
#include "input.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MESSAGES_MAX 24
/* Flags in a message's length: it is libfuse's; its header says another length than it has. */
#define LIBFUSES 0x8000u
#define WRONG_LENGTH 0x4000u
#define LENGTH 0x0fffu
#define BUFFER 8192
#define PATIENCE_MS 60000
#define TTL_NS 3600000000000u

struct play {
	struct orion_live *live;
	int kernel, libfuse;
	uint64_t uniques[MESSAGES_MAX]; /* of the kernel's messages */
	uint32_t count;
	uint64_t init; /* the last INIT's unique */
	uint64_t forwarded, remembered;
};

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_length);

static void require(bool condition)
{
	if (!condition)
		abort();
}

static size_t receive(int fd, uint8_t buffer[BUFFER])
{
	struct pollfd there = {fd, POLLIN, 0};

	require(poll(&there, 1, PATIENCE_MS) == 1);
	const ssize_t got = recv(fd, buffer, BUFFER, 0);

	require(got > 0);
	return (size_t)got;
}

/* What is not answered from memory reaches libfuse as it is. */
static void say_as_kernel(struct play *play, struct input *input, size_t length, bool wrong)
{
	uint8_t bytes[BUFFER] = {0}, other[BUFFER];
	struct fuse_in_header header = {.opcode = input_byte(input), .nodeid = input_byte(input) % 16};
	struct fuse_out_header answer;
	size_t body_length;
	uint8_t *body = input_copy(input, length, &body_length);
	const size_t all = sizeof header + body_length;

	header.unique = 2 * (uint64_t)(play->count + 1);
	header.len = (uint32_t)(all + wrong);
	memcpy(bytes, &header, sizeof header);
	memcpy(bytes + sizeof header, body, body_length);
	free(body);
	require(send(play->kernel, bytes, all, 0) == (ssize_t)all);
	if (wrong || header.opcode == FUSE_INTERRUPT)
		return; /* no request and nobody's business; or nothing that is answered */
	play->uniques[play->count++] = header.unique;
	if (header.opcode == FUSE_INIT)
		play->init = header.unique;

	struct pollfd either[] = {{play->kernel, POLLIN, 0}, {play->libfuse, POLLIN, 0}};

	require(poll(either, 2, PATIENCE_MS) == 1);
	const size_t got = receive(either[0].revents ? play->kernel : play->libfuse, other);

	if (either[1].revents) {
		require(got == all && memcmp(bytes, other, all) == 0);
		play->forwarded++;
		return;
	}
	memcpy(&answer, other, sizeof answer);
	require(answer.len == got && answer.unique == header.unique);
	play->remembered++;
}

/* What libfuse says reaches the kernel as it is, but for an answer to INIT. */
static void say_as_libfuse(struct play *play, struct input *input, size_t length, bool wrong)
{
	static const int32_t errors[] = {0, 0, 0, -ENODATA, -ERANGE, -EIO, FUSE_NOTIFY_INVAL_INODE, -ENOENT};
	uint8_t bytes[BUFFER] = {0}, other[BUFFER];
	const uint32_t which = input_byte(input);
	size_t body_length;
	uint8_t *body = input_copy(input, length, &body_length);
	struct fuse_out_header header = {.error = errors[which >> 5]};
	const size_t all = sizeof header + body_length;

	if (play->count && header.error <= 0)
		header.unique = play->uniques[(which & 31) % play->count];
	header.len = (uint32_t)(all + wrong);
	memcpy(bytes, &header, sizeof header);
	memcpy(bytes + sizeof header, body, body_length);
	free(body);
	require(send(play->libfuse, bytes, all, 0) == (ssize_t)all);
	require(receive(play->kernel, other) == all);

	size_t same = all;

	if (play->init && header.unique == play->init && !header.error && body_length >= sizeof(struct fuse_init_out)) {
		struct fuse_init_out out;

		memcpy(&out, other + sizeof header, sizeof out);
		require(out.max_write == ORION_WRITE_MAX && out.max_readahead == ORION_READ_MAX);
		require(memcmp(other + sizeof header + sizeof out, bytes + sizeof header + sizeof out,
			       body_length - sizeof out) == 0);
		same = sizeof header;
		play->init = 0;
	}
	require(memcmp(bytes, other, same) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	struct input input = {bytes, length};
	const uint32_t setup = input_byte(&input);
	struct orion_live_statistics statistics;
	struct play play = {0};
	uint8_t buffer[BUFFER];
	int pair[2];

	/* Who may not have such long messages has no plain tree either. */
	if (orion_live_create(setup & 1 ? 0 : TTL_NS, &play.live))
		return 0;
	require(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
	play.kernel = pair[1];
	play.libfuse = orion_live_fd(play.live);
	require(orion_live_start(play.live, pair[0]) == 0);
	while (input.left && play.count < MESSAGES_MAX) {
		const uint32_t flags = input_short(&input);

		if (flags & LIBFUSES)
			say_as_libfuse(&play, &input, flags & LENGTH, flags & WRONG_LENGTH);
		else
			say_as_kernel(&play, &input, flags & LENGTH, flags & WRONG_LENGTH);
	}
	orion_live_statistics(play.live, &statistics);
	require(statistics.forwarded == play.forwarded && statistics.remembered == play.remembered);
	/* An answer without a whole header is libfuse's end: requests that come after it are refused. */
	if (setup & 2)
		require(send(play.libfuse, "\1\2\3", 3, 0) == 3);
	orion_live_destroy(play.live);
	require(recv(play.kernel, buffer, sizeof buffer, MSG_DONTWAIT) <= 0);
	require(recv(play.libfuse, buffer, sizeof buffer, MSG_DONTWAIT) <= 0);
	close(play.libfuse);
	close(play.kernel);
	return 0;
}
