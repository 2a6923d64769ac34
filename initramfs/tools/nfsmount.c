/* nfsmount: mount NFS directories at the same time, with a deadline, and say in words why one failed.
 *
 *   nfsmount -o OPTIONS [-t SECONDS] [-a NAME]... [-l LIST] SOURCE DIRECTORY [SOURCE DIRECTORY]...
 *   nfsmount -o OPTIONS [-t SECONDS] -f SOCKET SOURCE
 *
 * SOURCE is HOST:/PATH, HOST a name, an IPv4 address or an IPv6 address in []. DIRECTORY is made, and removed again if
 * the mount fails. Exit code 0: at least one is mounted; 1: none. Standard output has one line for each that failed.
 *
 * -f: for the daemon, later: the mount gets no place in any directory. Its descriptor is sent over SOCKET, the number of
 * a unix socket's descriptor, with the device of the mount ("0:45") as text. Tries once. Ends with whoever started it.
 *
 * mount(2) of an NFS that does not answer can wait for minutes, so each runs in a process of its own, which is killed
 * at the deadline (the wait in the kernel is killable).
 *
 * A dead server must not hold up a boot. Once one is mounted, the others get GRACE_MS more, and those that do answer up to
 * ANSWERING_MS. -l: whoever goes on with the rest finds in LIST the options and what became of each server (write_list).
 *
 * -a: what will be wanted of the server that is mounted first, while the others still are being mounted. A file's bytes
 * come into the page cache; of a NAME that ends with a slash, that it is there and may be searched. Processes that
 * nobody waits for do that; what they do not find, nobody will.
 *
 * Each connection is tried before the kernel mounts: it does not set up one client while another waits for its server
 * (nfs4_match_client() and nfs_clid_init_mutex in fs/nfs), so a dead server would hold up the mounts of all others. A
 * server that accepts connections and answers nothing is found out by an RPC of our own, which is under way beside the
 * mount and so costs no round trip: whoever has not answered it after SILENT_MS while another one's mount waits is
 * killed, and mounted again only when it has answered. So is, after STUCK_MS, who began first of those that wait.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* <linux/mount.h>, which musl does not ship. */
enum { FSOPEN_CLOEXEC = 1, FSMOUNT_CLOEXEC = 1 };
enum { FSCONFIG_SET_FLAG = 0, FSCONFIG_SET_STRING = 1, FSCONFIG_CMD_CREATE = 6 };
enum {
	MOUNT_ATTR_RDONLY = 1,
	MOUNT_ATTR_NOSUID = 2,
	MOUNT_ATTR_NODEV = 4,
	MOUNT_ATTR_NOEXEC = 8,
	MOUNT_ATTR_NOATIME = 0x10,
	MOUNT_ATTR_NODIRATIME = 0x80,
};
/* <linux/stat.h>: where a struct statx has the device. */
struct statx_device {
	uint32_t before[34], major, minor, after[28];
};
_Static_assert(sizeof(struct statx_device) == 256, "a struct statx");

enum { MAX_SERVERS = 16, MAX_AHEAD = 8, RETRY_MS = 100, TEXT = 1024 };
/* After the first one is mounted. A second one that is as quick comes three round trips later, and answers long before. */
enum { GRACE_MS = 30, ANSWERING_MS = 200 };
/* How long an answer to an RPC that does nothing may take, and a whole mount, both beside some round trips of the
 * connection; after that another server's mount is not held up any more. */
enum { SILENT_MS = 100, SILENT_ROUND_TRIPS = 4, STUCK_MS = 500, STUCK_ROUND_TRIPS = 50, AGAIN_MS = 500, LOOK_MS = 10 };
/* How long a server waits for those before it on the command line, which would be mounted first if all are as quick. */
enum { HEAD_START_US = 5000, HEAD_START_LOOK_US = 250 };
/* Of a file that is read ahead; and how much of it the kernel can be told at once (it forgets what is beyond its readahead). */
enum { AHEAD_BYTES = 8 << 20, ADVICE_BYTES = 128 << 10 };

enum stage { STAGE_START, STAGE_RESOLVE, STAGE_CONNECT, STAGE_ASK, STAGE_MOUNT, STAGE_DONE };

/* What a child says about its server, in memory shared with the parent. */
struct report {
	_Atomic enum stage stage; /* what it is doing, or did last */
	_Atomic int error; /* errno of the last attempt, or EAI_… for STAGE_RESOLVE; 0: none failed so far */
	_Atomic bool answered; /* the RPC that does nothing */
	_Atomic long since; /* ms: when the kernel began to mount it */
	_Atomic long round_trip; /* ms, rounded up: what the connection took */
};

struct shared {
	_Atomic bool mounted; /* one is: nobody tries again */
	struct report reports[MAX_SERVERS];
};

struct request {
	const char *source, *directory;
	char host[256];
	const char *path;
	char why[TEXT]; /* not mounted: the reason */
	pid_t child; /* 0: none */
	long again; /* ms: when it is tried again; 0: never */
	bool wary; /* has held up others: it is to answer before the kernel mounts it */
	bool held_up; /* killed for that */
	bool mounted, same; /* same: as one that is mounted already */
	dev_t device; /* if it is mounted */
};

/* How it is mounted. */
struct manner {
	const char *options; /* as given */
	char data[TEXT]; /* those that are the file system's */
	unsigned long flags; /* the others */
	int socket; /* where the mount's descriptor is sent; -1: it has a directory */
};

static const char *ahead[MAX_AHEAD];
static int ahead_count;

static const struct {
	const char *name;
	unsigned long flag;
} generic_flags[] = {
	{ "ro", MS_RDONLY },      { "nosuid", MS_NOSUID },     { "nodev", MS_NODEV },       { "noexec", MS_NOEXEC },
	{ "noatime", MS_NOATIME }, { "nodiratime", MS_NODIRATIME }, { "relatime", MS_RELATIME }, { "defaults", 0 },
	{ "rw", 0 }, /* servers are mounted read-only, whatever the options say */
};

static long now_ms(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000L + at.tv_nsec / 1000000L;
}

/* Splits the options that are mount(2) flags from those that are the file system's. Returns 0 or -ENAMETOOLONG. */
static int split_options(const char *options, char *rest, size_t size, unsigned long *ret_flags)
{
	char copy[TEXT];
	size_t used = 0;

	*ret_flags = MS_RDONLY;
	rest[0] = '\0';
	if (strlen(options) >= sizeof copy)
		return -ENAMETOOLONG;
	strcpy(copy, options);
	for (char *save, *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		bool generic = false;

		for (size_t i = 0; i < sizeof generic_flags / sizeof *generic_flags; i++)
			if (!strcmp(word, generic_flags[i].name)) {
				*ret_flags |= generic_flags[i].flag;
				generic = true;
			}
		if (generic)
			continue;
		used += (size_t)snprintf(rest + used, size - used, "%s%s", used ? "," : "", word);
		if (used >= size)
			return -ENAMETOOLONG;
	}
	return 0;
}

/* The port= option's value, or NFS's own. */
static const char *port_of(const char *options, char *port, size_t size)
{
	const char *at = strstr(options, "port=");

	if (!at || (at != options && at[-1] != ','))
		return "2049";
	snprintf(port, size, "%.*s", (int)strcspn(at + 5, ","), at + 5);
	return port;
}

/* Returns 0 or -EINVAL. */
static int split_source(struct request *request)
{
	const char *host = request->source, *end;

	if (*host == '[') {
		host++;
		end = strchr(host, ']');
		if (!end || end[1] != ':')
			return -EINVAL;
		request->path = end + 2;
	} else {
		end = strchr(host, ':');
		if (!end)
			return -EINVAL;
		request->path = end + 1;
	}
	if (end == host || (size_t)(end - host) >= sizeof request->host || *request->path != '/')
		return -EINVAL;
	memcpy(request->host, host, (size_t)(end - host));
	return 0;
}

/* Connects within the time left. Returns a socket or -errno; writes our address, as the server sees it, to clientaddr. */
static int try_connect(const struct addrinfo *address, long deadline, char *clientaddr, socklen_t size)
{
	struct sockaddr_storage own;
	socklen_t length = sizeof own;
	int error = 0;
	int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (connect(fd, address->ai_addr, address->ai_addrlen) < 0)
		error = errno;
	if (error == EINPROGRESS) {
		struct pollfd wait = { .fd = fd, .events = POLLOUT };
		long left = deadline - now_ms();

		if (poll(&wait, 1, left > 0 ? (int)left : 0) == 1)
			getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){ sizeof error });
		else
			error = ETIMEDOUT;
	}
	if (!error && (getsockname(fd, (struct sockaddr *)&own, &length) < 0 ||
		       getnameinfo((struct sockaddr *)&own, length, clientaddr, size, NULL, 0, NI_NUMERICHOST)))
		error = EADDRNOTAVAIL;
	if (!error)
		return fd;
	close(fd);
	return -error;
}

/* A question over a connection, and where the answer is told. */
struct question {
	int fd;
	long deadline;
	_Atomic bool *answered;
};

/* Procedure 0 of NFS 4 (RFC 5531), which does nothing: a record mark, then a call without credentials. Whatever comes
 * back is an answer: what it says is the kernel's affair. */
static void ask(const struct question *question)
{
	static const uint32_t call[] = { 0x80000028, 0x4f72696f, 0, 2, 100003, 4, 0, 0, 0, 0, 0 };
	struct pollfd wait = { .fd = question->fd, .events = POLLIN };
	uint32_t words[sizeof call / sizeof *call];
	long left;

	for (size_t i = 0; i < sizeof call / sizeof *call; i++)
		words[i] = htonl(call[i]);
	if (send(question->fd, words, sizeof words, MSG_NOSIGNAL) != sizeof words)
		return;
	left = question->deadline - now_ms();
	if (poll(&wait, 1, left > 0 ? (int)left : 0) == 1 && recv(question->fd, words, sizeof words, 0) > 0)
		*question->answered = true;
}

static void *ask_beside(void *question)
{
	ask(question);
	return NULL;
}

/* The kernel sets up one server after the other, three round trips each, in the order in which they come to it. The
 * order of the command line is the administrator's, so the first of equals goes first. */
static void give_head_start(const struct shared *shared, int number)
{
	bool all = number == 0;

	for (int waited = 0; !all && waited < HEAD_START_US; waited += HEAD_START_LOOK_US) {
		all = true;
		for (int before = 0; before < number; before++)
			all = all && shared->reports[before].stage >= STAGE_MOUNT;
		nanosleep(&(struct timespec){ .tv_nsec = HEAD_START_LOOK_US * 1000L }, NULL);
	}
}

/* A string of the kernel's about what went wrong, or nothing. */
static void complain(int context)
{
	char text[TEXT];
	ssize_t length = read(context, text, sizeof text - 1);

	if (length > 0)
		fprintf(stderr, "nfsmount: %.*s\n", (int)length, text);
}

/* Mounts it in no directory (Linux 5.2). Returns the mount's descriptor or -1 with errno set. */
static int mount_nowhere(const char *source, char *data, unsigned long flags)
{
	const int attributes = MOUNT_ATTR_RDONLY | (flags & MS_NOSUID ? MOUNT_ATTR_NOSUID : 0) |
			       (flags & MS_NODEV ? MOUNT_ATTR_NODEV : 0) | (flags & MS_NOEXEC ? MOUNT_ATTR_NOEXEC : 0) |
			       (flags & MS_NOATIME ? MOUNT_ATTR_NOATIME : 0) |
			       (flags & MS_NODIRATIME ? MOUNT_ATTR_NODIRATIME : 0);
	int context = (int)syscall(SYS_fsopen, "nfs4", FSOPEN_CLOEXEC), error, fd = -1;
	bool failed;

	if (context < 0)
		return -1;
	failed = syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "source", source, 0) ||
		 syscall(SYS_fsconfig, context, FSCONFIG_SET_FLAG, "ro", NULL, 0);
	for (char *save, *word = strtok_r(data, ",", &save); word && !failed; word = strtok_r(NULL, ",", &save)) {
		char *value = strchr(word, '=');

		if (value)
			*value++ = '\0';
		failed = syscall(SYS_fsconfig, context, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, word, value, 0);
	}
	if (!failed && !syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		fd = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes);
	error = errno;
	if (fd < 0)
		complain(context);
	close(context);
	errno = error;
	return fd;
}

/* Without asking the server, which may be gone again. 0 or -errno. */
static int device_of(int fd, const char *path, dev_t *ret)
{
	struct statx_device found;

	if (syscall(SYS_statx, fd, path, AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &found))
		return -errno;
	*ret = makedev(found.major, found.minor);
	return 0;
}

/* Hands a mount over, and its device in words. 0 or -1 with errno set. */
static int hand_over(int socket, int mount)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	char text[32];
	struct iovec data = { .iov_base = text };
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control
	};
	dev_t device;
	int error = device_of(mount, "", &device);

	if (error) {
		errno = -error;
		return -1;
	}
	data.iov_len = (size_t)snprintf(text, sizeof text, "%u:%u", major(device), minor(device));
	control.header = (struct cmsghdr){
		.cmsg_len = CMSG_LEN(sizeof mount), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS
	};
	memcpy(CMSG_DATA(&control.header), &mount, sizeof mount);
	return sendmsg(socket, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* Mounts a server whose connection stands. 0 or -1 with errno set. */
static int mount_it(const struct request *request, const struct manner *manner, const char *server, const char *client)
{
	char data[TEXT + 160];
	int fd, error;

	snprintf(data, sizeof data, "%s%saddr=%s,clientaddr=%s", manner->data, *manner->data ? "," : "", server, client);
	if (manner->socket < 0)
		return mount(request->source, request->directory, "nfs4", manner->flags, data);
	fd = mount_nowhere(request->source, data, manner->flags);
	if (fd < 0)
		return -1;
	error = hand_over(manner->socket, fd) ? errno : 0;
	close(fd);
	errno = error;
	return error ? -1 : 0;
}

/* One attempt. Returns 0 or -1 with the report filled. */
static int attempt(const struct request *request, const struct manner *manner, long deadline, struct shared *shared, int number)
{
	struct report *report = &shared->reports[number];
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *address;
	struct question question = { .deadline = deadline, .answered = &report->answered };
	char port[16], server[64], client[64];
	pthread_t asking;
	long began;
	int error;

	report->answered = false;
	report->stage = STAGE_RESOLVE;
	error = getaddrinfo(request->host, port_of(manner->options, port, sizeof port), &hints, &address);
	if (!error)
		error = getnameinfo(address->ai_addr, address->ai_addrlen, server, sizeof server, NULL, 0, NI_NUMERICHOST);
	if (error) {
		report->error = error;
		return -1;
	}
	report->stage = STAGE_CONNECT;
	began = now_ms();
	question.fd = try_connect(address, deadline, client, sizeof client);
	freeaddrinfo(address);
	if (question.fd < 0) {
		report->error = -question.fd;
		return -1;
	}
	report->round_trip = now_ms() - began + 1;
	if (request->wary) {
		report->stage = STAGE_ASK;
		ask(&question);
		if (!report->answered) {
			close(question.fd);
			report->error = ETIMEDOUT;
			return -1;
		}
	} else if (!pthread_create(&asking, NULL, ask_beside, &question)) {
		give_head_start(shared, number);
	} else {
		report->answered = true; /* not known, but no reason to kill it */
	}
	report->since = now_ms();
	report->stage = STAGE_MOUNT;
	error = mount_it(request, manner, server, client) ? errno : 0;
	report->stage = error ? STAGE_MOUNT : STAGE_DONE;
	report->error = error;
	if (!error)
		return 0; /* this process ends now, with whatever still waits for an answer */
	if (!request->wary) {
		shutdown(question.fd, SHUT_RDWR);
		pthread_join(asking, NULL);
	}
	close(question.fd);
	return -1;
}

/* Whether a later attempt may do better: a server that is still starting, a link that is not up yet. */
static bool may_pass(const struct report *report)
{
	switch (report->stage) {
	case STAGE_RESOLVE:
		return report->error == EAI_AGAIN || report->error == EAI_SYSTEM || report->error == EAI_FAIL;
	case STAGE_CONNECT:
		return true;
	default:
		return report->error == ECONNREFUSED || report->error == ETIMEDOUT || report->error == EIO ||
		       report->error == EAGAIN || report->error == ECONNRESET || report->error == ENOTCONN ||
		       report->error == EHOSTUNREACH || report->error == ENETUNREACH;
	}
}

/* In a process of its own, which ends when it has come or failed. */
static void get_ahead(const char *directory, const char *name)
{
	const bool searched = name[strlen(name) - 1] == '/';
	char path[TEXT], last;
	struct stat status;
	int fd;

	if ((size_t)snprintf(path, sizeof path, "%s/%s%s", directory, name, searched ? "." : "") >= sizeof path)
		return;
	if (searched) {
		(void)access(path, X_OK);
		return;
	}
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &status) || !S_ISREG(status.st_mode) || !status.st_size)
		return;
	if (status.st_size > AHEAD_BYTES)
		status.st_size = AHEAD_BYTES;
	for (off_t at = 0; at < status.st_size; at += ADVICE_BYTES)
		(void)posix_fadvise(fd, at, ADVICE_BYTES, POSIX_FADV_WILLNEED);
	/* Open until it has come: whoever opens it meanwhile shares the server's state. */
	(void)!pread(fd, &last, 1, status.st_size - 1);
}

static void begin_ahead(const char *directory)
{
	for (int i = 0; i < ahead_count; i++) {
		if (fork())
			continue;
		/* Whoever started us waits for the end of our output. */
		close(STDIN_FILENO);
		close(STDOUT_FILENO);
		close(STDERR_FILENO);
		get_ahead(directory, ahead[i]);
		_exit(0);
	}
}

static int serve(const struct request *request, const struct manner *manner, long deadline, struct shared *shared, int number)
{
	while (attempt(request, manner, deadline, shared, number)) {
		if (manner->socket >= 0 || !may_pass(&shared->reports[number]) || shared->mounted ||
		    now_ms() + RETRY_MS >= deadline)
			return 1;
		nanosleep(&(struct timespec){ .tv_nsec = RETRY_MS * 1000000L }, NULL);
	}
	if (!atomic_exchange(&shared->mounted, true) && manner->socket < 0)
		begin_ahead(request->directory);
	return 0;
}

/* Says why one failed, and keeps it for the list. */
static void explain(struct request *request, const struct report *report, long waited_ms)
{
	const char *why = "no answer";

	if (report->stage == STAGE_RESOLVE && report->error)
		why = report->error == EAI_NONAME ? "no such host" : "the name cannot be resolved: is a name server reached?";
	else if (request->held_up || report->stage == STAGE_ASK)
		why = "a connection stands, but NFS does not answer";
	else if (report->error)
		switch (report->error) {
		case ECONNREFUSED: why = "connection refused: no NFS server listens there"; break;
		case ETIMEDOUT: why = "timed out: the server does not answer"; break;
		case EADDRNOTAVAIL:
		case EHOSTUNREACH:
		case ENETUNREACH: why = "no route to the server"; break;
		case ENOENT: why = "no such export"; break;
		case EACCES:
		case EPERM: why = "the server denies access: does it export this to our address?"; break;
		case EINVAL: why = "the kernel rejects the mount options"; break;
		case EPROTONOSUPPORT: why = "the server does not speak this version of NFS"; break;
		case ENODEV: why = "the kernel has no NFS client"; break;
		case ENOSYS: why = "the kernel is older than Linux 5.2"; break;
		default: why = strerror(report->error);
		}
	else if (report->stage == STAGE_MOUNT)
		why = "timed out: a connection stands, but NFS does not answer";
	else if (report->stage == STAGE_RESOLVE)
		why = "timed out: the name server does not answer";
	else if (report->stage == STAGE_CONNECT)
		why = "timed out: the server does not answer";
	snprintf(request->why, sizeof request->why, "%s", why);
	printf("%s: %s (after %ld.%ld s)\n", request->source, why, waited_ms / 1000, waited_ms / 100 % 10);
}

static void begin(struct request *request, const struct manner *manner, long deadline, struct shared *shared, int number)
{
	const pid_t parent = getpid();

	request->again = 0;
	request->held_up = false;
	request->child = fork();
	if (!request->child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		_exit(serve(request, manner, deadline, shared, number));
	}
	if (request->child < 0) {
		request->child = 0;
		snprintf(request->why, sizeof request->why, "cannot fork: %s", strerror(errno));
		printf("%s: %s\n", request->source, request->why);
	}
}

/* Whether a server waits for others in the kernel, or is to wait. */
static bool is_held_up(const struct request *requests, int count, const struct shared *shared, int by)
{
	for (int i = 0; i < count; i++)
		if (i != by && requests[i].child && shared->reports[i].stage == STAGE_MOUNT)
			return true;
	return false;
}

/* Kills the mounts that hold up others, and those that get no more time. first: when one was mounted; 0: none is. */
static void cut_short(struct request *requests, int count, const struct shared *shared, long first)
{
	const long now = now_ms();
	int oldest = -1;

	for (int i = 0; i < count; i++) {
		const struct report *report = &shared->reports[i];
		const long waited = now - report->since;
		/* One that has failed before is only being tried again. */
		const long grace = report->stage == STAGE_MOUNT && report->answered ? ANSWERING_MS :
				   report->error ? 0 : GRACE_MS;

		if (!requests[i].child || report->stage == STAGE_DONE)
			continue;
		if (first && now - first >= grace) {
			kill(requests[i].child, SIGKILL);
			continue;
		}
		if (report->stage != STAGE_MOUNT || !is_held_up(requests, count, shared, i))
			continue;
		if (!report->answered && waited >= SILENT_MS + SILENT_ROUND_TRIPS * report->round_trip) {
			requests[i].held_up = true;
			kill(requests[i].child, SIGKILL);
		}
		if (waited >= STUCK_MS + STUCK_ROUND_TRIPS * report->round_trip &&
		    (oldest < 0 || report->since < shared->reports[oldest].since))
			oldest = i;
	}
	/* All wait for one of them; most likely for the first. */
	if (oldest >= 0) {
		requests[oldest].held_up = true;
		kill(requests[oldest].child, SIGKILL);
	}
}

/* One is mounted: unless it is one that is mounted already. */
static void admit(struct request *requests, int count, struct request *request)
{
	if (device_of(AT_FDCWD, request->directory, &request->device))
		request->device = 0;
	request->mounted = true;
	for (int i = 0; i < count && request->device; i++) {
		if (&requests[i] == request || !requests[i].mounted || requests[i].device != request->device)
			continue;
		request->mounted = false;
		request->same = true;
		snprintf(request->why, sizeof request->why, "the same server as %s", requests[i].source);
		printf("%s: %s\n", request->source, request->why);
		umount2(request->directory, MNT_DETACH);
		rmdir(request->directory);
		return;
	}
}

/* For whoever goes on: a line with the options, then one for each server: its directory, what it is (mounted, same, failed), its
 * device, its source, and why it is not mounted; between them tabs. 0 or -1 with errno set. */
static int write_list(const char *path, const struct request *requests, int count, const struct manner *manner)
{
	FILE *file = fopen(path, "we");

	if (!file)
		return -1;
	fprintf(file, "%s\n", manner->options);
	for (int i = 0; i < count; i++) {
		const struct request *request = &requests[i];

		fprintf(file, "%s\t%s\t%u:%u\t%s\t%s\n", request->directory,
			request->mounted ? "mounted" : request->same ? "same" : "failed", major(request->device),
			minor(request->device), request->source, request->why);
	}
	return fclose(file);
}

/* Reads the servers' names; says what is wrong with one, which then has no host. */
static void read_sources(struct request *requests, int count)
{
	for (int i = 0; i < count; i++) {
		struct request *request = &requests[i];

		if (split_source(request)) {
			snprintf(request->why, sizeof request->why, "not of the form HOST:/PATH");
			request->same = true; /* nor will it be */
		}
		for (int before = 0; before < i && !request->same; before++)
			if (!strcmp(requests[before].source, request->source)) {
				snprintf(request->why, sizeof request->why, "it is in the list twice");
				request->same = true;
			}
		if (!request->same && request->directory && mkdir(request->directory, 0755) < 0 && errno != EEXIST) {
			snprintf(request->why, sizeof request->why, "cannot make %s: %s", request->directory,
				 strerror(errno));
			request->same = true;
		}
		if (request->same)
			printf("%s: %s\n", request->source, request->why);
	}
}

/* Until the kernel tells of a child's end, something is to be looked at, or the deadline. */
static void wait_for_children(const sigset_t *child_ended, const struct request *requests, int count, long deadline)
{
	long left = deadline - now_ms();
	struct timespec wait;

	/* A single one holds up nobody. */
	if (count > 1)
		left = left < LOOK_MS ? left : LOOK_MS;
	for (int i = 0; i < count; i++)
		if (requests[i].again && requests[i].again - now_ms() < left)
			left = requests[i].again - now_ms();
	if (left < 0)
		left = 0;
	wait = (struct timespec){ .tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000L };
	sigtimedwait(child_ended, NULL, &wait);
}

/* Takes note of a child that has ended. */
static void reap(struct request *requests, int count, int number, const struct manner *manner, struct shared *shared,
		 long started, long *first)
{
	struct request *request = &requests[number];

	request->child = 0;
	if (shared->reports[number].stage == STAGE_DONE) {
		if (manner->socket < 0)
			admit(requests, count, request);
		else
			request->mounted = true;
		if (!*first)
			*first = now_ms();
		return;
	}
	if (request->directory) {
		umount2(request->directory, MNT_DETACH); /* it may have been killed after it was mounted */
		if (*first || !request->held_up)
			rmdir(request->directory);
	}
	if (request->held_up && !*first) {
		request->wary = true;
		request->again = now_ms() + AGAIN_MS;
		return;
	}
	explain(request, &shared->reports[number], now_ms() - started);
}

/* Mounts them all, or until the deadline; how many are mounted. */
static int mount_all(struct request *requests, int count, const struct manner *manner, long seconds)
{
	const long started = now_ms(), deadline = started + seconds * 1000;
	struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	sigset_t child_ended;
	long first = 0;
	int mounted = 0;
	bool running = true;

	if (shared == MAP_FAILED) {
		perror("nfsmount");
		return 0;
	}
	sigemptyset(&child_ended);
	sigaddset(&child_ended, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child_ended, NULL);
	for (int i = 0; i < count; i++)
		if (!requests[i].same)
			begin(&requests[i], manner, deadline, shared, i);
	while (running) {
		pid_t ended;
		int status;

		wait_for_children(&child_ended, requests, count, deadline);
		while ((ended = waitpid(-1, &status, WNOHANG)) > 0)
			for (int i = 0; i < count; i++)
				if (requests[i].child == ended)
					reap(requests, count, i, manner, shared, started, &first);
		cut_short(requests, count, shared, first);
		running = false;
		for (int i = 0; i < count; i++) {
			struct request *request = &requests[i];
			const bool late = first || now_ms() >= deadline;

			if (request->again && late) {
				explain(request, &shared->reports[i], now_ms() - started);
				request->again = 0;
			} else if (request->again && now_ms() >= request->again) {
				begin(request, manner, deadline, shared, i);
			} else if (request->child && now_ms() >= deadline) {
				kill(request->child, SIGKILL); /* it ends at once */
			}
			running = running || request->child || request->again;
		}
	}
	for (int i = 0; i < count; i++)
		mounted += requests[i].mounted;
	return mounted;
}

static int usage(void)
{
	fprintf(stderr, "usage: nfsmount -o OPTIONS [-t SECONDS] [-a NAME]... [-l LIST] SOURCE DIRECTORY [SOURCE DIRECTORY]...\n"
			"       nfsmount -o OPTIONS [-t SECONDS] -f SOCKET SOURCE\n");
	return 2;
}

int main(int argc, char **argv)
{
	struct request requests[MAX_SERVERS] = { 0 };
	struct manner manner = { .options = "", .socket = -1 };
	const char *list = NULL;
	long seconds = 15;
	int count = 0, option, mounted;

	while ((option = getopt(argc, argv, "o:t:a:l:f:")) != -1)
		switch (option) {
		case 'o': manner.options = optarg; break;
		case 't': seconds = atol(optarg); break;
		case 'l': list = optarg; break;
		case 'f': manner.socket = atoi(optarg); break;
		case 'a':
			if (ahead_count == MAX_AHEAD || !*optarg)
				return 2;
			ahead[ahead_count++] = optarg;
			break;
		default: return 2;
		}
	if (manner.socket >= 0) {
		if (argc - optind != 1)
			return usage();
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		requests[count++] = (struct request){ .source = argv[optind], .wary = true };
	} else {
		if (optind >= argc || (argc - optind) % 2)
			return usage();
		for (; optind < argc; optind += 2)
			if (count < MAX_SERVERS)
				requests[count++] = (struct request){ .source = argv[optind], .directory = argv[optind + 1] };
			else
				printf("%s: there are %d servers without it, as many as there may be\n", argv[optind], count);
	}
	if (split_options(manner.options, manner.data, sizeof manner.data, &manner.flags)) {
		printf("%s: too many mount options\n", manner.options);
		return 1;
	}
	read_sources(requests, count);
	/* What is told of a server shall stand behind what is wrong with the list. */
	fflush(stdout);
	mounted = mount_all(requests, count, &manner, seconds);
	if (list && write_list(list, requests, count, &manner))
		fprintf(stderr, "nfsmount: cannot write %s: %s\n", list, strerror(errno));
	return mounted ? 0 : 1;
}
