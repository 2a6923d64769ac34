/* nfsmount: mount NFS directories at the same time, with a deadline, and say in words why one failed.
 *
 *   nfsmount -o OPTIONS [-t SECONDS] [-a NAME]... SOURCE DIRECTORY [SOURCE DIRECTORY]...
 *
 * SOURCE is HOST:/PATH, HOST a name, an IPv4 address or an IPv6 address in []. DIRECTORY is made, and removed again if
 * the mount fails. Exit code 0: at least one is mounted; 1: none. Standard output has one line for each that failed.
 *
 * mount(2) of an NFS that does not answer can wait for minutes, so each runs in a process of its own, which is killed
 * at the deadline (the wait in the kernel is killable). Once one server is mounted the others get GRACE_MS more: a
 * dead spare must not hold up a boot.
 *
 * -a: what will be wanted of the server that is mounted first, while the others still are being mounted. A file's bytes
 * come into the page cache; of a NAME that ends with a slash, that it is there and may be searched. Processes that
 * nobody waits for do that; what they do not find, nobody will.
 *
 * Each connection is tried before the kernel mounts: it does not set up one client while another waits for its server
 * (nfs4_match_client() in fs/nfs/nfs4client.c), so a dead server would hold up the mounts of all others.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_SERVERS = 16, MAX_AHEAD = 8, GRACE_MS = 1000, RETRY_MS = 100, TEXT = 1024 };
/* How long a server waits for those before it on the command line, which would be mounted first if all are as quick. */
enum { HEAD_START_US = 5000, HEAD_START_LOOK_US = 250 };
/* Of a file that is read ahead; and how much of it the kernel can be told at once (it forgets what is beyond its readahead). */
enum { AHEAD_BYTES = 8 << 20, ADVICE_BYTES = 128 << 10 };

enum stage { STAGE_START, STAGE_RESOLVE, STAGE_CONNECT, STAGE_MOUNT, STAGE_DONE };

/* What a child says about its server, in memory shared with the parent. */
struct report {
	_Atomic enum stage stage; /* what it is doing, or did last */
	int error;        /* errno of the last attempt, or EAI_… for STAGE_RESOLVE; 0: none failed so far */
};

struct shared {
	_Atomic bool mounted; /* one is: nobody tries again */
	struct report reports[MAX_SERVERS];
};

struct request {
	const char *source, *directory;
	char host[256];
	const char *path;
	pid_t child;
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

/* Connects within the time left. Returns 0 or -errno; writes our address, as the server sees it, to clientaddr. */
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
	close(fd);
	return -error;
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

/* One attempt. Returns 0 or -1 with the report filled. */
static int attempt(const struct request *request, const char *options, unsigned long flags, long deadline,
		   struct shared *shared, int number)
{
	struct report *report = &shared->reports[number];
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *address;
	char port[16], server[64], client[64], data[TEXT + 160], source[TEXT];
	int error;

	report->stage = STAGE_RESOLVE;
	error = getaddrinfo(request->host, port_of(options, port, sizeof port), &hints, &address);
	if (!error)
		error = getnameinfo(address->ai_addr, address->ai_addrlen, server, sizeof server, NULL, 0, NI_NUMERICHOST);
	if (error) {
		report->error = error;
		return -1;
	}
	report->stage = STAGE_CONNECT;
	error = try_connect(address, deadline, client, sizeof client);
	if (error) {
		report->error = -error;
		return -1;
	}
	give_head_start(shared, number);
	report->stage = STAGE_MOUNT;
	snprintf(data, sizeof data, "%s%saddr=%s,clientaddr=%s", options, *options ? "," : "", server, client);
	snprintf(source, sizeof source, "%s", request->source);
	if (mount(source, request->directory, "nfs4", flags, data) < 0) {
		report->error = errno;
		return -1;
	}
	report->stage = STAGE_DONE;
	report->error = 0;
	return 0;
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

static int serve(const struct request *request, const char *options, unsigned long flags, long deadline,
		 struct shared *shared, int number)
{
	while (attempt(request, options, flags, deadline, shared, number)) {
		if (!may_pass(&shared->reports[number]) || shared->mounted || now_ms() + RETRY_MS >= deadline)
			return 1;
		nanosleep(&(struct timespec){ .tv_nsec = RETRY_MS * 1000000L }, NULL);
	}
	if (!atomic_exchange(&shared->mounted, true))
		begin_ahead(request->directory);
	return 0;
}

static void explain(const struct request *request, const struct report *report, long waited_ms)
{
	const char *why = "no answer";

	if (report->stage == STAGE_RESOLVE && report->error)
		why = report->error == EAI_NONAME ? "no such host" : "the name cannot be resolved: is a name server reached?";
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
		default: why = strerror(report->error);
		}
	else if (report->stage == STAGE_MOUNT)
		why = "timed out: a connection stands, but NFS does not answer";
	else if (report->stage == STAGE_RESOLVE)
		why = "timed out: the name server does not answer";
	else if (report->stage == STAGE_CONNECT)
		why = "timed out: the server does not answer";
	printf("%s: %s (after %ld.%ld s)\n", request->source, why, waited_ms / 1000, waited_ms / 100 % 10);
}

int main(int argc, char **argv)
{
	struct request requests[MAX_SERVERS] = { 0 };
	const char *options = "";
	char data[TEXT];
	unsigned long flags;
	long seconds = 15, started = now_ms(), deadline;
	int count = 0, running = 0, mounted = 0, option;
	sigset_t child_ended;
	struct shared *shared;

	while ((option = getopt(argc, argv, "o:t:a:")) != -1)
		switch (option) {
		case 'o': options = optarg; break;
		case 't': seconds = atol(optarg); break;
		case 'a':
			if (ahead_count == MAX_AHEAD || !*optarg)
				return 2;
			ahead[ahead_count++] = optarg;
			break;
		default: return 2;
		}
	if (optind >= argc || (argc - optind) % 2 || (argc - optind) / 2 > MAX_SERVERS) {
		fprintf(stderr, "usage: nfsmount -o OPTIONS [-t SECONDS] [-a NAME]... SOURCE DIRECTORY [SOURCE DIRECTORY]...\n");
		return 2;
	}
	if (split_options(options, data, sizeof data, &flags)) {
		printf("%s: too many mount options\n", options);
		return 1;
	}
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED) {
		perror("nfsmount");
		return 1;
	}
	deadline = started + seconds * 1000;
	sigemptyset(&child_ended);
	sigaddset(&child_ended, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child_ended, NULL);

	for (; optind < argc; optind += 2, count++) {
		struct request *request = &requests[count];

		request->source = argv[optind];
		request->directory = argv[optind + 1];
		if (split_source(request)) {
			printf("%s: not of the form HOST:/PATH\n", request->source);
			continue;
		}
		if (mkdir(request->directory, 0755) < 0 && errno != EEXIST) {
			printf("%s: cannot make %s: %s\n", request->source, request->directory, strerror(errno));
			continue;
		}
		request->child = fork();
		if (!request->child)
			_exit(serve(request, data, flags, deadline, shared, count));
		if (request->child < 0)
			printf("%s: cannot fork: %s\n", request->source, strerror(errno));
		else
			running++;
	}
	while (running) {
		long left = deadline - now_ms();
		struct timespec wait = { .tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000L };
		int status;
		pid_t ended;

		if (left <= 0 || (sigtimedwait(&child_ended, NULL, &wait) < 0 && errno == EAGAIN)) {
			for (int i = 0; i < count; i++)
				if (requests[i].child > 0)
					kill(requests[i].child, SIGKILL);
			deadline = now_ms() + 60000; /* the killed ones end at once; this is only the loop's clock */
		}
		while (running && (ended = waitpid(-1, &status, WNOHANG)) > 0)
			for (int i = 0; i < count; i++)
				if (requests[i].child == ended) {
					requests[i].child = 0;
					running--;
					if (shared->reports[i].stage == STAGE_DONE) {
						mounted++;
						if (deadline > now_ms() + GRACE_MS)
							deadline = now_ms() + GRACE_MS;
					} else {
						explain(&requests[i], &shared->reports[i], now_ms() - started);
						rmdir(requests[i].directory);
					}
				}
	}
	return mounted ? 0 : 1;
}
