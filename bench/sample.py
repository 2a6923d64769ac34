"""One boot's result, and the JSON document that keeps every raw one of them."""

from pathlib import Path
from typing import Any

import msgspec

from orioncache.atomic import replacing
from orioncache.errors import UserError

SCHEMA = "orioncache.bench/1"


class Phases(msgspec.Struct, frozen=True):
    """Seconds in each phase of a boot, on the guest's clock.

    Attributes:
        kernel: from the kernel's first time stamp to its first user process.
        initramfs: from the node's ``/init`` to the moment it hands over to the root's init.
        userland: from there to the workload's exit 0.
    """

    kernel: float
    initramfs: float
    userland: float

    @property
    def boot(self) -> float:
        """Their sum."""
        return self.kernel + self.initramfs + self.userland


class Nfs(msgspec.Struct, frozen=True):
    """What the node asked of all its NFS servers.

    Attributes:
        calls: RPCs sent.
        read_bytes: bytes read from servers.
        operations: RPCs by NFS operation, only those that were used.
    """

    calls: int
    read_bytes: int
    operations: dict[str, int] = {}


class Nbd(msgspec.Struct, frozen=True):
    """What the node read from its block device on a server.

    Attributes:
        requests: reads sent.
        read_bytes: bytes read, as they are in the image: mostly compressed.
    """

    requests: int
    read_bytes: int


class Use(msgspec.Struct, frozen=True):
    """So many blocks, or pages of a bundle, of which the same became.

    Attributes:
        count: how many.
        bytes: of them, as they are in files.
    """

    count: int
    bytes: int


class Fetched(msgspec.Struct, frozen=True):
    """What the cache read on servers for one reason.

    Attributes:
        reads: how many.
        bytes: that they brought over the link; a bundle's are packed.
        parts: what is counted in ``uses``: ``blocks``, or ``pages`` of a bundle.
        uses: what became of them, by the words of :data:`orioncache.bench.waterfall.uses.USES`.
    """

    reads: int
    bytes: int
    parts: str
    uses: dict[str, Use]


class Stall(msgspec.Struct, frozen=True):
    """A read of the probe's that took 50 ms or more.

    Attributes:
        at_s: when it began, on the boot's clock (the sum of the phases is its end).
        length_s: how long it took; if it never ended, until the guest was given up.
    """

    at_s: float
    length_s: float


class Probe(msgspec.Struct, frozen=True):
    """What a process on the node saw of its root (guest/probe.c).

    Attributes:
        reads: of the probe, each of 16 KiB that nobody had read before.
        failed_reads: of them, and of those at the end.
        checked_bytes: that were held against their digests, also what is in the page cache at the end.
        checked_files: files that were known to the node at the end.
        waiting: it waited for a read when the guest was given up, and had not got it.
        finished: whether all that was in the page cache at the end could be checked.
        stalls: the first 64 of 50 ms and more.
        fault_at_s: when the fault began, on the boot's clock; None without one.
        fault_end_s: when it ended; None if it did not.
        first_error: of a read, with its file; empty without one.
        first_wrong: the first bytes that were wrong; empty if there were none.
    """

    reads: int
    failed_reads: int
    checked_bytes: int
    checked_files: int
    finished: bool
    stalls: list[Stall]
    fault_at_s: float | None = None
    fault_end_s: float | None = None
    waiting: bool = False
    first_error: str = ""
    first_wrong: str = ""


class Sample(msgspec.Struct, frozen=True):
    """One boot.

    Attributes:
        variant: its name in :data:`orioncache.bench.plan.VARIANTS`.
        rtt_ms: round-trip time between node and servers.
        rate_mbit: of the node's link, in each direction; None: not limited.
        run: counts from 1 within one variant and link.
        ok: the workload exited 0 in time.
        clock: ``virtual`` or ``wall``.
        boot_s: sum of the phases, None where the boot did not come to its end.
        phases_s: seconds by phase, None like ``boot_s``.
        nfs: None where the guest did not live to say it.
        cache: the cache's own statistics, as its control socket gave them; empty without a cache.
        memory_mb: the guest's memory when ready: total, available, used, page_cache, daemon_rss (MiB).
        command: the QEMU command line, to be pasted into a shell.
        error: one line, None if ok.
        jitter_ms: around half the RTT, in each direction.
        loss_percent: of packets lost, in each direction.
        servers: how many of them.
        accel: ``tcg`` or ``kvm``.
        real_s: what the run took on the host's clock.
        nbd: None where the root was no block device.
        fetched: by reason (``demand``, ``read-around``, ``heuristics``, ``bundle``); None where the cache did
            not record.
        fault: ``--fault``'s words for what happened in it; empty for the faultless boot that others
            are held against; None: no fault bench.
        errors: that processes saw: reads that failed, and one if the boot did not come to its end; None like
            ``fault``.
        wrong_bytes: in pages that were not what the root has, read by processes or left in the page cache.
        longest_stall_s: the longest that one read took, of the probe's or as the cache itself counts them.
        switches: how often the cache went on with another server; None if it does not say.
        extra_reads_pct: hedged reads in percent of all, as the cache counts them; None if it does not say.
        probe: the whole of what the probe saw; None where it did not live to say it.
    """

    variant: str
    rtt_ms: float
    rate_mbit: float | None
    run: int
    ok: bool
    clock: str
    boot_s: float | None
    phases_s: Phases | None
    nfs: Nfs | None
    cache: dict[str, Any]
    memory_mb: dict[str, float]
    command: str
    error: str | None
    jitter_ms: float = 0.0
    loss_percent: float = 0.0
    servers: int = 2
    accel: str = "tcg"
    real_s: float = 0.0
    nbd: Nbd | None = None
    fetched: dict[str, Fetched] | None = None
    fault: str | None = None
    errors: int | None = None
    wrong_bytes: int | None = None
    longest_stall_s: float | None = None
    switches: int | None = None
    extra_reads_pct: float | None = None
    probe: Probe | None = None


class Document(msgspec.Struct, frozen=True):
    """What ``--json`` writes.

    Attributes:
        schema: :data:`SCHEMA`; a change that breaks readers changes it.
        environment: the machine, versions, commit, kernel, root, workload and the command that was given.
        samples: every run, in the order in which they were started.
    """

    schema: str
    environment: dict[str, Any]
    samples: list[Sample]


def write(document: Document, path: Path) -> None:
    """Writes the document as indented JSON, whole or not at all."""
    with replacing(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def read(path: Path) -> Document:
    """Reads a document that :func:`write` wrote.

    Raises:
        UserError: it is no such document.
    """
    try:
        document = msgspec.json.decode(path.read_bytes(), type=Document)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UserError(f"{path} is no bench result: {error}", "give a file that --json wrote") from None
    if document.schema != SCHEMA:
        raise UserError(f"{path} has schema {document.schema}, not {SCHEMA}", "use the version that wrote it")
    return document
