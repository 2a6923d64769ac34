/* Looks the files of a bundle up in the mount, in the order in which they are wanted, so that the kernel knows their inodes
 * and takes pages of them. */
#ifndef ORION_BUNDLE_NAMES_H
#define ORION_BUNDLE_NAMES_H

#include "bundle_file.h"

struct orion_bundle_names; /* for one thread, which answers no requests of the mount */

/* root: a descriptor of the mount's, which stays the caller's. Finds all paths, in one walk of the manifest. */
int orion_bundle_names_create(const struct orion_manifest *manifest, const struct orion_bundle_index *index,
			      int root, struct orion_bundle_names **ret);
void orion_bundle_names_destroy(struct orion_bundle_names *names);

/* Looks a file up, unless that was done. What cannot be looked up is no error: nobody will miss its pages. */
void orion_bundle_names_look_up(struct orion_bundle_names *names, uint32_t inode);
/* Looks up the next one that is not; false if there is none. */
bool orion_bundle_names_next(struct orion_bundle_names *names);

#endif
