/* Requests that libfuse has. */
#define _GNU_SOURCE
#include "forwarded.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define BUCKETS 256u

struct entry {
	struct entry *next;
	struct fuse_in_header header;
	bool interrupted;
	bool answered;
};

struct orion_forwarded {
	pthread_mutex_t lock;
	struct entry *buckets[BUCKETS]; /* under lock */
	unsigned watched; /* interrupted and not answered; under lock */
};

int orion_forwarded_create(struct orion_forwarded **ret)
{
	struct orion_forwarded *forwarded = calloc(1, sizeof(*forwarded));

	if (!forwarded)
		return -ENOMEM;
	pthread_mutex_init(&forwarded->lock, NULL);
	*ret = forwarded;
	return 0;
}

void orion_forwarded_destroy(struct orion_forwarded *forwarded)
{
	if (!forwarded)
		return;
	for (unsigned i = 0; i < BUCKETS; i++)
		for (struct entry *entry = forwarded->buckets[i], *next; entry; entry = next) {
			next = entry->next;
			free(entry);
		}
	pthread_mutex_destroy(&forwarded->lock);
	free(forwarded);
}

static struct entry **find(struct orion_forwarded *forwarded, uint64_t unique)
{
	/* The kernel's numbers are even. */
	struct entry **entry = &forwarded->buckets[unique / 2 % BUCKETS];

	while (*entry && (*entry)->header.unique != unique)
		entry = &(*entry)->next;
	return entry;
}

void orion_forwarded_add(struct orion_forwarded *forwarded, const struct fuse_in_header *header)
{
	switch (header->opcode) {
	case FUSE_LOOKUP:
	case FUSE_GETATTR:
	case FUSE_READLINK:
	case FUSE_OPEN:
	case FUSE_READ:
	case FUSE_STATFS:
	case FUSE_GETXATTR:
	case FUSE_LISTXATTR:
		break;
	default:
		return;
	}
	struct entry *entry = calloc(1, sizeof(*entry));

	/* Without memory for it, it can be waited for as ever. */
	if (!entry)
		return;
	entry->header = *header;
	pthread_mutex_lock(&forwarded->lock);
	entry->next = forwarded->buckets[header->unique / 2 % BUCKETS];
	forwarded->buckets[header->unique / 2 % BUCKETS] = entry;
	pthread_mutex_unlock(&forwarded->lock);
}

void orion_forwarded_interrupt(struct orion_forwarded *forwarded, uint64_t unique)
{
	pthread_mutex_lock(&forwarded->lock);
	struct entry *entry = *find(forwarded, unique);

	if (entry && !entry->interrupted && !entry->answered) {
		entry->interrupted = true;
		forwarded->watched++;
	}
	pthread_mutex_unlock(&forwarded->lock);
}

bool orion_forwarded_watches(struct orion_forwarded *forwarded)
{
	pthread_mutex_lock(&forwarded->lock);
	const bool watches = forwarded->watched > 0;

	pthread_mutex_unlock(&forwarded->lock);
	return watches;
}

/* Whether a thread is being killed (proc(5): SIGKILL is pending, as it also is for other signals that end a process). A node's
 * daemon has its working directory in /proc/self/fd, and no path to /proc any more. */
static bool is_killed(uint32_t thread)
{
	static const char *const forms[] = {"/proc/%u/status", "../../%u/status"};
	char path[64], line[256];
	bool killed = false;
	FILE *file = NULL;

	for (size_t i = 0; !file && i < sizeof(forms) / sizeof(*forms); i++) {
		snprintf(path, sizeof(path), forms[i], thread);
		file = fopen(path, "re");
	}
	while (file && fgets(line, sizeof(line), file)) {
		unsigned long long pending;

		if (sscanf(line, "SigPnd: %llx", &pending) == 1 || sscanf(line, "ShdPnd: %llx", &pending) == 1)
			killed |= pending >> (SIGKILL - 1) & 1;
	}
	if (file)
		fclose(file);
	return killed;
}

bool orion_forwarded_killed(struct orion_forwarded *forwarded, uint64_t *ret_unique)
{
	bool found = false;

	pthread_mutex_lock(&forwarded->lock);
	for (unsigned i = 0; !found && forwarded->watched && i < BUCKETS; i++)
		for (struct entry *entry = forwarded->buckets[i]; !found && entry; entry = entry->next) {
			if (!entry->interrupted || entry->answered || !is_killed(entry->header.pid))
				continue;
			entry->answered = found = true;
			forwarded->watched--;
			*ret_unique = entry->header.unique;
		}
	pthread_mutex_unlock(&forwarded->lock);
	return found;
}

bool orion_forwarded_take(struct orion_forwarded *forwarded, uint64_t unique, struct fuse_in_header *ret)
{
	bool answered = false;

	pthread_mutex_lock(&forwarded->lock);
	struct entry **place = find(forwarded, unique), *entry = *place;

	if (entry) {
		*place = entry->next;
		answered = entry->answered;
		*ret = entry->header;
		if (entry->interrupted && !answered)
			forwarded->watched--;
	}
	pthread_mutex_unlock(&forwarded->lock);
	free(entry);
	return !answered;
}
