/*
 * guest reset: every connection to the NFS server of the network namespace that this runs in is aborted: its client
 * gets an RST, the server lives on (sock_diag(7); the kernel's tcp_abort()).
 * guest kill-daemon: SIGKILL for the cache.
 */
#define _GNU_SOURCE
#include "guest.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NFS_PORT = 2049, ESTABLISHED = 1 << 1, MOST = 256 };

/* orioncache/node.py gives itself this command line. */
static const char CACHE[] = "@orioncache";

struct request {
	struct nlmsghdr header;
	struct inet_diag_req_v2 what;
};

static int send_request(int link, uint16_t type, uint16_t flags, const struct inet_diag_sockid *id)
{
	struct request request = {
		.header = { .nlmsg_len = sizeof request, .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags },
		.what = { .sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = ESTABLISHED },
	};

	if (id)
		request.what.id = *id;
	return send(link, &request, sizeof request, 0) < 0 ? -errno : 0;
}

/* The connections of the server. Returns how many, or a negative errno. */
static int list(int link, struct inet_diag_sockid *ret)
{
	static char answer[32768] __attribute__((aligned(8)));
	int count = 0;

	int error = send_request(link, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, NULL);
	while (error == 0) {
		ssize_t got = recv(link, answer, sizeof answer, 0);
		if (got < 0)
			return -errno;
		int left = (int)got;
		for (struct nlmsghdr *at = (struct nlmsghdr *)answer; NLMSG_OK(at, left); at = NLMSG_NEXT(at, left)) {
			if (at->nlmsg_type == NLMSG_DONE)
				return count;
			if (at->nlmsg_type == NLMSG_ERROR)
				return ((struct nlmsgerr *)NLMSG_DATA(at))->error;
			const struct inet_diag_msg *socket = NLMSG_DATA(at);
			if (ntohs(socket->id.idiag_sport) == NFS_PORT && count < MOST)
				ret[count++] = socket->id;
		}
	}
	return error;
}

int reset_connections(void)
{
	static struct inet_diag_sockid found[MOST];
	char answer[4096];
	int link = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	int count = link < 0 ? -errno : list(link, found);
	int error = count < 0 ? count : 0;

	for (int i = 0; i < count && error == 0; i++) {
		error = send_request(link, SOCK_DESTROY, NLM_F_ACK, &found[i]);
		if (error == 0 && recv(link, answer, sizeof answer, 0) >= (ssize_t)NLMSG_LENGTH(sizeof(int))) {
			error = ((struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)answer))->error;
			/* It has ended by itself. */
			error = error == -ENOENT ? 0 : error;
		}
	}
	if (error != 0)
		fprintf(stderr, "bench: connections cannot be reset: %s\n", strerror(-error));
	return error != 0;
}

/* The supervisor's name is another one. */
static bool is_cache(const char *pid)
{
	char path[64], text[512] = "";

	snprintf(path, sizeof path, "/proc/%.20s/cmdline", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	read_all(fd, text, sizeof text - 1);
	close(fd);
	return strcmp(text, CACHE) == 0;
}

int kill_daemon(void)
{
	DIR *directory = opendir("/proc");
	struct dirent *entry;
	int killed = 0;

	while (directory && (entry = readdir(directory)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && is_cache(entry->d_name))
			killed += kill(atoi(entry->d_name), SIGKILL) == 0;
	if (directory)
		closedir(directory);
	if (killed == 0)
		fprintf(stderr, "bench: there is no cache to be killed\n");
	return killed == 0;
}
