"""What a daemon and its supervisor have from the native library (native/supervision.h)."""

import errno
import os

from orioncache.native._orion import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Agreement:
    """What the daemons of one mount know from each other, in memory that they share.

    Attributes:
        handle: for the engine's options.
    """

    def __init__(self) -> None:
        """Makes one, for all processes that are forked from now on."""
        made = ffi.new("struct orion_agreement **")
        _check(lib.orion_agreement_create(made))
        self.handle: Any = made[0]

    def streams(self) -> bool:
        """Whether a bundle may still be on its way to the mount."""
        return bool(lib.orion_agreement_streams(self.handle))


def resend(device: int) -> bool | None:
    """Has the kernel send again what was not answered; False: it cannot; None: the device is not mounted."""
    result = lib.orion_resend(device)
    if result == -errno.EPERM:
        return None
    return int(result) == 0


def hold_lifeline(fd: int) -> None:
    """Has a descriptor (taken over) be closed as soon as this process is being ended, and not before."""
    _check(lib.orion_lifeline_hold(fd))


def end_with_parent() -> None:
    """Has this process get SIGTERM when its parent is gone."""
    _check(lib.orion_end_with_parent())


def _check(result: int) -> None:
    if result:
        raise OSError(-result, os.strerror(-result))
