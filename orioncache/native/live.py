"""The native session for plain trees from Python: C has the device, pyfuse3 stands behind it."""

import os

from orioncache.native._orion import ffi, lib


class LiveSession:
    """C between the kernel and pyfuse3.

    Attributes:
        fd: what pyfuse3 takes for a mounted device.
        ended_fd: readable when the mount is gone.
    """

    def __init__(self, ttl: float) -> None:
        """Makes it.

        Args:
            ttl: seconds for which an answer may be given again.
        """
        created = ffi.new("struct orion_live **")
        _check(lib.orion_live_create(int(ttl * 1e9), created))
        self._live = created[0]
        self._statistics = ffi.new("struct orion_live_statistics *")
        self.fd = int(lib.orion_live_fd(self._live))
        self.ended_fd = int(lib.orion_live_ended_fd(self._live))

    def start(self, device: int) -> None:
        """Serves a mounted device, and takes it over."""
        _check(lib.orion_live_start(self._live, device))

    def statistics(self) -> dict[str, int]:
        """Requests that pyfuse3 answered, and that it was spared."""
        lib.orion_live_statistics(self._live, self._statistics)
        return {"forwarded": self._statistics.forwarded, "remembered": self._statistics.remembered}

    def close(self) -> None:
        """Ends it; the mount must be gone."""
        lib.orion_live_destroy(self._live)


def _check(result: int) -> None:
    if result:
        raise OSError(-result, os.strerror(-result))
