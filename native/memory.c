/* Memory that stays, and the memory where a process has its name. */
#define _GNU_SOURCE
#include "orion.h"

#include "supervision.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

int orion_lock_memory(void)
{
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0)
		return 0;
	if (errno != EINVAL)
		return -errno;
	return mlockall(MCL_CURRENT | MCL_FUTURE) == 0 ? 0 : -errno;
}

int orion_rename_process(const char *name)
{
	unsigned long begin = 0, end = 0;
	char text[2048];
	const int fd = openat(orion_proc(), "self/stat", O_RDONLY | O_CLOEXEC);
	const ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (got < 0)
		return -EIO;
	text[got] = 0;

	/* After the command's name, which may hold anything: where the arguments begin (field 48) and end (49). */
	const char *field = strrchr(text, ')');

	for (int number = 2; field && number < 48; number++)
		field = strchr(field + 1, ' ');
	if (!field || sscanf(field, " %lu %lu", &begin, &end) != 2)
		return -EIO;
	if (end <= begin || end - begin <= strlen(name))
		return 0;
	memset((void *)begin, 0, end - begin);
	memcpy((void *)begin, name, strlen(name));
	prctl(PR_SET_NAME, name[0] == '@' ? name + 1 : name, 0, 0, 0);
	return 0;
}
