"""A release served by the native engine, up to the moment at which it answers the kernel.

A node's boot waits for this: nothing that is slow to import is used here.
"""

from __future__ import annotations

import errno
import os

from orioncache.errors import UserError
from orioncache.native.engine import Engine, LoadError
from orioncache.native.mount import mount, unmount
from orioncache.release.key import read_public_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orioncache.options import Options

AGAIN = "copy the release to the server again, or build it again"
UNSIGNED = "sign it with orioncache release sign, or say verify=off if you trust it as it is"
# Requests that heuristics can be behind with, if no trace is asked for.
FEED = 4096
MENDS = {
    errno.EKEYREJECTED: UNSIGNED,
    errno.EPROTONOSUPPORT: "use the program that the release was built with, or a newer one",
    errno.EBADMSG: AGAIN,
    errno.EINVAL: AGAIN,
    errno.ETIMEDOUT: "check the server and the network",
}


def start(
    sources: Sequence[str],
    mountpoint: str,
    options: Options,
    mount_on: Callable[[str, str], int] = mount,
) -> Engine | None:
    """Serves a release; None, having done nothing, if the sources hold plain trees.

    Args:
        sources: the servers' directories.
        mountpoint: where to serve it.
        options: as given by the user.
        mount_on: mounts a source's name on a path, and returns the device.

    Raises:
        UserError: no server has a manifest that can be believed, or it cannot be mounted.
    """
    records, newest = _recorded(options)
    key = read_public_key(options.key) if options.key and options.verify == "on" else None
    engine = Engine(
        cache_size=options.cache_size,
        compressed_size=options.compressed_size,
        deadline=options.read_timeout,
        hedge_floor=options.hedge_floor,
        hedge_cap=options.hedge_cap,
        hedge_budget=options.hedge_budget,
        give_up=options.give_up,
        spread=options.spread == "on",
        readers=options.readers,
        read_around=options.read_around,
        key=key,
        trace_records=records,
        trace_newest=newest,
        first_touches=options.trace == "touch",
        learns=bool(options.upload) and options.trace == "off",
        role=None if options.bundle == "off" else options.bundle,
    )
    try:
        if not _load(engine, sources, must=key is not None):
            engine.close()
            return None
        device = mount_on(",".join(sources), mountpoint)
        try:
            engine.start(device)
        except BaseException:
            unmount(mountpoint)
            raise
    except OSError as error:
        engine.close()
        raise UserError(f"cannot mount on {mountpoint}: {error.strerror}", "is /dev/fuse there?") from None
    except BaseException:
        engine.close()
        raise
    engine.stream(mountpoint)
    return engine


def _recorded(options: Options) -> tuple[int, bool]:
    """How many requests are recorded, and whether the newest ones stay.

    A trace has a boot's beginning; heuristics follow what comes. They never run with an upload, whose records
    end when there is a bundle.
    """
    if options.trace != "off" or options.upload:
        return options.trace_records, False
    return FEED if options.speculates else 0, True


def _load(engine: Engine, sources: Sequence[str], *, must: bool) -> bool:
    """Gives an engine its servers, and has it get the manifest; whether there is one, as there must be."""
    for source in sources:
        try:
            fd = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            mend = "a source is a directory, or where NFS is mounted"
            raise UserError(f"{source}: {error.strerror}", mend) from None
        engine.add(fd, source)
    try:
        engine.load()
    except LoadError as error:
        if error.number == errno.ENOENT:
            if must:
                message = f"{sources[0]} is no release, so nothing of it is signed"
                raise UserError(message, UNSIGNED) from None
            return False
        mend = MENDS.get(error.number, "check the servers and the network")
        raise UserError(str(error), mend) from None
    return True
