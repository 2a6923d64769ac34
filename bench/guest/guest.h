/* What the parts of the bench's hand inside the guest share: guest.c says what each does. */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LINE_LIMIT = 4096 };

/* port.c */
long long now_ns(void);
int send_bytes(const void *data, size_t length);
__attribute__((format(printf, 1, 2))) void send_line(const char *format, ...);
void send_mark(const char *name, long long ns);
/* Reads fd to its end into buffer; returns the length, cut off at size. */
size_t read_all(int fd, char *buffer, size_t size);
void send_content(const char *name, int fd);
void send_file(const char *name, const char *path);

/* guest.c */
_Noreturn void power_off(void);
/* The cache's status, asked in the root that is in front of the path of its socket. */
void send_cache_status(const char *root);

/* referee.c */
int referee(void);
/* Tells the referee that the boot has reached a point, and waits until it lets it go on; false: there is none. */
bool reached(const char *point);

/* probe.c */
int probe(void);

/* lies.c */
/* Gets at all files below a directory; more than once for more of them. Returns 0 or -errno. */
int prepare_damage(const char *directory);
void damage(bool with_zeros);

/* reset.c */
int reset_connections(void);
int kill_daemon(void);

/*
 * What the probe finds, in a file of the initramfs that the referee has mapped as well: it can say what the probe saw
 * even if that hangs in a read. One writes, the other reads; what is written before `finished` is set is whole.
 */
enum { STALLS = 64, TEXT = 256 };

struct stall {
	int64_t at, ns;
};

struct findings {
	_Atomic bool stop;      /* by the referee: no more reads, check what is in the page cache */
	_Atomic bool started;   /* the probe has its root */
	_Atomic bool finished;  /* it has checked */
	_Atomic int64_t since;  /* when the read that it waits for began; 0: it waits for none */
	_Atomic int64_t reads, errors, wrong_bytes, checked_bytes, checked_files, longest, longest_at;
	_Atomic uint32_t stalls; /* of STALL_NS and longer; the first STALLS of them follow */
	struct stall stall[STALLS];
	char first_error[TEXT], first_wrong[TEXT]; /* empty: none */
};

static const char FINDINGS[] = "/bench/findings";
/* What the probe's files hold: bench/probe.py writes it. */
static const char PROBE_LIST[] = "/bench/probe.list";

#endif
