"""A release served by the native engine, up to the moment at which it answers the kernel.

A node's boot waits for this: nothing that is slow to import is used here.
"""

from __future__ import annotations

import errno
import os
import time

from orioncache.errors import UserError
from orioncache.native.engine import Engine, LoadError
from orioncache.native.mount import mount, open_readahead, unmount
from orioncache.release.key import read_public_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orioncache.fs.supervisor import Held
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


def open_servers(sources: Sequence[str]) -> list[int]:
    """Descriptors (O_PATH) of the servers' directories.

    Raises:
        UserError: one cannot be opened.
    """
    opened = []
    for source in sources:
        try:
            opened.append(os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            mend = "a source is a directory, or where NFS is mounted"
            raise UserError(f"{source}: {error.strerror}", mend) from None
    return opened


def open_device() -> int:
    """A descriptor to be mounted.

    Raises:
        UserError: there is none.
    """
    try:
        return os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"/dev/fuse: {error.strerror}", "is FUSE in the kernel?") from None


def _mount(source: str, path: str, device: int | None) -> int:
    if device is None:
        device = open_device()
    mount(source, path, device)
    return device


def start(
    sources: Sequence[str],
    mountpoint: str,
    options: Options,
    held: Held,
    mount_on: Callable[[str, str, int | None], int] = _mount,
) -> Engine | None:
    """Serves a release, or goes on with it; None, having done nothing, if the sources hold plain trees.

    Args:
        sources: the servers' directories.
        mountpoint: where to serve it.
        options: as given by the user.
        held: by the supervisor.
        mount_on: mounts a source's name on a path, and returns the device.

    Raises:
        UserError: no server has a manifest that can be believed, or it cannot be mounted.
    """
    if held.restarts:
        # A record of half a boot is of no use.
        options = options.replace(trace="off", upload="")
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
        role=None if options.bundle == "off" or not held.agreement.streams() else options.bundle,
        agreement=held.agreement,
    )
    try:
        for number, source in zip(held.servers, sources, strict=True):
            engine.add(os.dup(number), source)
        if held.manifest is not None:
            engine.resume(held.manifest)
        elif _load(engine, sources[0], must=key is not None):
            held.keep_manifest(engine.keep())
        else:
            engine.close()
            return None
        if not held.is_mounted:
            held.keep_device(mount_on(",".join(sources), mountpoint, held.device))
        assert held.device is not None
        try:
            engine.start(os.dup(held.device))
        except BaseException:
            unmount(mountpoint)
            raise
    except OSError as error:
        engine.close()
        raise UserError(f"cannot mount on {mountpoint}: {error.strerror}", "is /dev/fuse there?") from None
    except BaseException:
        engine.close()
        raise
    _stream(engine, mountpoint, held)
    return engine


def _stream(engine: Engine, mountpoint: str, held: Held) -> None:
    """What follows when an engine has begun to serve, for the first time or after another one's death."""
    # By their paths, as long as these are what they were: a node's root changes soon.
    root = held.root
    if root < 0 and held.agreement.streams():
        root = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    readahead = held.readahead if held.readahead >= 0 else open_readahead(mountpoint)
    engine.stream(root, readahead)
    if not held.is_ready:
        held.serve(root, readahead)
    if root >= 0:
        # Whoever has it keeps the mount from being taken away.
        os.close(root)
        held.root = -1
    if held.restarts:
        engine.tell_restart(held.reason, held.restarts, time.monotonic() - held.died)


def _recorded(options: Options) -> tuple[int, bool]:
    """How many requests are recorded, and whether the newest ones stay.

    A trace has a boot's beginning; heuristics follow what comes. They never run with an upload, whose records
    end when there is a bundle.
    """
    if options.trace != "off" or options.upload:
        return options.trace_records, False
    return FEED if options.speculates else 0, True


def _load(engine: Engine, first: str, *, must: bool) -> bool:
    """Has an engine get the manifest from one of its servers; whether there is one, as there must be."""
    try:
        engine.load()
    except LoadError as error:
        if error.number == errno.ENOENT:
            if must:
                message = f"{first} is no release, so nothing of it is signed"
                raise UserError(message, UNSIGNED) from None
            return False
        mend = MENDS.get(error.number, "check the servers and the network")
        raise UserError(str(error), mend) from None
    return True
