/* switchroot: find a root's init, and become it.
 *
 *   switchroot -f ROOT [INIT]        prints the init that would be run; exit code 1 and one line if there is none
 *   switchroot ROOT INIT [ARG]...    moves /dev, /proc, /sys and /run into ROOT, makes it / and executes INIT
 *
 * Unlike busybox's switch_root it deletes nothing: the cache daemon lives on in the initramfs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* <linux/openat2.h>, which musl does not ship. */
#define RESOLVE_IN_ROOT 0x10
struct open_how {
	uint64_t flags, mode, resolve;
};

static const char *const moved[] = { "dev", "proc", "sys", "run" };
static const char *const candidates[] = { "/sbin/init", "/etc/init", "/bin/init", "/bin/sh" };

/* Whether path, with its symbolic links followed inside of the root, is an executable file. Returns 0 or -errno. */
static int check_init(int root, const char *path)
{
	struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT };
	struct stat found;
	int fd = (int)syscall(SYS_openat2, root, path, &how, sizeof how);
	int error = fd < 0 ? errno : fstat(fd, &found) < 0 ? errno : 0;

	if (fd >= 0)
		close(fd);
	if (error)
		return -error;
	if (!S_ISREG(found.st_mode) || !(found.st_mode & 0111))
		return -EACCES;
	return 0;
}

static int find_init(const char *root, const char *asked)
{
	int error, fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0) {
		printf("%s: %s\n", root, strerror(errno));
		return 1;
	}
	if (asked && *asked) {
		error = check_init(fd, asked);
		if (!error)
			puts(asked);
		else if (error == -EACCES)
			printf("init=%s is not executable in this root\n", asked);
		else if (error == -ENOENT || error == -ENOTDIR)
			printf("init=%s does not exist in this root\n", asked);
		else
			printf("init=%s cannot be read: %s\n", asked, strerror(-error));
		return error ? 1 : 0;
	}
	for (size_t i = 0; i < sizeof candidates / sizeof *candidates; i++) {
		error = check_init(fd, candidates[i]);
		if (!error) {
			puts(candidates[i]);
			return 0;
		}
		if (error != -ENOENT && error != -ENOTDIR && error != -EACCES) {
			printf("%s cannot be read: %s\n", candidates[i], strerror(-error));
			return 1;
		}
	}
	puts("it is no root: it has no /sbin/init, /etc/init, /bin/init or /bin/sh");
	return 1;
}

static int fail(const char *what, const char *where)
{
	fprintf(stderr, "orion: error: cannot %s %s: %s\n", what, where, strerror(errno));
	return 1;
}

static int enter(const char *root, char **command)
{
	for (size_t i = 0; i < sizeof moved / sizeof *moved; i++) {
		char from[16], to[256];

		snprintf(from, sizeof from, "/%s", moved[i]);
		snprintf(to, sizeof to, "%s/%s", root, moved[i]);
		if (mkdir(to, 0755) < 0 && errno != EEXIST)
			return fail("make", to);
		if (mount(from, to, NULL, MS_MOVE, NULL) < 0)
			return fail("move a mount to", to);
	}
	if (chdir(root) < 0)
		return fail("enter", root);
	if (mount(".", "/", NULL, MS_MOVE, NULL) < 0)
		return fail("move a mount to", "/");
	if (chroot(".") < 0 || chdir("/") < 0)
		return fail("change the root to", root);
	execv(command[0], command);
	return fail("execute", command[0]);
}

int main(int argc, char **argv)
{
	if (argc >= 3 && !strcmp(argv[1], "-f"))
		return find_init(argv[2], argv[3]);
	if (argc >= 3)
		return enter(argv[1], argv + 2);
	fprintf(stderr, "usage: switchroot -f ROOT [INIT] | switchroot ROOT INIT [ARG]...\n");
	return 2;
}
