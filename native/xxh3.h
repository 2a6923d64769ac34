/* libxxhash with all that this processor can: its plain functions are built for every x86-64, and take twice the time of
 * those that it chooses at run time (AVX2, AVX-512). */
#ifndef ORION_XXH3_H
#define ORION_XXH3_H

#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h> /* redirects the XXH3_…() that it knows */
#endif

#endif
