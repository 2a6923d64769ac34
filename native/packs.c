/* Descriptors of packs, by pack and server. */
#define _GNU_SOURCE
#include "packs.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* For all but packs. */
#define OTHER_DESCRIPTORS 256
#define PACK_PATH sizeof("packs/0123456789abcdef0123456789abcdef.pack")

struct files {
	int fd[ORION_SERVERS_MAX]; /* -1: not open */
};

struct orion_packs {
	const struct orion_manifest *manifest;
	struct orion_upstreams *upstreams;
	pthread_mutex_t lock; /* of what follows; never held while a file is opened */
	struct files *files;
};

static void allow_descriptors(rlim_t wanted)
{
	struct rlimit limit, more;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= wanted)
		return;
	more = (struct rlimit){wanted, limit.rlim_max > wanted ? limit.rlim_max : wanted};
	if (setrlimit(RLIMIT_NOFILE, &more)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

int orion_packs_create(const struct orion_manifest *manifest, struct orion_upstreams *upstreams, struct orion_packs **ret)
{
	struct orion_packs *packs = calloc(1, sizeof(*packs));

	if (!packs)
		return -ENOMEM;
	packs->files = malloc((manifest->pack_count + 1) * sizeof(*packs->files));
	if (!packs->files) {
		free(packs);
		return -ENOMEM;
	}
	memset(packs->files, 0xff, manifest->pack_count * sizeof(*packs->files));
	packs->manifest = manifest;
	packs->upstreams = upstreams;
	pthread_mutex_init(&packs->lock, NULL);
	allow_descriptors((rlim_t)manifest->pack_count * orion_upstreams_count(upstreams) + OTHER_DESCRIPTORS);
	*ret = packs;
	return 0;
}

void orion_packs_destroy(struct orion_packs *packs)
{
	if (!packs)
		return;
	for (uint32_t pack = 0; pack < packs->manifest->pack_count; pack++)
		for (uint32_t server = 0; server < ORION_SERVERS_MAX; server++)
			if (packs->files[pack].fd[server] >= 0)
				close(packs->files[pack].fd[server]);
	pthread_mutex_destroy(&packs->lock);
	free(packs->files);
	free(packs);
}

static int open_anew(const struct orion_packs *packs, uint32_t pack, uint32_t server)
{
	char path[PACK_PATH], *end = stpcpy(path, "packs/");

	for (int i = 0; i < 16; i++)
		end += sprintf(end, "%02x", packs->manifest->packs[pack].id[i]);
	strcpy(end, ".pack");
	return orion_upstreams_open(packs->upstreams, server, path, 0);
}

int orion_packs_opened(struct orion_packs *packs, uint32_t pack, uint32_t server)
{
	pthread_mutex_lock(&packs->lock);
	const int fd = packs->files[pack].fd[server];

	pthread_mutex_unlock(&packs->lock);
	return fd;
}

int orion_packs_open(struct orion_packs *packs, uint32_t pack, uint32_t server)
{
	int fd = orion_packs_opened(packs, pack, server);

	if (fd >= 0)
		return fd;
	fd = open_anew(packs, pack, server);
	if (fd < 0)
		return fd;
	pthread_mutex_lock(&packs->lock);
	int *kept = &packs->files[pack].fd[server];

	if (*kept >= 0) {
		close(fd);
		fd = *kept;
	} else {
		*kept = fd;
	}
	pthread_mutex_unlock(&packs->lock);
	return fd;
}

int orion_packs_reopen(struct orion_packs *packs, uint32_t pack, uint32_t server, int stale)
{
	const int fd = open_anew(packs, pack, server);

	if (fd < 0)
		return fd;
	const int error = dup3(fd, stale, O_CLOEXEC) < 0 ? -errno : 0;

	close(fd);
	return error;
}
