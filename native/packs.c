/* Descriptors of packs, by pack and server. */
#define _GNU_SOURCE
#include "packs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* For all but packs. */
#define OTHER_DESCRIPTORS 256
/* Servers that may be added later. */
#define MORE_SERVERS 4
/* Packs that are opened before they are needed: a release may have thousands, of which the largest have what is likely to
 * be read, and each open file costs its server memory. */
#define EARLY 8
#define PACK_PATH sizeof("packs/0123456789abcdef0123456789abcdef.pack")

struct orion_packs {
	const struct orion_manifest *manifest;
	struct orion_upstreams *upstreams;
	struct orion_kept_file *files;
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
	for (uint32_t pack = 0; pack < manifest->pack_count; pack++)
		orion_kept_file_init(&packs->files[pack]);
	packs->manifest = manifest;
	packs->upstreams = upstreams;
	allow_descriptors((rlim_t)(manifest->pack_count + 1) * (orion_upstreams_count(upstreams) + MORE_SERVERS) + OTHER_DESCRIPTORS);
	*ret = packs;
	return 0;
}

void orion_packs_destroy(struct orion_packs *packs)
{
	if (!packs)
		return;
	for (uint32_t pack = 0; pack < packs->manifest->pack_count; pack++)
		orion_kept_file_close(&packs->files[pack]);
	free(packs->files);
	free(packs);
}

static void name_pack(const struct orion_packs *packs, uint32_t pack, char ret[PACK_PATH])
{
	char *end = stpcpy(ret, "packs/");

	for (int i = 0; i < 16; i++)
		end += sprintf(end, "%02x", packs->manifest->packs[pack].id[i]);
	strcpy(end, ".pack");
}

int orion_packs_borrow(struct orion_packs *packs, uint32_t pack, uint32_t server, struct orion_borrowed *borrowed)
{
	return orion_upstreams_borrow(packs->upstreams, server, &packs->files[pack], borrowed);
}

int orion_packs_open(struct orion_packs *packs, uint32_t pack, uint32_t server)
{
	const int fd = orion_upstreams_kept(packs->upstreams, server, &packs->files[pack]);
	char path[PACK_PATH];

	if (fd >= 0)
		return fd;
	name_pack(packs, pack, path);
	return orion_upstreams_keep(packs->upstreams, server, &packs->files[pack], path, 0);
}

/* The largest, in this order; how many. */
static uint32_t largest(const struct orion_manifest *manifest, uint32_t ret[EARLY])
{
	uint32_t count = 0;

	for (uint32_t pack = 0; pack < manifest->pack_count; pack++) {
		uint32_t at = count;

		while (at > 0 && manifest->packs[pack].size > manifest->packs[ret[at - 1]].size)
			at--;
		if (at == EARLY)
			continue;
		count += count < EARLY;
		memmove(ret + at + 1, ret + at, (count - at - 1) * sizeof(*ret));
		ret[at] = pack;
	}
	return count;
}

void orion_packs_open_early(struct orion_packs *packs, uint32_t server)
{
	uint32_t early[EARLY];
	const uint32_t count = largest(packs->manifest, early);

	for (uint32_t i = 0; i < count; i++) {
		char path[PACK_PATH];

		name_pack(packs, early[i], path);
		orion_upstreams_keep_early(packs->upstreams, server, &packs->files[early[i]], path, 0);
	}
}

int orion_packs_reopen(struct orion_packs *packs, uint32_t pack, uint32_t server)
{
	char path[PACK_PATH];

	name_pack(packs, pack, path);
	return orion_upstreams_reopen(packs->upstreams, server, &packs->files[pack], path, 0);
}
