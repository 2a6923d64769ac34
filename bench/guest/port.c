/* The virtio port: everything that the guest says leaves by it, in the protocol that stands in guest.c. */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The only port of the only virtio-serial device that the bench gives a guest. */
static const char PORT[] = "/dev/vport0p1";
enum { FILE_LIMIT = 1 << 20 };

long long now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/*
 * Sends all bytes. Without O_NONBLOCK the driver would spin until the host has taken them, on the guest's clock.
 * Returns 0, or the negative errno with which the port gave up.
 */
int send_bytes(const void *data, size_t length)
{
	int port = -1;

	for (int attempt = 0; attempt < 1000; attempt++) {
		port = open(PORT, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
		if (port >= 0 || errno != EBUSY)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	if (port < 0)
		return -errno;

	int result = 0;
	while (length > 0) {
		ssize_t written = write(port, data, length);
		if (written > 0) {
			data = (const char *)data + written;
			length -= (size_t)written;
		} else if (errno == EAGAIN) {
			poll(&(struct pollfd){ .fd = port, .events = POLLOUT }, 1, 1000);
		} else if (errno != EINTR) {
			result = -errno;
			break;
		}
	}
	close(port);
	return result;
}

void send_line(const char *format, ...)
{
	char line[LINE_LIMIT];
	va_list arguments;

	va_start(arguments, format);
	int length = vsnprintf(line, sizeof(line) - 1, format, arguments);
	va_end(arguments);
	if (length < 0)
		return;
	if (length > (int)sizeof(line) - 2)
		length = (int)sizeof(line) - 2;
	for (int i = 0; i < length; i++)
		if (line[i] == '\n')
			line[i] = ' ';
	line[length] = '\n';
	int error = send_bytes(line, (size_t)length + 1);
	if (error != 0)
		fprintf(stderr, "bench: %s: %s\n", PORT, strerror(-error));
}

void send_mark(const char *name, long long ns)
{
	send_line("mark %s %lld", name, ns);
}

/* Reads fd to its end into buffer; returns the length, cut off at size. */
size_t read_all(int fd, char *buffer, size_t size)
{
	size_t length = 0;

	while (length < size) {
		ssize_t got = read(fd, buffer + length, size - length);
		if (got > 0)
			length += (size_t)got;
		else if (got == 0 || errno != EINTR)
			break;
	}
	return length;
}

void send_content(const char *name, int fd)
{
	static char buffer[FILE_LIMIT];
	size_t length = read_all(fd, buffer, sizeof(buffer) - 1);

	buffer[length] = '\n';
	send_line("file %s %zu", name, length);
	send_bytes(buffer, length + 1);
}

void send_file(const char *name, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	send_content(name, fd);
	close(fd);
}
