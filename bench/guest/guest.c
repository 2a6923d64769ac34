/*
 * The bench's hand inside the guest: time stamps in nanoseconds (busybox has hundredths of a second), the workload's
 * verdict and the node's statistics, all sent over a virtio port. Static, and without a path of its own, because it
 * runs before there is a root and afterwards in roots of any kind.
 *
 *   guest mark NAME          send a time stamp
 *   guest fail MESSAGE       send the verdict "failed" and power the guest off
 *   guest run PROGRAM ARG..  run the workload, send its output, its verdict and the statistics, power off
 *   guest say WORDS..        send a line for the log
 *   guest off                power off
 *   guest reached POINT      tell the referee, and wait until it lets the boot go on; exit code 1: there is none
 *   guest referee, probe, reset, kill-daemon   what a fault takes: referee.c, probe.c, reset.c
 *
 * The protocol is lines: "mark NAME NANOSECONDS", "log TEXT", "verdict ok", "verdict failed TEXT", and
 * "file NAME LENGTH" followed by that many bytes and a newline. bench/qemu.py reads it.
 */
#define _GNU_SOURCE
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char CONTROL[] = "/run/orion/control.sock";
enum { FILE_LIMIT = 1 << 20, TRACE_LIMIT = 1 << 28 };

/* The answer of the cache, if there is one, to an op: a descriptor to be read to its end, or -1. It asks no server, but
 * what answers is only imported now. */
static int ask_cache(const char *root, const char *op)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const struct timeval deadline = { .tv_sec = 10 };
	char request[64];
	int length = snprintf(request, sizeof(request), "{\"op\":\"%s\"}\n", op);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s%s", root, CONTROL);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof(deadline));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &deadline, sizeof(deadline));
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 &&
	    write(fd, request, (size_t)length) == length)
		return fd;
	close(fd);
	return -1;
}

void send_cache_status(const char *root)
{
	int fd = ask_cache(root, "status");

	if (fd < 0)
		return;
	send_content("cache", fd);
	close(fd);
}

/* What the cache has recorded: the bytes behind the first line of its answer; none if it records nothing. */
static void send_trace(void)
{
	int fd = ask_cache("", "trace");
	char *buffer = NULL;
	size_t length = 0, room = 0;

	if (fd < 0)
		return;
	while (length == room && room < TRACE_LIMIT) {
		char *grown = realloc(buffer, (room ? 2 * room : FILE_LIMIT) + 1);
		if (!grown)
			break;
		buffer = grown;
		room = room ? 2 * room : FILE_LIMIT;
		length += read_all(fd, buffer + length, room - length);
	}
	close(fd);
	char *bytes = buffer ? memchr(buffer, '\n', length) : NULL;
	if (bytes && ++bytes < buffer + length) {
		size_t count = (size_t)(buffer + length - bytes);
		bytes[count] = '\n';
		send_line("file trace %zu", count);
		send_bytes(bytes, count + 1);
	}
	free(buffer);
}

/* The cache daemon is known by its command line, wherever in it the name stands: argv[0] is overwritten. */
static bool is_daemon(const char *pid)
{
	char path[64], text[512];

	snprintf(path, sizeof(path), "/proc/%.20s/cmdline", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	size_t length = read_all(fd, text, sizeof(text));
	close(fd);
	return memmem(text, length, "orioncache", strlen("orioncache")) != NULL;
}

static void send_daemon(void)
{
	DIR *directory = opendir("/proc");
	struct dirent *entry;

	if (!directory)
		return;
	while ((entry = readdir(directory))) {
		if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || !is_daemon(entry->d_name))
			continue;
		char path[64];
		snprintf(path, sizeof(path), "/proc/%.20s/status", entry->d_name);
		send_file("daemon", path);
	}
	closedir(directory);
}

static void send_statistics(void)
{
	send_file("nfs", "/proc/net/rpc/nfs");
	send_file("mountstats", "/proc/self/mountstats");
	send_file("meminfo", "/proc/meminfo");
	send_file("nbd", "/sys/block/nbd0/stat");
	send_cache_status("");
	send_daemon();
	/* Last: the daemon takes memory to put it together. */
	send_trace();
}

_Noreturn void power_off(void)
{
	reboot(RB_POWER_OFF);
	/* Only without the right to: the host's deadline ends the guest then. */
	_exit(1);
}

/* Sends what the workload printed, line by line; returns false at the end of it. */
static bool forward(int fd)
{
	static char line[LINE_LIMIT / 2];
	static size_t length;
	char byte[512];
	ssize_t got = read(fd, byte, sizeof(byte));

	if (got <= 0 && length > 0) {
		send_line("log %.*s", (int)length, line);
		length = 0;
	}
	for (ssize_t i = 0; i < got; i++) {
		if (byte[i] != '\n')
			line[length++] = byte[i];
		if (length == sizeof(line) || (byte[i] == '\n' && length > 0)) {
			send_line("log %.*s", (int)length, line);
			length = 0;
		}
	}
	return got > 0;
}

static int start(char **command, const sigset_t *old_mask, int *ret_output, pid_t *ret_child)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	pid_t child = fork();
	if (child < 0)
		return -errno;
	if (child == 0) {
		sigprocmask(SIG_SETMASK, old_mask, NULL);
		/* The workload's own descriptions must block as it expects. */
		fcntl(ends[1], F_SETFL, 0);
		dup2(ends[1], STDOUT_FILENO);
		dup2(ends[1], STDERR_FILENO);
		execv(command[0], command);
		fprintf(stderr, "cannot run %s: %s\n", command[0], strerror(errno));
		_exit(127);
	}
	close(ends[1]);
	*ret_output = ends[0];
	*ret_child = child;
	return 0;
}

/* Waits for the child itself, not for the end of its output: services that it started may keep that open. */
static int wait_for(pid_t child, int output, int signals)
{
	struct pollfd events[] = { { .fd = signals, .events = POLLIN }, { .fd = output, .events = POLLIN } };
	int status = 0;

	for (;;) {
		poll(events, 2, -1);
		struct signalfd_siginfo info;
		if (events[0].revents && read(signals, &info, sizeof(info)) > 0) {
			pid_t ended = waitpid(child, &status, WNOHANG);
			if (ended == child)
				return status;
		}
		if (events[1].revents && !forward(output))
			events[1].fd = -1;
	}
}

static int run(char **command)
{
	sigset_t child_signal, old_mask;
	pid_t child = -1;
	int output = -1;

	send_mark("workload", now_ns());
	sigemptyset(&child_signal);
	sigaddset(&child_signal, SIGCHLD);
	signal(SIGCHLD, SIG_DFL);
	sigprocmask(SIG_BLOCK, &child_signal, &old_mask);
	int signals = signalfd(-1, &child_signal, SFD_CLOEXEC | SFD_NONBLOCK);
	int error = signals < 0 ? -errno : start(command, &old_mask, &output, &child);
	if (error < 0) {
		send_line("verdict failed the workload could not be started: %s", strerror(-error));
		power_off();
	}
	int status = wait_for(child, output, signals);
	long long ready = now_ns();

	while (forward(output))
		;
	if (status == 0) {
		send_mark("ready", ready);
		reached("ready");
		send_statistics();
		send_line("verdict ok");
	} else {
		reached("failed");
		send_statistics();
		if (WIFSIGNALED(status))
			send_line("verdict failed the workload was killed by signal %d", WTERMSIG(status));
		else
			send_line("verdict failed the workload exited with %d", WEXITSTATUS(status));
	}
	power_off();
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "mark") == 0) {
		send_mark(argv[2], now_ns());
		return 0;
	}
	if (argc == 3 && strcmp(argv[1], "say") == 0) {
		send_line("log %s", argv[2]);
		return 0;
	}
	if (argc == 3 && strcmp(argv[1], "fail") == 0) {
		reached("failed");
		send_line("verdict failed %s", argv[2]);
		power_off();
	}
	if (argc == 2 && strcmp(argv[1], "off") == 0)
		power_off();
	if (argc >= 3 && strcmp(argv[1], "run") == 0)
		run(argv + 2);
	if (argc == 3 && strcmp(argv[1], "reached") == 0)
		return !reached(argv[2]);
	if (argc == 2 && strcmp(argv[1], "referee") == 0)
		return referee();
	if (argc == 2 && strcmp(argv[1], "probe") == 0)
		return probe();
	if (argc == 2 && strcmp(argv[1], "reset") == 0)
		return reset_connections();
	if (argc == 2 && strcmp(argv[1], "kill-daemon") == 0)
		return kill_daemon();
	fprintf(stderr, "usage: guest mark NAME | say TEXT | fail MESSAGE | run PROGRAM [ARGUMENT...] | off | reached POINT\n"
		"       guest referee | probe | reset | kill-daemon\n");
	return 2;
}
