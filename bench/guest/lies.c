/*
 * guest damage corrupt|zeros DIRECTORY: what a server with a bad disk serves, and says nothing. All files below the
 * directory are damaged in place, their times stay.
 */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Less than any block that is not a few bytes: each has a wrong one. */
enum { EVERY = 4096, DESCRIPTORS = 16 };

static bool with_zeros;

static int flip(int fd, off_t size)
{
	for (off_t at = size < EVERY ? size / 2 : EVERY / 2; at < size; at += EVERY) {
		unsigned char byte = 0;
		if (pread(fd, &byte, 1, at) != 1)
			return -EIO;
		byte ^= 0x10;
		if (pwrite(fd, &byte, 1, at) != 1)
			return -EIO;
	}
	return 0;
}

static int spoil(const char *path, const struct stat *is, int type, struct FTW *walk)
{
	(void)walk;
	if (type != FTW_F || !S_ISREG(is->st_mode) || is->st_size == 0)
		return 0;
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return errno;
	int error = 0;
	if (!with_zeros)
		error = -flip(fd, is->st_size);
	else if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, is->st_size) < 0)
		error = errno;
	futimens(fd, (struct timespec[]){ is->st_atim, is->st_mtim });
	close(fd);
	return error;
}

int damage(const char *how, const char *directory)
{
	with_zeros = strcmp(how, "zeros") == 0;
	int error = nftw(directory, spoil, DESCRIPTORS, FTW_PHYS);
	if (error != 0)
		fprintf(stderr, "bench: %s cannot be damaged: %s\n", directory, strerror(error > 0 ? error : errno));
	return error != 0;
}
