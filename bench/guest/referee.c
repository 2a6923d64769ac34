/*
 * guest referee: makes the fault of a boot when the boot has reached its point, and says at the end what the probe saw.
 * It is started before the node's init, in mount and network of its own side, and never touches the node's root: with
 * that hung it still ends the boot in time.
 *
 *   bench.fault=KIND:POINT:AFTER:FOR:SERVERS  ms after the point, ms that it lasts (0: to the end), 1+2; kind "none"
 *   bench.giveup=MS                           so long after the fault the node has to be ready
 *   bench.linger=MS                           so long the probe goes on when ready, and after the fault
 *
 * The boot tells it what it has reached by a socket without a path ("guest reached POINT"), and is answered when it
 * may go on: at once, or for "ready" and "failed" at the end of all.
 */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char NAME[] = "orion-referee"; /* of the socket */
static const char SCRIPT[] = "/bench/fault.sh";
enum { MS = 1000000, FLAP_MS = 500, CHECK_MS = 60000, SCRIPT_MS = 60000, STATUS_MS = 15000, TICK_MS = 10, LOOK_MS = 20 };
/* The probe hangs, and is not waited for, if its read has gone on for so long when the boot has ended. */
enum { HUNG_MS = 5000 };

static const int64_t NEVER = INT64_MAX;

static struct {
	char kind[32], point[32], servers[64];
	int64_t after, lasts, giveup, linger; /* ns */
} rule = { .kind = "none" };

static int64_t begins = INT64_MAX, ends = INT64_MAX, flips = INT64_MAX; /* when; NEVER: not, or not yet, or it was */
static int64_t begun_at, last_event;
static bool is_on;
static struct findings *found;

static struct sockaddr_un address(socklen_t *ret_length)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };

	memcpy(name.sun_path + 1, NAME, sizeof NAME - 1);
	*ret_length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + sizeof NAME);
	return name;
}

bool reached(const char *point)
{
	socklen_t length;
	struct sockaddr_un name = address(&length);
	char answer;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool heard = fd >= 0 && connect(fd, (const struct sockaddr *)&name, length) == 0;

	if (heard && write(fd, point, strlen(point)) > 0)
		while (read(fd, &answer, 1) < 0 && errno == EINTR)
			;
	if (fd >= 0)
		close(fd);
	return heard;
}

static int parse(void)
{
	static char line[LINE_LIMIT];
	long long after = 0, lasts = 0, giveup = 0, linger = 0;
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	read_all(fd, line, sizeof line - 1);
	close(fd);
	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
		sscanf(word, "bench.fault=%31[^:]:%31[^:]:%lld:%lld:%63[0-9+]", rule.kind, rule.point, &after, &lasts, rule.servers);
		sscanf(word, "bench.giveup=%lld", &giveup);
		sscanf(word, "bench.linger=%lld", &linger);
	}
	rule.after = after * MS;
	rule.lasts = lasts * MS;
	rule.giveup = giveup * MS;
	rule.linger = linger * MS;
	return 0;
}

/* Waits for a child; false if it had to be killed, or failed. */
static bool ended_well(pid_t child, int64_t within_ms)
{
	int64_t until = now_ns() + within_ms * MS;
	int status = 0;

	while (child > 0) {
		pid_t done = waitpid(child, &status, WNOHANG);
		if (done == child)
			return WIFEXITED(status) && WEXITSTATUS(status) == 0;
		if (done < 0 && errno != EINTR)
			return false;
		if (now_ns() > until) {
			kill(child, SIGKILL);
			until = NEVER;
		}
		nanosleep(&(struct timespec){ .tv_nsec = MS }, NULL);
	}
	return false;
}

static bool is_lie(void)
{
	return strcmp(rule.kind, "corrupt") == 0 || strcmp(rule.kind, "zeros") == 0;
}

/* Gets at the files that will be damaged. Returns 0 or -errno. */
static int prepare(void)
{
	char servers[sizeof rule.servers], path[sizeof rule.servers + 16];
	int error = 0;

	memcpy(servers, rule.servers, sizeof servers);
	for (char *server = strtok(servers, "+"); server && error == 0; server = strtok(NULL, "+")) {
		snprintf(path, sizeof path, "/bench/copy/%s", server);
		error = prepare_damage(path);
	}
	return error;
}

/* Begins or ends the fault, at each server: most are the script's work. */
static void make(const char *what)
{
	char servers[sizeof rule.servers];

	if (is_lie()) {
		damage(strcmp(rule.kind, "zeros") == 0);
		return;
	}
	memcpy(servers, rule.servers, sizeof servers);
	for (char *server = strtok(servers, "+"); server; server = strtok(NULL, "+")) {
		pid_t child = fork();
		if (child == 0) {
			execl(SCRIPT, SCRIPT, rule.kind, what, server, (char *)NULL);
			_exit(127);
		}
		if (ended_well(child, SCRIPT_MS))
			continue;
		send_line("verdict failed the bench could not %s the fault %s at server %s", what, rule.kind, server);
		power_off();
	}
}

static void begin(void)
{
	begins = NEVER;
	begun_at = now_ns();
	send_mark("fault", begun_at);
	make("begin");
	send_mark("fault-made", now_ns());
	is_on = true;
	last_event = now_ns();
	if (rule.lasts > 0)
		ends = begun_at + rule.lasts;
	if (strcmp(rule.kind, "flap") == 0)
		flips = last_event + FLAP_MS * MS;
}

static void end(void)
{
	if (is_on)
		make("end");
	is_on = false;
	ends = flips = NEVER;
	last_event = now_ns();
	send_mark("fault-end", last_event);
}

static void flip(void)
{
	make(is_on ? "end" : "begin");
	is_on = !is_on;
	flips = now_ns() + FLAP_MS * MS;
}

/* Text from a path or an errno, as a JSON string. */
static void quote(FILE *file, const char *text)
{
	fputc('"', file);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			fputc('\\', file);
		if ((unsigned char)*text >= ' ')
			fputc(*text, file);
	}
	fputc('"', file);
}

/* Sends what the probe saw. A read that it still waits for is a stall that lasts to this moment. */
static void send_findings(void)
{
	char *text = NULL;
	size_t length = 0;
	int64_t since = found->since, longest = found->longest, longest_at = found->longest_at;
	uint32_t stalls = found->stalls < STALLS ? found->stalls : STALLS;
	int64_t now = now_ns();
	if (since != 0 && now - since > longest) {
		longest = now - since;
		longest_at = since;
	}
	FILE *file = open_memstream(&text, &length);
	if (!file)
		return;
	fprintf(file, "{\"started\":%s,\"finished\":%s,\"reads\":%lld,\"errors\":%lld,\"wrong_bytes\":%lld,",
		found->started ? "true" : "false", found->finished ? "true" : "false", (long long)found->reads,
		(long long)found->errors, (long long)found->wrong_bytes);
	fprintf(file, "\"checked_bytes\":%lld,\"checked_files\":%lld,\"longest_ns\":%lld,\"longest_at_ns\":%lld,",
		(long long)found->checked_bytes, (long long)found->checked_files, (long long)longest, (long long)longest_at);
	fprintf(file, "\"waiting\":%s,\"stalls\":[", since != 0 ? "true" : "false");
	for (uint32_t i = 0; i < stalls; i++)
		fprintf(file, "%s[%lld,%lld]", i ? "," : "", (long long)found->stall[i].at, (long long)found->stall[i].ns);
	if (since != 0)
		fprintf(file, "%s[%lld,%lld]", stalls ? "," : "", (long long)since, (long long)(now - since));
	fputs("],\"first_error\":", file);
	quote(file, found->first_error);
	fputs(",\"first_wrong\":", file);
	quote(file, found->first_wrong);
	fputs("}", file);
	fclose(file);
	send_line("file probe %zu", length);
	text[length] = '\n'; /* where the terminating zero is */
	send_bytes(text, length + 1);
	free(text);
}

/* Ends the probe, and sends what it saw. */
static void settle(bool wait)
{
	int64_t until = now_ns() + (int64_t)CHECK_MS * MS;

	found->stop = true;
	while (wait && found->started && !found->finished && now_ns() < until) {
		int64_t since = found->since;
		if (since != 0 && now_ns() - since > (int64_t)HUNG_MS * MS)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = TICK_MS * MS }, NULL);
	}
	send_findings();
}

/* A node whose programs turn to garbage panics, or switches off: then nobody settles. So bad news go out at once. */
static void tell_bad_news(void)
{
	static int64_t told;
	int64_t bad = found->errors + found->wrong_bytes;

	if (bad > told)
		send_findings();
	told = bad;
}

/* The node's root may hang whoever looks at it: so a child asks the cache. */
static void send_status(void)
{
	pid_t child = fork();

	if (child == 0) {
		send_cache_status("/proc/1/root");
		_exit(0);
	}
	ended_well(child, STATUS_MS);
}

static _Noreturn void give_up(void)
{
	settle(false);
	send_status();
	send_line("verdict failed not ready within %lld s of the fault", (long long)(rule.giveup / MS / 1000));
	power_off();
}

/* One message: what was reached. Returns the connection if it shall wait, or -1. */
static int hear(int listener, bool *ret_ok)
{
	char point[64] = "";
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0 || read(fd, point, sizeof point - 1) <= 0) {
		if (fd >= 0)
			close(fd);
		return -1;
	}
	bool is_end = strcmp(point, "ready") == 0 || strcmp(point, "failed") == 0;
	if (strcmp(point, rule.point) == 0 || (strcmp(rule.point, "idle") == 0 && strcmp(point, "ready") == 0))
		begins = now_ns() + rule.after;
	if (begins <= now_ns())
		begin();
	if (is_end) {
		*ret_ok = strcmp(point, "ready") == 0;
		return fd;
	}
	if (write(fd, "", 1) < 0)
		send_line("log the boot does not wait for the referee: %s", strerror(errno));
	close(fd);
	return -1;
}

static int64_t least(int64_t one, int64_t other)
{
	return one < other ? one : other;
}

int referee(void)
{
	socklen_t length;
	struct sockaddr_un name = address(&length);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int fd = open(FINDINGS, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int waiting = -1;
	bool is_ready = false;
	int64_t ready_at = NEVER;

	if (parse() < 0 || (is_lie() && (errno = -prepare()) != 0))
		goto failed;
	if (fd < 0 || ftruncate(fd, sizeof *found) < 0 ||
	    bind(listener, (const struct sockaddr *)&name, length) < 0 || listen(listener, 8) < 0)
		goto failed;
	found = mmap(NULL, sizeof *found, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (found == MAP_FAILED)
		goto failed;
	setsid();
	for (;;) {
		int64_t giveup = begun_at && waiting < 0 ? begun_at + rule.giveup : NEVER;
		bool is_over = begins == NEVER && ends == NEVER;
		int64_t over = waiting < 0 || !is_over ? NEVER :
			       !is_ready ? now_ns() :
			       (ready_at > last_event ? ready_at : last_event) + rule.linger;
		int64_t now = now_ns();
		/* Looked at now and then while bad news may come. */
		int64_t look = giveup == NEVER ? NEVER : now + LOOK_MS * MS;
		int64_t next = least(least(least(begins, ends), least(flips, giveup)), least(over, look));
		if (over <= now)
			break;
		if (ends <= now)
			end();
		else if (begins <= now)
			begin();
		else if (flips <= now)
			flip();
		else if (giveup <= now)
			give_up();
		else {
			struct pollfd event = { .fd = listener, .events = POLLIN };
			struct timespec left = { .tv_sec = (next - now) / 1000000000, .tv_nsec = (next - now) % 1000000000 };
			int heard = ppoll(&event, 1, next == NEVER ? NULL : &left, NULL);
			tell_bad_news();
			if (heard > 0) {
				int end_of = hear(listener, &is_ready);
				if (end_of >= 0) {
					waiting = end_of;
					ready_at = now_ns();
					if (!is_ready)
						begins = ends = NEVER;
				}
			}
		}
	}
	settle(true);
	if (write(waiting, "", 1) < 0)
		send_line("log the boot does not wait for the referee: %s", strerror(errno));
	/* The guest's helper has the last word. */
	for (;;)
		pause();
failed:
	send_line("verdict failed the bench's referee: %s", strerror(errno));
	power_off();
}
