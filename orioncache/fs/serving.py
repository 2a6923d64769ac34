"""A cache's life: from taking the sources' descriptors to the end of its mount."""

import errno
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence

import trio

from orioncache import __version__
from orioncache.control.changing import Changes
from orioncache.control.server import ControlServer
from orioncache.errors import UserError
from orioncache.events import SHOWN, Events
from orioncache.fs.live import LiveTree
from orioncache.fs.loading import UNSIGNED, are_releases, hold_all, load_release, vetting
from orioncache.fs.operations import Operations
from orioncache.fs.pyfuse import Mount
from orioncache.fs.reader import BlockReader
from orioncache.fs.released import ReleaseTree
from orioncache.native.live import LiveSession
from orioncache.options import Options
from orioncache.release.key import read_public_key
from orioncache.store import BlockStore
from orioncache.upstream import Policy, ProcPaths, Server, UpstreamSet

log = logging.getLogger("orioncache")

# Descriptors that we would like to be allowed: directories and files kept open, for each server.
DESCRIPTORS = 65536


class Cache:
    """One running cache.

    Attributes:
        sources: the directories that hold the tree.
        mountpoint: where it is served.
        options: as given by the user.
    """

    def __init__(
        self,
        sources: Sequence[str],
        mountpoint: str,
        options: Options,
        proc: ProcPaths,
        *,
        control: int | None = None,
        metrics: int | None = None,
    ) -> None:
        """Takes the sources' descriptors.

        Args:
            sources: the directories that hold the tree.
            mountpoint: where to serve it.
            options: as given by the user.
            proc: where our own descriptors are.
            control: the listening control socket, if it has been made already.
            metrics: the listening socket for metrics, if they are wanted on a port.

        Raises:
            UserError: a source is not there.
        """
        self.sources = list(sources)
        self.mountpoint = mountpoint
        self.options = options
        self._control = control
        self._metrics = metrics
        self._started = time.monotonic()
        self._events = Events()
        self._proc = proc
        self._servers = [self._open_server(source, index) for index, source in enumerate(sources)]
        self._upstreams = self._make_set(None)
        self._store = BlockStore(options.cache_size, options.compressed_size)
        self._reader = BlockReader(self._store, options.block_size)
        self._tree: LiveTree | ReleaseTree | None = None
        self._held: list[int] = []
        self._operations: Operations | None = None
        self._mount: Mount | None = None

    async def serve(self, ready: Callable[[], None], *, stop_on: Sequence[signal.Signals]) -> None:
        """Mounts, serves until the mount is taken away or a signal comes, and leaves nothing mounted.

        Args:
            ready: called once the mount can be used and the control socket answers.
            stop_on: the signals that end it.

        Raises:
            UserError: it cannot be mounted, or no server answers.
        """
        _allow_descriptors()
        if self.options.speculates:
            self._events.warning(
                "no heuristics run: only the native engine fetches ahead, and only of a release"
            )
        if self.options.upload:
            self._events.warning("nothing is uploaded: only the native engine records, and only of a release")
        failure: UserError | None = None
        async with trio.open_nursery() as nursery:
            try:
                try:
                    self._tree = tree = await self._open_tree(nursery)
                except OSError as error:
                    text = f"{self.sources[0]}: {error.strerror}"
                    raise UserError(text, "check the server and the network") from None
                await self._serve_tree(tree, ready, stop_on)
            except UserError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            # Not from within the nursery, which would wrap it.
            raise failure
        for fd in self._held:
            os.close(fd)
        self._events.info(f"{self.mountpoint}: ended")

    async def _serve_tree(
        self, tree: LiveTree | ReleaseTree, ready: Callable[[], None], stop_on: Sequence[signal.Signals]
    ) -> None:
        self._operations = operations = Operations(tree)
        with ControlServer(
            self.options.control,
            self.status,
            self._control,
            metrics=self._metrics,
            events=self._events,
            changes=Changes(self._upstreams, self.status),
        ):
            behind_c = self.options.engine == "native" and isinstance(tree, LiveTree)
            native = self._live_session() if behind_c else None
            self._mount = mount = Mount(operations, self.sources, self.mountpoint, native)
            try:
                async with trio.open_nursery() as nursery:
                    if stop_on:
                        await nursery.start(self._stop_on, stop_on, mount)
                    nursery.start_soon(self._announce, mount, ready)
                    nursery.start_soon(mount.ended)
                    await mount.serve()
                    nursery.cancel_scope.cancel()
            finally:
                mount.close()

    def _live_session(self) -> LiveSession | None:
        """C before pyfuse3; None where the system's limits forbid it, and pyfuse3 has the device itself."""
        try:
            return LiveSession(self.options.attr_ttl)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
        self._events.warning(
            "the Python engine serves: sockets may not have the buffers that the native one needs here; "
            "run it with CAP_NET_ADMIN, or: sysctl net.core.wmem_max=8388608"
        )
        return None

    def status(self) -> dict[str, object]:
        """What ``orioncache status`` shows; never asks a server, and may be called from any thread."""
        upcalls = dict(self._operations.upcalls) if self._operations is not None else {}
        return {
            "version": __version__,
            "pid": os.getpid(),
            "mountpoint": self.mountpoint,
            "uptime_s": round(time.monotonic() - self._started, 3),
            "engine": "native" if self._mount is not None and self._mount.native else "python",
            **_kind(self._tree),
            "options": vars(self.options),
            **self._upstreams.statistics(),
            "cache": self._store.statistics().as_dict(),
            "fuse": {
                "upcalls": upcalls,
                **(self._mount.native.statistics() if self._mount and self._mount.native else {}),
                "inodes": self._tree.inodes if self._tree is not None else 0,
                "reads_in_flight": self._reader.in_flight,
            },
            "events": self._events.last(SHOWN),
        }

    def _open_server(self, source: str, index: int, root: int | None = None) -> Server:
        return Server(source, index, self.options.readers, self._proc, root=root)

    def _make_set(self, vet: Callable[[Server], str | None] | None) -> UpstreamSet:
        return UpstreamSet(
            self._servers, Policy.of(self.options), self._events, vet=vet, add=self._open_server
        )

    async def _open_tree(self, nursery: trio.Nursery) -> LiveTree | ReleaseTree:
        """Finds out what the sources hold, and has the servers looked after from then on.

        Raises:
            OSError: no server could answer.
            UserError: what they hold cannot be used.
        """
        options, servers = self.options, self._servers
        key = read_public_key(options.key) if options.key and options.verify == "on" else None
        if not await are_releases(servers, options.read_timeout):
            if key is not None:
                raise UserError(f"{self.sources[0]} is no release, so nothing of it is signed", UNSIGNED)
            nursery.start_soon(self._upstreams.run)
            tree = LiveTree(self._upstreams, self._reader, options.attr_ttl, self._events)
            await tree.start()
            return tree
        manifest, first = await load_release(servers, options.read_timeout, self._events, key=key)
        self._held = await hold_all(servers, options.read_timeout)
        self._upstreams = self._make_set(vetting(manifest, first))
        nursery.start_soon(self._upstreams.run)
        self._reader = BlockReader(self._store, manifest.header.block_size)
        return ReleaseTree(manifest, self._upstreams, self._reader, self._events)

    async def _announce(self, mount: Mount, ready: Callable[[], None]) -> None:
        assert self._operations is not None
        await self._operations.ready.wait()
        if not await trio.to_thread.run_sync(mount.widen_readahead):
            log.debug("the kernel's readahead stays as it is")
        self._events.info(f"{self.mountpoint}: serving {', '.join(self.sources)}")
        ready()

    async def _stop_on(
        self,
        signals: Sequence[signal.Signals],
        mount: Mount,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with trio.open_signal_receiver(*signals) as received:
            task_status.started()
            async for number in received:
                log.debug("signal %d", number)
                # In a thread: taking a mount away can mean requests for us.
                await trio.to_thread.run_sync(mount.detach)
                mount.stop()
                # That finishes what it is asked, and shall not wait for servers to come back.
                self._upstreams.end()
                return


def _kind(tree: LiveTree | ReleaseTree | None) -> dict[str, object]:
    """What is served, for the status."""
    if not isinstance(tree, ReleaseTree):
        return {"mode": "live"}
    header = tree.manifest.header
    release = {"name": header.name, "version": header.label, "digest": header.digest.hex()}
    return {"mode": "release", "release": release}


def _allow_descriptors() -> None:
    """Raises the limit of open files as far as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= DESCRIPTORS:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, max(hard, DESCRIPTORS)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, DESCRIPTORS), hard))
