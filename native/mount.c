/* mount(2), umount2(2), and the readahead in /sys. */
#define _GNU_SOURCE
#include "mount.h"

#include "fuse_session.h"
#include "supervision.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int orion_mount(const char *source, const char *path, int device)
{
	char options[128];

	snprintf(options, sizeof(options),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read=%u", device,
		 ORION_READ_MAX);
	return mount(source, path, ORION_FILESYSTEM, MS_RDONLY | MS_NOATIME, options) ? -errno : 0;
}

int orion_unmount(const char *path)
{
	return umount2(path, MNT_DETACH) ? -errno : 0;
}

int orion_readahead_open(const char *path)
{
	char text[64];
	struct stat status;

	if (stat(path, &status))
		return -errno;
	snprintf(text, sizeof(text), "/sys/class/bdi/%u:%u/read_ahead_kb", major(status.st_dev), minor(status.st_dev));

	const int fd = open(text, O_WRONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

void orion_readahead_write(int fd, uint32_t bytes)
{
	if (fd >= 0)
		dprintf(fd, "%u\n", bytes >> 10);
}

int orion_widen_readahead(const char *path)
{
	const int fd = orion_readahead_open(path);

	if (fd < 0)
		return fd;
	orion_readahead_write(fd, ORION_READ_MAX);
	close(fd);
	return 0;
}

/* The type stands behind the optional fields, which a lone hyphen ends (proc(5)). */
static bool line_has_nfs(const char *line)
{
	const char *type = strstr(line, " - ");

	return type && (strncmp(type, " - nfs ", 7) == 0 || strncmp(type, " - nfs4 ", 8) == 0);
}

bool orion_is_on_nfs(int fd)
{
	char *line = NULL;
	size_t size = 0;
	bool found = false;
	struct statx status;
	FILE *mounts;

	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID, &status) ||
	    !(status.stx_mask & STATX_MNT_ID))
		return false;
	const int listed = openat(orion_proc(), "self/mountinfo", O_RDONLY | O_CLOEXEC);

	mounts = listed < 0 ? NULL : fdopen(listed, "r");
	while (mounts && !found && getline(&line, &size, mounts) > 0)
		found = strtoull(line, NULL, 10) == status.stx_mnt_id && line_has_nfs(line);
	free(line);
	if (mounts)
		fclose(mounts);
	return found;
}

/* <linux/stat.h> of 6.8: the mount's number in stx_mnt_id is never used again. Debian 12 has an older one. */
#define UNIQUE_MOUNT 0x4000u

uint64_t orion_mounted_when(int fd)
{
	struct statx status;

	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, UNIQUE_MOUNT, &status) || !(status.stx_mask & UNIQUE_MOUNT))
		return 0;
	return status.stx_mnt_id;
}
