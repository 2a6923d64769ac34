/* Memory that stays. */
#define _GNU_SOURCE
#include "orion.h"

#include <errno.h>
#include <sys/mman.h>

int orion_lock_memory(void)
{
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0)
		return 0;
	if (errno != EINVAL)
		return -errno;
	return mlockall(MCL_CURRENT | MCL_FUTURE) == 0 ? 0 : -errno;
}
