/* What a supervisor builds upon: INIT is agreed on once for all sessions of a device, answers keep the number of what was sent
 * again, and a lifeline breaks when its process is being ended, even if a thread of that cannot be ended yet.
 */
#define _GNU_SOURCE
#include "check.h"
#include "fuse_session.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_MS 10000

static void handle(void *context, const struct orion_request *request)
{
	(void)context;
	orion_reply_error(request->session, request->header->unique, -ENOENT);
}

static void ask(struct orion_session *session, const void *bytes, size_t length)
{
	struct orion_request request;

	CHECK(orion_request_take(session, bytes, length, &request));
	orion_session_handle(session, &request);
}

static struct orion_session *make_session(struct orion_agreement *agreement, int device)
{
	const struct orion_session_options options = {.handle = handle, .agreement = agreement, .flags = FUSE_NO_OPEN_SUPPORT};
	struct orion_session *session;

	CHECK(orion_session_create(&options, &session) == 0);
	CHECK(orion_session_start(session, device) == 0);
	return session;
}

static void test_agreement(void)
{
	const struct {
		struct fuse_in_header header;
		struct fuse_init_in init;
	} init = {
		{.len = sizeof(init), .opcode = FUSE_INIT, .unique = 2},
		{.major = FUSE_KERNEL_VERSION, .minor = 40, .flags = FUSE_INIT_EXT | FUSE_NO_OPEN_SUPPORT,
		 .flags2 = FUSE_HAS_RESEND >> 32},
	};
	const struct fuse_in_header again = {.len = sizeof(again), .opcode = FUSE_STATFS, .unique = 4 | FUSE_UNIQUE_RESEND};
	struct orion_session_statistics statistics;
	struct orion_agreement *agreement;
	struct fuse_out_header answer;
	int ends[2], status;

	CHECK(orion_agreement_create(&agreement) == 0);
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
	CHECK(!agreement->agreed && orion_agreement_streams(agreement));
	/* The first one answers INIT, in a process of its own, which dies of it. */
	const pid_t child = fork();

	CHECK(child >= 0);
	if (!child) {
		ask(make_session(agreement, ends[0]), &init, sizeof(init));
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(recv(ends[1], &answer, sizeof(answer), 0) == sizeof(answer) && answer.unique == 2 && answer.error == 0);

	/* The next one never sees INIT, and knows. */
	struct orion_session *session = make_session(agreement, ends[0]);

	CHECK(orion_session_flags(session) == (FUSE_INIT_EXT | FUSE_NO_OPEN_SUPPORT | FUSE_HAS_RESEND));
	CHECK(poll(&(struct pollfd){orion_session_ready_fd(session), POLLIN, 0}, 1, 0) == 1);
	orion_session_statistics(session, &statistics);
	CHECK(statistics.resends);
	ask(session, &again, sizeof(again));
	CHECK(recv(ends[1], &answer, sizeof(answer), 0) == sizeof(answer));
	CHECK(answer.unique == (4 | FUSE_UNIQUE_RESEND) && answer.error == -ENOENT);
	orion_session_destroy(session);
	close(ends[0]);
	close(ends[1]);
}

static void test_lifeline(void)
{
	struct pollfd life;
	int ends[2], other[2];
	char byte;

	CHECK(pipe(ends) == 0 && pipe(other) == 0);
	const pid_t child = fork();

	CHECK(child >= 0);
	if (!child) {
		close(ends[0]);
		CHECK(orion_lifeline_hold(ends[1]) == 0);
		/* Only the lifeline's thread has it now. */
		CHECK(write(ends[1], "", 1) < 0 && errno == EBADF);
		CHECK(write(other[1], "", 1) == 1);
		for (;;)
			pause();
	}
	close(ends[1]);
	close(other[1]);
	CHECK(read(other[0], &byte, 1) == 1);
	life = (struct pollfd){ends[0], POLLIN, 0};
	CHECK(poll(&life, 1, 50) == 0);
	kill(child, SIGKILL);
	CHECK(poll(&life, 1, PATIENCE_MS) == 1 && life.revents & POLLHUP);
	CHECK(waitpid(child, NULL, 0) == child);
	/* It had none of the other descriptors. */
	CHECK(read(other[0], &byte, 1) == 0);
	close(ends[0]);
	close(other[0]);
}

int main(void)
{
	test_agreement();
	test_lifeline();
	CHECK(orion_resend(-1) == -EBADF);
	CHECK(orion_proc() >= 0 && orion_proc() == orion_proc());
	puts("test_supervision: ok");
	return 0;
}
