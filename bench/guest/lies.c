/*
 * What a server with a bad disk serves, and says nothing: all files below a directory are damaged in place (corrupt: a
 * bit of every 4 KiB is flipped; zeros: nothing but zeros). They are mapped and touched beforehand, so that the moment
 * of the damage takes next to nothing of the boot's time, and neither times nor the change attribute tell of it.
 */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Less than any block that is not a few bytes: each has a wrong one. */
enum { EVERY = 4096, DESCRIPTORS = 16, GROWTH = 1024 };

/* Stores of 16 bytes: half the instructions, that is half the time. */
typedef long long wide __attribute__((vector_size(16)));

static struct mapped {
	unsigned char *bytes;
	size_t length;
} *files;
static size_t count;

static int hold(const char *path, const struct stat *is, int type, struct FTW *walk)
{
	(void)walk;
	if (type != FTW_F || !S_ISREG(is->st_mode) || is->st_size == 0)
		return 0;
	if (count % GROWTH == 0) {
		struct mapped *more = realloc(files, (count + GROWTH) * sizeof *files);
		if (!more)
			return ENOMEM;
		files = more;
	}
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return errno;
	size_t length = (size_t)is->st_size;
	/* Populating a shared mapping for writing makes its pages dirty, and takes the faults. */
	unsigned char *bytes = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	int error = bytes == MAP_FAILED ? errno : 0;
	if (error == 0)
		files[count++] = (struct mapped){ bytes, length };
	futimens(fd, (struct timespec[]){ is->st_atim, is->st_mtim });
	close(fd);
	return error;
}

static void flip(const struct mapped *file)
{
	for (size_t at = file->length < EVERY ? file->length / 2 : EVERY / 2; at < file->length; at += EVERY)
		file->bytes[at] ^= 0x10;
}

static void wipe(const struct mapped *file)
{
	/* To the mapping's end, which is a page's: what is behind the file's end is zero anyway. */
	wide *end = (wide *)(file->bytes + (file->length + EVERY - 1) / EVERY * EVERY);

	for (wide *at = (wide *)file->bytes; at < end; at += 4)
		at[0] = at[1] = at[2] = at[3] = (wide){ 0, 0 };
}

int prepare_damage(const char *directory)
{
	int error = nftw(directory, hold, DESCRIPTORS, FTW_PHYS);

	if (error == 0)
		return 0;
	errno = error > 0 ? error : errno;
	return -errno;
}

void damage(bool with_zeros)
{
	for (size_t i = 0; i < count; i++)
		(with_zeros ? wipe : flip)(&files[i]);
}
