/* Mounting, without the help of a program. */
#ifndef ORION_MOUNT_H
#define ORION_MOUNT_H

#include <stdbool.h>
#include <stdint.h>

/* The type that /proc/self/mountinfo shows. */
#define ORION_FILESYSTEM "fuse.orioncache"

/* Mounts a descriptor of /dev/fuse on path, read-only and for all users; requests come from there. The mount stays when
 * its last copy is closed, and says ENOTCONN from then on. Needs CAP_SYS_ADMIN. */
int orion_mount(const char *source, const char *path, int device);

/* Takes the topmost mount from a path, even while somebody uses it. */
int orion_unmount(const char *path);

/* How far the kernel reads ahead on a mount; INIT alone leaves it at 128 KiB at most. A descriptor of the setting in /sys,
 * which stays good when /sys moves; asks the mount for its attributes: somebody must be serving. */
int orion_readahead_open(const char *path);
/* Sets it to so many bytes. A negative descriptor is no error: then it stays what it is. */
void orion_readahead_write(int fd, uint32_t bytes);
/* As far as the kernel may ask for at once. */
int orion_widen_readahead(const char *path);

/* Whether a descriptor's file is on NFS, as /proc/self/mountinfo says; false where that cannot be read. Asks no server,
 * as fstatfs() would: it may be one that does not answer. */
bool orion_is_on_nfs(int fd);

/* When a descriptor's file system was mounted, as a number that only grows; 0 where the kernel does not say (before 6.8). */
uint64_t orion_mounted_when(int fd);

#endif
