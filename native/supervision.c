/* Shared memory, RESEND, and a thread that does nothing but be there. */
#define _GNU_SOURCE
#include "supervision.h"

#include "fuse_newer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STACK_BYTES (64u << 10)

struct lifeline {
	int fd, error;
	sem_t held;
};

int orion_agreement_create(struct orion_agreement **ret)
{
	void *shared = mmap(NULL, sizeof(**ret), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED)
		return -errno;
	*ret = shared;
	return 0;
}

bool orion_agreement_streams(const struct orion_agreement *agreement)
{
	return !agreement->streamed;
}

int orion_resend(int device)
{
	const struct fuse_out_header header = {.len = sizeof(header), .error = FUSE_NOTIFY_RESEND};

	while (write(device, &header, sizeof(header)) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* All of a range; before Linux 5.9 what is likely to be open. */
static void close_all(unsigned int first, unsigned int last)
{
	if (first > last || syscall(SYS_close_range, first, last, 0) == 0)
		return;
	for (unsigned int fd = first; fd <= last && fd < 1024; fd++)
		close((int)fd);
}

static void *hold(void *argument)
{
	struct lifeline *lifeline = argument;
	const int fd = lifeline->fd;

	lifeline->error = unshare(CLONE_FILES) ? -errno : 0;
	if (!lifeline->error) {
		if (fd > 0)
			close_all(0, (unsigned int)fd - 1);
		close_all((unsigned int)fd + 1, ~0u);
	}
	const bool held = !lifeline->error;

	sem_post(&lifeline->held);
	while (held)
		pause();
	return NULL;
}

int orion_lifeline_hold(int fd)
{
	struct lifeline lifeline = {.fd = fd};
	pthread_attr_t attributes;
	sigset_t all, before;
	pthread_t thread;

	sem_init(&lifeline.held, 0, 0);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);

	const int error = pthread_create(&thread, &attributes, hold, &lifeline);

	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	if (!error)
		while (sem_wait(&lifeline.held))
			;
	sem_destroy(&lifeline.held);
	if (error)
		return -error;
	if (!lifeline.error)
		close(fd);
	return lifeline.error;
}

int orion_end_with_parent(void)
{
	return prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0) ? -errno : 0;
}

int orion_proc(void)
{
	static atomic_int kept = -1;
	int expected = -1;

	if (kept >= 0)
		return kept;

	const int fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (!atomic_compare_exchange_strong(&kept, &expected, fd)) {
		close(fd);
		return expected;
	}
	return fd;
}
