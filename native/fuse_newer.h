/* What the <linux/fuse.h> of Debian 12 (protocol 7.38) lacks. */
#ifndef ORION_FUSE_NEWER_H
#define ORION_FUSE_NEWER_H

#include <linux/fuse.h>

#if FUSE_KERNEL_VERSION == 7 && FUSE_KERNEL_MINOR_VERSION < 40
/* Linux 6.9: the kernel sends again what was read from the device and not answered. */
#define FUSE_NOTIFY_RESEND 7
#define FUSE_HAS_RESEND (1ULL << 39)
/* In the unique number of what was sent again, and in that of its answer. */
#define FUSE_UNIQUE_RESEND (1ULL << 63)
#endif

#endif
