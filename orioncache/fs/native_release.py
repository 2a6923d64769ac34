"""A release served by the native engine, up to the moment at which it answers the kernel.

A node's boot waits for this: nothing that is slow to import is used here.
"""

import errno
import os
from collections.abc import Sequence

from orioncache.errors import UserError
from orioncache.native.engine import Engine, LoadError
from orioncache.release.detect import PACKS

AGAIN = "copy the release to the server again, or build it again"
UNSIGNED = "sign it with orioncache release sign, or say verify=off if you trust it as it is"
MENDS = {
    errno.EKEYREJECTED: UNSIGNED,
    errno.EPROTONOSUPPORT: "use the program that the release was built with, or a newer one",
    errno.EBADMSG: AGAIN,
    errno.EINVAL: AGAIN,
    errno.ETIMEDOUT: "check the server and the network",
}


def open_engine(sources: Sequence[str], engine: Engine) -> bool:
    """Gives an engine its servers, and has it get the manifest.

    Returns:
        Whether there is a release; if not, the sources are plain trees, and the engine was closed.

    Raises:
        UserError: no server has a manifest that can be believed.
    """
    plain = True
    for source in sources:
        try:
            fd = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(
                f"{source}: {error.strerror}", "a source is a directory, or where NFS is mounted"
            ) from None
        engine.add(fd, source)
    try:
        engine.load()
    except LoadError as error:
        if error.number in (errno.ENOENT, errno.EINVAL):
            plain = not any(_has_packs(source) for source in sources)
        else:
            plain = False
        engine.close()
        if not plain:
            mend = MENDS.get(error.number, "check the servers and the network")
            raise UserError(str(error), mend) from None
        return False
    return True


def _has_packs(source: str) -> bool:
    try:
        os.stat(os.path.join(source, PACKS))  # noqa: PTH116,PTH118
    except OSError:
        return False
    return True
