/* A whole file of one server, or its beginning, read by one of its threads into memory of its own. */
#ifndef ORION_WHOLE_H
#define ORION_WHOLE_H

#include "upstream.h"

struct orion_whole;

struct orion_whole_options {
	size_t most; /* bytes that the file may have */
	size_t want; /* only that many bytes of its beginning; 0: all */
	struct orion_kept_file *kept; /* read from this one, which stays open; NULL: what the page cache has of it is used, and leaves it */
};

/* Begins; what was begun must be ended by orion_whole_destroy(), which waits for nothing. -ENOMEM. */
int orion_whole_begin(struct orion_upstreams *upstreams, uint32_t server, const char *path,
		      const struct orion_whole_options *options, struct orion_whole **ret);
void orion_whole_destroy(struct orion_whole *whole);

/* Waits for news of any of them (NULL: of none), up to so many ns. The number of one that has ended; -EINPROGRESS: one got on
 * (it was opened, a piece came); -ETIMEDOUT: neither. */
int orion_whole_wait(struct orion_whole *const *all, uint32_t count, uint64_t patience_ns);

/* After it has ended: bytes are an anonymous mapping for the caller to munmap(). -ETIMEDOUT when nothing came for a
 * deadline; -EFBIG if the file has more than most bytes, -ENODATA if it has none; -EISDIR, -ELOOP (a symlink) or -EINVAL if it
 * is no regular file. */
int orion_whole_take(struct orion_whole *whole, uint8_t **ret, size_t *ret_length);

/* All of it in one: begins, waits, takes. */
int orion_whole_get(struct orion_upstreams *upstreams, uint32_t server, const char *path,
		    const struct orion_whole_options *options, uint8_t **ret, size_t *ret_length);

#endif
