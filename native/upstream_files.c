/* Files of servers that are kept open, until the server is mounted anew or removed. */
#define _GNU_SOURCE
#include "upstream_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int orion_upstreams_open_cached(struct orion_upstreams *all, uint32_t number, const char *path, int more)
{
	pthread_mutex_lock(&all->lock);
	const int root = all->servers[number].fd;

	pthread_mutex_unlock(&all->lock);
	const int fd = openat(root, path, ORION_READ_FLAGS | more);

	return fd < 0 ? -errno : fd;
}

int orion_upstreams_open(struct orion_upstreams *all, uint32_t number, const char *path, int more)
{
	const bool direct = orion_upstreams_direct(all, number);
	int fd = -EINVAL;

	if (direct)
		fd = orion_upstreams_open_cached(all, number, path, more | O_DIRECT);
	return fd == -EINVAL ? orion_upstreams_open_cached(all, number, path, more) : fd;
}

void orion_kept_file_init(struct orion_kept_file *kept)
{
	for (uint32_t server = 0; server < ORION_SERVERS_MAX; server++) {
		kept->fd[server] = -1;
		kept->mount[server] = 0;
	}
}

void orion_kept_file_close(struct orion_kept_file *kept)
{
	for (uint32_t server = 0; server < ORION_SERVERS_MAX; server++)
		if (kept->fd[server] >= 0)
			close(kept->fd[server]);
}

/* Locked. */
static int kept_fd(const struct orion_server *server, const struct orion_kept_file *kept)
{
	return kept->mount[server->number] == server->mount ? kept->fd[server->number] : -1;
}

int orion_upstreams_kept(struct orion_upstreams *all, uint32_t number, const struct orion_kept_file *kept)
{
	pthread_mutex_lock(&all->lock);
	const int fd = kept_fd(&all->servers[number], kept);

	pthread_mutex_unlock(&all->lock);
	return fd;
}

int orion_upstreams_keep(struct orion_upstreams *all, uint32_t number, struct orion_kept_file *kept, const char *path,
			 int more)
{
	struct orion_server *server = &all->servers[number];

	pthread_mutex_lock(&all->lock);
	const uint32_t mount = server->mount;
	int fd = kept_fd(server, kept);

	pthread_mutex_unlock(&all->lock);
	if (fd >= 0)
		return fd;
	const int opened = orion_upstreams_open(all, number, path, more);

	if (opened < 0)
		return opened;
	pthread_mutex_lock(&all->lock);
	fd = kept_fd(server, kept);
	/* It was mounted anew meanwhile: what was opened may be the old one's, and whoever is next opens another. */
	const bool late = server->mount != mount;

	if (fd < 0 && !late) {
		if (kept->fd[number] >= 0)
			orion_server_retire(server, kept->fd[number]);
		kept->fd[number] = opened;
		kept->mount[number] = mount;
	} else if (late && fd < 0) {
		fd = -ESTALE;
	}
	pthread_mutex_unlock(&all->lock);
	if (fd == -1)
		return opened;
	/* Another thread was quicker. Closing may ask the server. */
	close(opened);
	return fd;
}

int orion_upstreams_reopen(struct orion_upstreams *all, uint32_t number, struct orion_kept_file *kept, const char *path,
			   int more)
{
	const int stale = orion_upstreams_kept(all, number, kept);
	const int fd = orion_upstreams_open(all, number, path, more);

	if (fd < 0)
		return fd;
	if (stale < 0) {
		/* It was mounted anew meanwhile. */
		close(fd);
		return orion_upstreams_keep(all, number, kept, path, more);
	}
	const int error = dup3(fd, stale, O_CLOEXEC) < 0 ? -errno : 0;

	close(fd);
	return error ? error : stale;
}

int orion_upstreams_borrow(struct orion_upstreams *all, uint32_t number, const struct orion_kept_file *kept,
			   struct orion_borrowed *borrowed)
{
	struct orion_server *server = &all->servers[number];

	pthread_mutex_lock(&all->lock);
	const int fd = kept_fd(server, kept);

	if (fd >= 0) {
		*borrowed = (struct orion_borrowed){server->borrowed, number, all->turn};
		server->borrowed = borrowed;
	}
	pthread_mutex_unlock(&all->lock);
	return fd;
}

void orion_upstreams_return(struct orion_upstreams *all, struct orion_borrowed *borrowed)
{
	struct orion_server *server = &all->servers[borrowed->server];

	pthread_mutex_lock(&all->lock);
	struct orion_borrowed **link = &server->borrowed;

	while (*link != borrowed)
		link = &(*link)->next;
	*link = borrowed->next;
	pthread_mutex_unlock(&all->lock);
}

void orion_server_retire(struct orion_server *server, int fd)
{
	struct orion_retired *retired = malloc(sizeof(*retired));

	/* Without memory it stays open: that is the lesser evil. */
	if (!retired)
		return;
	*retired = (struct orion_retired){server->retired, fd, ++server->all->turn};
	server->retired = retired;
}

struct orion_retired *orion_server_reap(struct orion_server *server)
{
	struct orion_retired *reaped = NULL, **link = &server->retired;
	uint64_t oldest = UINT64_MAX;

	if (!server->retired)
		return NULL;
	for (const struct orion_worker *worker = server->workers; worker; worker = worker->next)
		if (worker->busy && worker->since < oldest)
			oldest = worker->since;
	for (const struct orion_borrowed *borrowed = server->borrowed; borrowed; borrowed = borrowed->next)
		oldest = borrowed->since < oldest ? borrowed->since : oldest;
	while (*link) {
		struct orion_retired *retired = *link;

		if (retired->turn > oldest) {
			link = &retired->next;
			continue;
		}
		*link = retired->next;
		retired->next = reaped;
		reaped = retired;
	}
	return reaped;
}

void orion_retired_close(struct orion_retired *retired)
{
	while (retired) {
		struct orion_retired *next = retired->next;

		close(retired->fd);
		free(retired);
		retired = next;
	}
}

/* A kept file that is opened before anybody needs it. */
struct early {
	struct orion_job job; /* first: the upstreams' */
	struct orion_upstreams *all;
	struct orion_kept_file *kept;
	int more;
	char path[256];
};

static int run_early(struct orion_job *job, uint32_t server)
{
	const struct early *early = (struct early *)job;
	const int fd = orion_upstreams_keep(early->all, server, early->kept, early->path, early->more);

	return fd < 0 ? fd : 0;
}

static void finish_early(struct orion_job *job, int error)
{
	(void)job;
	(void)error;
}

static void drop_early(struct orion_job *job)
{
	free(job);
}

void orion_upstreams_keep_early(struct orion_upstreams *all, uint32_t number, struct orion_kept_file *kept,
				const char *path, int more)
{
	struct early *early = orion_upstreams_kept(all, number, kept) < 0 ? calloc(1, sizeof(*early)) : NULL;

	if (!early)
		return;
	early->job = (struct orion_job){.run = run_early, .finish = finish_early, .drop = drop_early};
	early->all = all;
	early->kept = kept;
	early->more = more;
	snprintf(early->path, sizeof(early->path), "%s", path);
	orion_upstreams_submit(all, number, &early->job);
}
