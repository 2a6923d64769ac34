"""What the simulator believes of a machine and a link: few numbers, each with its meaning."""

import dataclasses

from orioncache.errors import UserError


@dataclasses.dataclass(frozen=True)
class Costs:
    """Processor time of a node with 10⁹ instructions a second, the bench's virtual clock, servers included.

    The bench's nfsd runs on the node's only processor, so a server's work is the node's as well. The defaults
    were fitted on the default workload at a round trip of 0; docs/simulator.md says how, and how far off they
    are.

    A trace of the kernel's READs has the cost of each in the work between them. A trace of first touches has
    that of smaller and more READs instead, which is taken out (``touch_s``), and that of the READs that the
    kernel would have sent is put in (``upcall_s``, ``copy_s``).

    Attributes:
        answer_s: seconds for a READ that is answered from RAM, from its arrival to its answer.
        request_s: seconds for one read on a server, both ends, without its bytes.
        fetch_s: seconds for each byte from a server: nfsd, both TCP ends, NFS client, digest.
        trip_s: seconds that the smallest of them takes: what the engine measures beyond the round trip.
        upcall_s: seconds for one READ outside of the engine: switches between processes, the kernel's work.
        copy_s: seconds for each byte of it.
        touch_s: the same seconds for one recorded first touch, its page included.
        unpack_s: seconds for each byte of a bundle's frames, unpacked and verified.
        lookup_s: seconds for a bundle's file to become known to the kernel.
        heuristic_s: seconds of one call of a heuristic.
    """

    answer_s: float = 4e-6
    request_s: float = 100e-6
    fetch_s: float = 1.8e-9
    trip_s: float = 120e-6
    upcall_s: float = 20e-6
    copy_s: float = 2.3e-9
    touch_s: float = 29e-6
    unpack_s: float = 4.0e-9
    lookup_s: float = 20e-6
    heuristic_s: float = 0.0

    def replace(self, **changes: float) -> "Costs":
        """The same with other values for some."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Link, servers, memory.

    Attributes:
        rtt_ms: round-trip time; each direction takes half.
        rate_mbit: of the node's link, shared by all that comes; None: not limited.
        servers: how many.
        readers: reads at the same time on one server, as the cache's option says.
        cache_size: bytes of RAM for blocks (both levels together).
        read_around: bytes around a miss; -1: what the round trip is worth, as native/fetch.c has it.
        open_trips: round trips before the first read of a pack on a server, three if NFS has yet to look
            directory and file up and to open it; the engine does that before it is needed.
        costs: of the processor.
    """

    rtt_ms: float = 0.0
    rate_mbit: float | None = None
    servers: int = 2
    readers: int = 8
    cache_size: int = 128 << 20
    read_around: int = -1
    open_trips: int = 0
    costs: Costs = dataclasses.field(default_factory=Costs)

    def __post_init__(self) -> None:
        """Checks it."""
        if not 1 <= self.servers <= 16:
            raise UserError(f"{self.servers} servers cannot be simulated", "give 1 to 16")

    @property
    def around(self) -> int:
        """Bytes to read around a miss: bytes_around() of native/fetch.c."""
        if self.read_around >= 0:
            return self.read_around
        trip_ns = int(self.rtt_ms * 1e6 + self.costs.trip_s * 1e9)
        if trip_ns <= AROUND_FROM_NS:
            return 0
        if trip_ns >= AROUND_FULL_NS:
            return AROUND_MOST
        return AROUND_MOST * (trip_ns - AROUND_FROM_NS) // (AROUND_FULL_NS - AROUND_FROM_NS)


# As native/fetch.c and fetch.h have them.
AROUND_FROM_NS, AROUND_FULL_NS, AROUND_MOST = 500_000, 10_000_000, 1 << 20
AHEAD_MOST = 8 << 20
RUN_BYTES, RUN_BLOCKS = 1 << 20, 256
PAGE = 4096
# How long one thread has the processor before the next one: a tick of a kernel with HZ=250.
SLICE_S = 0.004
# What the kernel reads around a page fault, and the most in one READ.
READAHEAD = 1 << 20
