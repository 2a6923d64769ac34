"""The native engine from Python: started, asked and ended from here, while every answer to the kernel is C's.

A node imports this before it serves its root, so nothing that takes time to import is used here.
"""

from __future__ import annotations

import os

from orioncache.native._orion import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from orioncache.native.supervision import Agreement

READ_AROUND_AUTO: int = lib.ORION_READ_AROUND_AUTO

SEVERITIES = ("info", "warning", "error")
# As native/events.h has it.
FIELD_MARK = "\x1f"

# Of a server, as struct orion_server_statistics has them.
COUNTERS = (
    *("current", "draining", "reads", "bytes", "errors", "timeouts", "mismatches"),
    *("hedges", "hedges_won", "resent", "switches", "stuck", "abandoned", "pending"),
)

# <linux/fuse.h>, in the words of the Python engine's handlers.
OPCODES: Mapping[int, str] = {
    1: "lookup",
    2: "forget",
    3: "getattr",
    5: "readlink",
    14: "open",
    15: "read",
    17: "statfs",
    18: "release",
    22: "getxattr",
    23: "listxattr",
    26: "init",
    27: "opendir",
    28: "readdir",
    29: "releasedir",
    34: "access",
    36: "interrupt",
    42: "forget",
    44: "readdir",
    46: "lseek",
}


class LoadError(Exception):
    """No server has a manifest that can be believed.

    Attributes:
        number: the errno of the last server's failure.
    """

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.number = number


class Event:
    """What the engine told.

    Attributes:
        severity: one of ``SEVERITIES``.
        kind: the number of a kind (``enum orion_event_kind``; orioncache.events.KINDS has the words).
        text: one line.
        fields: the same for programs.
        at: when it was, seconds on the clock of ``time.monotonic()``.
    """

    def __init__(
        self, severity: str, kind: int, text: str, fields: dict[str, str | int | float], at_ns: int
    ) -> None:
        self.severity = severity
        self.kind = kind
        self.text = text
        self.fields = fields
        self.at = at_ns / 1e9


class Engine:
    """One native engine: created, given servers, loaded, started on a mount, closed."""

    def __init__(
        self,
        *,
        cache_size: int,
        compressed_size: int,
        deadline: float,
        hedge_floor: float = 0.02,
        hedge_cap: float = 0.5,
        hedge_budget: float = 5.0,
        give_up: float = 0.0,
        spread: bool = False,
        readers: int,
        read_around: int = READ_AROUND_AUTO,
        threads: int = 2,
        key: bytes | None = None,
        trace_records: int = 0,
        trace_newest: bool = False,
        first_touches: bool = False,
        learns: bool = False,
        role: str | None = None,
        agreement: Agreement | None = None,
    ) -> None:
        """Creates it.

        Args:
            cache_size: bytes for blocks as they are.
            compressed_size: bytes for packed blocks.
            deadline: seconds for one read on one server; then its thread is given up.
            hedge_floor: seconds that a read waits at least before another server is asked as well.
            hedge_cap: the same at most.
            hedge_budget: such additional reads, in percent of all.
            give_up: seconds that a read waits while no server answers; 0: for ever.
            spread: read from all good servers in turn.
            readers: threads for each server.
            read_around: bytes to read around a miss, or ``READ_AROUND_AUTO``.
            threads: threads that answer the kernel.
            key: the public key, 32 bytes, that the manifest must be signed with.
            trace_records: requests that are recorded; 0: none.
            trace_newest: beyond that the oldest are lost, and not the newest.
            first_touches: the kernel shall ask for each page when it is touched: nothing is read ahead, and
                nothing pushed.
            learns: the same until a bundle is found, or :meth:`end_learning`; wants trace_records.
            role: whose bundle is streamed; None: none.
            agreement: with the engines before and after it on the same device, if there may be any.
        """
        options = ffi.new("struct orion_engine_options *")
        options.cache_size = cache_size
        options.compressed_size = compressed_size
        options.deadline_ns = int(deadline * 1e9)
        options.hedge_floor_ns = int(hedge_floor * 1e9)
        options.hedge_cap_ns = int(hedge_cap * 1e9)
        options.hedge_budget = hedge_budget / 100
        options.give_up_ns = int(give_up * 1e9)
        options.spread = spread
        options.read_around = read_around
        options.readers = readers
        options.threads = threads
        options.trace_limit = trace_records
        options.trace_newest = trace_newest
        options.first_touches = first_touches
        options.learns = learns
        options.role = (role or "").encode()
        if agreement is not None:
            options.agreement = agreement.handle
        if key is not None:
            options.signed_only = True
            ffi.memmove(options.key, key, len(options.key))
        created = ffi.new("struct orion_engine **")
        _check(lib.orion_engine_create(options, created))
        self._engine = created[0]
        self._statistics = ffi.new("struct orion_engine_statistics *")

    @property
    def handle(self) -> Any:  # noqa: ANN401  # cffi's pointers have no types
        """For other C functions; good until :meth:`close`."""
        return self._engine

    def add(self, fd: int, source: str) -> int:
        """Adds the server whose release directory a descriptor (taken over) stands for; its number.

        Before the load, or at any time after the start.

        Raises:
            OSError: ENOSPC: there are as many as there may be.
        """
        number = int(lib.orion_engine_add(self._engine, fd, os.fsencode(source)))
        _check(min(number, 0))
        return number

    def remove(self, number: int) -> None:
        """Asks a server for nothing more.

        Raises:
            OSError: EBUSY: it is the last one; ENOENT: there is none of that number.
        """
        _check(lib.orion_engine_remove(self._engine, number))

    def drain(self, number: int, on: bool) -> None:
        """Asks a server for nothing new, or again; errors as for :meth:`remove`."""
        _check(lib.orion_engine_drain(self._engine, number, on))

    def replace(self, number: int, fd: int) -> None:
        """The server was mounted anew: a descriptor (taken over) of its directory there."""
        _check(lib.orion_engine_replace(self._engine, number, fd))

    def load(self) -> None:
        """Gets the manifest from the first server with a good one.

        Raises:
            LoadError: there is none.
        """
        result = lib.orion_engine_load(self._engine)
        if result:
            text = ffi.string(lib.orion_engine_problem(self._engine)).decode(errors="backslashreplace")
            raise LoadError(text or os.strerror(-result), -result)

    def keep(self) -> int:
        """Moves the manifest into a file in memory, and returns a descriptor of it, for :meth:`resume`."""
        kept = ffi.new("int *")
        _check(lib.orion_engine_keep(self._engine, kept))
        return int(kept[0])

    def resume(self, manifest: int) -> None:
        """In place of :meth:`load`: serves what a dead engine served; asks no server."""
        _check(lib.orion_engine_resume(self._engine, manifest))

    def start(self, device: int) -> None:
        """Serves a mounted device (:mod:`orioncache.native.mount`), and takes it over."""
        _check(lib.orion_engine_start(self._engine, device))

    def stream(self, root: int, readahead: int) -> None:
        """Streams the bundle, if there is one, and lets the kernel read ahead on the mount when that is done.

        Args:
            root: a descriptor (O_PATH) of the mount's root, which only a bundle needs.
            readahead: of its readahead; negative where /sys is not ours to write: it stays at 128 KiB.
        """
        lib.orion_engine_stream(self._engine, root, readahead)

    def tell_restart(self, reason: str, restarts: int, pause: float) -> None:
        """Tells of a daemon's death: of what, the how manieth, and for how many seconds none was there."""
        lib.orion_engine_tell_restart(self._engine, reason.encode(), restarts, int(pause * 1e9))

    def is_learning(self) -> bool:
        """Whether it was created to learn, and neither found a bundle nor was told to end."""
        return bool(lib.orion_engine_is_learning(self._engine))

    def end_learning(self) -> None:
        """Has the kernel read ahead again, and forgets what was recorded."""
        lib.orion_engine_end_learning(self._engine)

    def ended_fd(self) -> int:
        """Readable when the mount is gone."""
        return int(lib.orion_engine_ended_fd(self._engine))

    def events_fd(self) -> int:
        """Readable when there is an event."""
        return int(lib.orion_events_fd(lib.orion_engine_events(self._engine)))

    def events(self) -> list[Event]:
        """Takes what happened since this was asked last, oldest first. From one thread at a time."""
        found = []
        event = ffi.new("struct orion_event *")
        lost = ffi.new("uint64_t *")
        while lib.orion_events_next(lib.orion_engine_events(self._engine), event, lost):
            if lost[0]:
                found.append(Event("warning", 0, f"{lost[0]} events were lost", {}, event.monotonic_ns))
            text, *fields = _text_and_fields(event)
            found.append(
                Event(
                    SEVERITIES[event.severity],
                    event.kind,
                    text,
                    dict(_named(field) for field in fields),
                    event.monotonic_ns,
                )
            )
        return found

    def warn(self, text: str) -> None:
        """A warning among its events."""
        lib.orion_engine_warn(self._engine, os.fsencode(text))

    def release(self) -> dict[str, object]:
        """Name, version and digest of what is served."""
        header = lib.orion_engine_release(self._engine)
        return {
            "name": ffi.string(header.name).decode(errors="backslashreplace"),
            "version": ffi.string(header.label).decode(errors="backslashreplace"),
            "digest": bytes(header.digest[0 : header.digest_size]).hex(),
        }

    def statistics(self) -> dict[str, object]:
        """The figures of this moment, as ``orioncache status`` shows them. From one thread at a time."""
        found = self._statistics
        lib.orion_engine_statistics(self._engine, found)
        upcalls: dict[str, int] = {}
        for opcode, count in enumerate(found.session.upcalls):
            if count:
                name = OPCODES.get(opcode, f"opcode {opcode}")
                upcalls[name] = upcalls.get(name, 0) + count
        servers = [
            _server(number, found.servers[number])
            for number in range(found.server_count)
            if found.servers[number].state != lib.ORION_REMOVED
        ]
        return {
            "servers": servers,
            "failover": _failover(servers, found.fetch),
            "cache": _fields(found.store, "struct orion_store_statistics"),
            "fetch": _fields(found.fetch, "struct orion_fetch_statistics"),
            "bundle": _fields(found.bundle, "struct orion_bundle_statistics"),
            "fuse": {
                "upcalls": upcalls,
                "reads_in_flight": found.reads_in_flight,
                "resends": bool(found.session.resends),
            },
            "manifest_bytes": found.manifest_bytes,
        }

    def servers(self) -> list[tuple[int, str, str, str]]:
        """Number, source, state and reason of each server. From any thread."""
        found = ffi.new("struct orion_engine_statistics *")
        lib.orion_engine_statistics(self._engine, found)
        return [
            (
                number,
                ffi.string(server.source).decode(errors="surrogateescape"),
                ffi.string(lib.orion_state_name(server.state)).decode(),
                ffi.string(server.reason).decode(errors="backslashreplace"),
            )
            for number, server in enumerate(found.servers[0 : found.server_count])
            if server.state != lib.ORION_REMOVED
        ]

    def tell_mount(self, severity: str, text: str, source: str) -> None:
        """An event about the mount of a server; severity is one of ``SEVERITIES``. From any thread."""
        lib.orion_engine_tell_mount(
            self._engine, SEVERITIES.index(severity), os.fsencode(text), os.fsencode(source)
        )

    def moments(self) -> dict[str, float]:
        """When the manifest was there and verified, and the first request came; after :meth:`statistics`.

        Seconds on the clock of ``time.monotonic()``; 0: not yet.
        """
        found = self._statistics
        return {
            "manifest": found.loaded_at / 1e9,
            "verified": found.verified_at / 1e9,
            "answered": found.asked_at / 1e9,
        }

    def trace(self) -> tuple[dict[str, object], bytes]:
        """What the kernel asked so far: some facts, and the bytes of a trace file (docs/trace.md).

        Raises:
            OSError: ENODATA: nothing is recorded, or no more; ENOMEM.
        """
        made, length = ffi.new("uint8_t **"), ffi.new("size_t *")
        _check(lib.orion_engine_trace_file(self._engine, made, length))
        try:
            data = bytes(ffi.buffer(made[0], length[0]))
            header = ffi.cast("struct orion_trace_header *", made[0])
            facts: dict[str, object] = {
                "records": header.record_count,
                "lost": header.lost,
                "flags": header.flags,
                "started_ns": header.started_ns,
                "release": self.release(),
                "bytes": len(data),
            }
        finally:
            lib.orion_trace_file_destroy(made[0])
        return facts, data

    def close(self) -> None:
        """Ends it; the mount must be gone."""
        lib.orion_engine_destroy(self._engine)


def _text_and_fields(event: Any) -> list[str]:  # noqa: ANN401  # cffi's structs have no types
    text = str(ffi.string(event.text).decode(errors="backslashreplace"))
    # From the right: a name in the text may have the mark in it as well.
    return text.rsplit(FIELD_MARK, event.field_count) if event.field_count else [text]


def _named(field: str) -> tuple[str, str | int | float]:
    name, _, value = field.partition("=")
    if not value.removeprefix("-")[:1].isdecimal():
        return name, value
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            pass
    return name, value


def _server(number: int, found: Any) -> dict[str, Any]:  # noqa: ANN401  # cffi's structs have no types
    fields = _fields(found, "struct orion_server_statistics")
    return {
        "number": number,
        "source": ffi.string(found.source).decode(errors="backslashreplace"),
        "state": ffi.string(lib.orion_state_name(found.state)).decode(),
        "reason": ffi.string(found.reason).decode(errors="backslashreplace"),
        "calls": found.reads,
        **{name: fields[name] for name in COUNTERS},
        "latency_ms": {name: round(fields[f"{name}_ns"] / 1e6, 3) for name in ("p50", "p95", "p99", "ewma")},
    }


def _failover(servers: Sequence[dict[str, Any]], fetch: Any) -> dict[str, object]:  # noqa: ANN401
    """What switching and hedging did, over all servers."""
    sums = {
        name: sum(server[name] for server in servers)
        for name in ("switches", "hedges", "hedges_won", "resent", "reads")
    }
    reads = sums.pop("reads")
    extra = sums["hedges"] + sums["resent"]
    return {
        **sums,
        "stalls": fetch.stalls,
        "longest_stall_ms": round(fetch.longest_wait_ns / 1e6, 3),
        "waiting": fetch.waiting,
        "extra_reads_pct": round(100 * extra / reads, 3) if reads else 0.0,
    }


def _fields(found: object, kind: str) -> dict[str, int]:
    return {name: getattr(found, name) for name, _ in _members(kind)}


def _members(kind: str) -> Sequence[tuple[str, object]]:
    return ffi.typeof(kind).fields  # type: ignore[no-any-return]


def _check(result: int) -> None:
    if result:
        raise OSError(-result, os.strerror(-result))
