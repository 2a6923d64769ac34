/* Threads on /dev/fuse. The protocol is the kernel's, include/uapi/linux/fuse.h and fs/fuse/dev.c. */
#define _GNU_SOURCE
#include "fuse_session.h"

#include "events.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES (256u << 10)
#define THREADS_MAX 16
/* Readahead and other requests that nobody waits for, at the same time. */
#define BACKGROUND 64
#define CONGESTED 48
/* Bytes of a READ that take longer to copy than another thread takes to wake up. */
#define LONG_READ (64u << 10)
/* Wakes a thread out of read(); the handler does nothing. */
#define WAKE SIGUSR2
#define WAKE_EVERY_NS 5000000

/* What every mount asks for, if the kernel has it. */
#define FLAGS \
	(FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_PARALLEL_DIROPS | \
	 FUSE_MAX_PAGES | FUSE_ASYNC_DIO | FUSE_EXPLICIT_INVAL_DATA | FUSE_INIT_EXT | FUSE_HAS_RESEND)

struct orion_session {
	struct orion_session_options options;
	int device, ended, ready;
	_Atomic uint64_t flags;
	_Atomic uint64_t upcalls[ORION_OPCODES];
	_Atomic uint64_t first_at;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t changed, turn;
	bool stopping;
	bool reading; /* a thread is, or handles what is quickly done before it reads again */
	uint32_t alive;
	pthread_t threads[THREADS_MAX];
	uint32_t thread_count;
};

static void wake(int number)
{
	(void)number;
}

int orion_session_create(const struct orion_session_options *options, struct orion_session **ret)
{
	struct orion_session *session = calloc(1, sizeof(*session));
	pthread_condattr_t monotonic;

	if (!session)
		return -ENOMEM;
	session->options = *options;
	session->device = -1;
	session->ended = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	session->ready = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (session->ended < 0 || session->ready < 0) {
		free(session);
		return -EMFILE;
	}
	pthread_mutex_init(&session->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&session->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_cond_init(&session->turn, NULL);
	if (options->agreement && options->agreement->agreed) {
		session->flags = options->agreement->flags;
		(void)!write(session->ready, &(uint64_t){1}, sizeof(uint64_t));
	}
	*ret = session;
	return 0;
}

void orion_reply_parts(struct orion_session *session, uint64_t unique, struct iovec *parts, uint32_t count)
{
	struct fuse_out_header header = {.unique = unique, .len = sizeof(header)};

	parts[0] = (struct iovec){&header, sizeof(header)};
	for (uint32_t i = 1; i < count; i++)
		header.len += (uint32_t)parts[i].iov_len;
	/* ENOENT: the request was interrupted and is gone. ENODEV: so is the mount. Nobody is left to be told. */
	while (writev(session->device, parts, (int)count) < 0 && errno == EINTR)
		;
}

void orion_reply(struct orion_session *session, uint64_t unique, const void *data, size_t length)
{
	struct iovec parts[2] = {{0}, {(void *)data, length}};

	orion_reply_parts(session, unique, parts, length ? 2 : 1);
}

void orion_reply_error(struct orion_session *session, uint64_t unique, int error)
{
	const struct fuse_out_header header = {.unique = unique, .len = sizeof(header), .error = error};

	while (write(session->device, &header, sizeof(header)) < 0 && errno == EINTR)
		;
}

void orion_session_store(struct orion_session *session, uint64_t node, uint64_t offset, const void *bytes,
			 uint32_t length)
{
	struct fuse_notify_store_out store = {.nodeid = node, .offset = offset, .size = length};
	struct fuse_out_header header = {
		.len = (uint32_t)(sizeof(header) + sizeof(store)) + length, .error = FUSE_NOTIFY_STORE};
	const struct iovec parts[] = {{&header, sizeof(header)}, {&store, sizeof(store)}, {(void *)bytes, length}};

	while (writev(session->device, parts, 3) < 0 && errno == EINTR)
		;
}

bool orion_request_take(struct orion_session *session, const uint8_t *bytes, size_t length, struct orion_request *ret)
{
	const struct fuse_in_header *header = (const struct fuse_in_header *)(const void *)bytes;

	if (length < sizeof(*header) || header->len != length)
		return false;
	*ret = (struct orion_request){session, header, bytes + sizeof(*header), length - sizeof(*header)};
	return true;
}

const void *orion_request_argument(const struct orion_request *request, size_t size)
{
	return request->length >= size ? request->body : NULL;
}

const char *orion_request_name(const struct orion_request *request, size_t after, size_t *ret_length)
{
	if (request->length <= after)
		return NULL;
	const char *name = (const char *)request->body + after;

	*ret_length = strnlen(name, request->length - after);
	return *ret_length < request->length - after ? name : NULL;
}

static void answer_init(struct orion_session *session, const struct orion_request *request)
{
	/* Only the first members are in what older kernels send. */
	const struct fuse_init_in *in = orion_request_argument(request, offsetof(struct fuse_init_in, flags2));

	if (!in || in->major < FUSE_KERNEL_VERSION) {
		orion_reply_error(session, request->header->unique, -EPROTO);
		return;
	}
	struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION};

	if (in->major > FUSE_KERNEL_VERSION) {
		/* The kernel asks again, in words that we know. */
		orion_reply(session, request->header->unique, &out, sizeof(out));
		return;
	}
	uint64_t offered = in->flags;

	if (in->flags & FUSE_INIT_EXT && request->length >= sizeof(*in))
		offered |= (uint64_t)in->flags2 << 32;

	const uint64_t flags = (FLAGS | session->options.flags) & offered;

	session->flags = flags;
	/* Before the answer: if it never comes, INIT is sent again, and answered in the same way. */
	if (session->options.agreement) {
		session->options.agreement->flags = flags;
		session->options.agreement->agreed = true;
	}
	out.flags = (uint32_t)flags;
	out.flags2 = (uint32_t)(flags >> 32);
	out.max_readahead = session->options.no_readahead ? 0 : ORION_READ_MAX;
	out.max_background = BACKGROUND;
	out.congestion_threshold = CONGESTED;
	out.max_write = ORION_WRITE_MAX;
	out.time_gran = 1;
	out.max_pages = ORION_READ_MAX >> 12;
	orion_reply(session, request->header->unique, &out, sizeof(out));
	(void)!write(session->ready, &(uint64_t){1}, sizeof(uint64_t));
}

/* Locked. One thread sleeps in read() and the others wait for their turn. The kernel wakes sleepers in the order in
 * which they came: if all of them read, each request would wake another thread, which costs 4 us more on one processor
 * and 7 on two (measured; a lookup takes 14 to 20). */
static void begin_reading(struct orion_session *session)
{
	while (session->reading && !session->stopping)
		pthread_cond_wait(&session->turn, &session->lock);
	session->reading = true;
}

static void end_reading(struct orion_session *session)
{
	pthread_mutex_lock(&session->lock);
	session->reading = false;
	pthread_cond_signal(&session->turn);
	pthread_mutex_unlock(&session->lock);
}

/* Whether the answer may take so long that another thread should read meanwhile. */
static bool is_long(const struct orion_request *request)
{
	const struct fuse_read_in *in = orion_request_argument(request, sizeof(*in));

	return request->header->opcode == FUSE_READ && in && in->size >= LONG_READ;
}

void orion_session_handle(struct orion_session *session, const struct orion_request *request)
{
	if (request->header->opcode < ORION_OPCODES)
		atomic_fetch_add_explicit(&session->upcalls[request->header->opcode], 1, memory_order_relaxed);
	if (request->header->opcode == FUSE_INIT && !session->options.hands_on_init) {
		answer_init(session, request);
		return;
	}
	if (request->header->opcode != FUSE_INIT && !atomic_load_explicit(&session->first_at, memory_order_relaxed))
		session->first_at = orion_now_ns();
	session->options.handle(session->options.context, request);
}

/* Whether the device is worth another read(). */
static bool go_on_after(struct orion_session *session, int error)
{
	pthread_mutex_lock(&session->lock);
	const bool stopping = session->stopping;

	pthread_mutex_unlock(&session->lock);
	/* ENOENT: a request that was interrupted before we had it. ENODEV: unmounted. */
	return !stopping && (error == EINTR || error == EAGAIN || error == ENOENT);
}

static void *serve(void *argument)
{
	struct orion_session *session = argument;
	_Alignas(8) uint8_t buffer[ORION_REQUEST_MAX];
	bool reading = false;

	/* A request that cannot be copied here fails, and a page that is not there yet cannot be had while we are killed. */
	explicit_bzero(buffer, sizeof(buffer));
	for (;;) {
		if (!reading) {
			pthread_mutex_lock(&session->lock);
			begin_reading(session);
			const bool stopping = session->stopping;

			pthread_mutex_unlock(&session->lock);
			if (stopping)
				break;
			reading = true;
		}
		const ssize_t got = read(session->device, buffer, sizeof(buffer));

		if (got < 0) {
			if (go_on_after(session, errno))
				continue;
			break;
		}
		struct orion_request request;

		if (!orion_request_take(session, buffer, (size_t)got, &request))
			continue;
		if (is_long(&request)) {
			end_reading(session);
			reading = false;
		}
		orion_session_handle(session, &request);
	}
	end_reading(session);
	pthread_mutex_lock(&session->lock);
	session->alive--;
	pthread_cond_broadcast(&session->changed);
	pthread_mutex_unlock(&session->lock);
	(void)!write(session->ended, &(uint64_t){1}, sizeof(uint64_t));
	return NULL;
}

int orion_session_start(struct orion_session *session, int device)
{
	const struct sigaction action = {.sa_handler = wake};
	pthread_attr_t attributes;
	int error = 0;

	sigaction(WAKE, &action, NULL);
	session->device = device;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	pthread_mutex_lock(&session->lock);
	while (!error && session->thread_count < session->options.threads && session->thread_count < THREADS_MAX) {
		error = pthread_create(&session->threads[session->thread_count], &attributes, serve, session);
		if (!error) {
			session->thread_count++;
			session->alive++;
		}
	}
	pthread_mutex_unlock(&session->lock);
	pthread_attr_destroy(&attributes);
	return session->thread_count ? 0 : -error;
}

void orion_session_stop(struct orion_session *session)
{
	pthread_mutex_lock(&session->lock);
	session->stopping = true;
	pthread_cond_broadcast(&session->turn);
	while (session->alive) {
		struct timespec until;

		/* Again and again: a signal that comes just before read() wakes nobody. */
		for (uint32_t i = 0; i < session->thread_count; i++)
			pthread_kill(session->threads[i], WAKE);
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += WAKE_EVERY_NS;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&session->changed, &session->lock, &until);
	}
	pthread_mutex_unlock(&session->lock);
	for (uint32_t i = 0; i < session->thread_count; i++)
		pthread_join(session->threads[i], NULL);
	session->thread_count = 0;
}

void orion_session_destroy(struct orion_session *session)
{
	if (!session)
		return;
	orion_session_stop(session);
	close(session->ended);
	close(session->ready);
	pthread_cond_destroy(&session->changed);
	pthread_cond_destroy(&session->turn);
	pthread_mutex_destroy(&session->lock);
	free(session);
}

int orion_session_ended_fd(const struct orion_session *session)
{
	return session->ended;
}

int orion_session_ready_fd(const struct orion_session *session)
{
	return session->ready;
}

uint64_t orion_session_flags(const struct orion_session *session)
{
	return session->flags;
}

void orion_session_statistics(struct orion_session *session, struct orion_session_statistics *ret)
{
	ret->first_at = session->first_at;
	ret->resends = session->flags & FUSE_HAS_RESEND;
	for (int i = 0; i < ORION_OPCODES; i++)
		ret->upcalls[i] = atomic_load_explicit(&session->upcalls[i], memory_order_relaxed);
}
