"""Two servers that can be late, mounts over them, and what each read of a block took."""

import dataclasses
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from orioncache.bench.faulty import FaultySource
from orioncache.bench.fs.scene import build_command, release_of
from orioncache.bench.fs.stage import Stage, timed
from orioncache.errors import UserError

# The least there is: one read of a page is one block, and one read of a server.
BLOCK = 4096
FILE = "blocks"
SERVERS = 2
# Threads that read: more than there are late reads at any time.
THREADS = 64
# Nothing that was read shall be read again, nothing next to it beforehand.
OPTIONS = ["--read-around=0", "--cache-size=1M", "--compressed-size=0"]


@dataclasses.dataclass(frozen=True)
class Reads:
    """What is read of which servers.

    Attributes:
        reads: blocks, each of them once.
        rate: reads a second: they begin when it is time for them, however many have not ended.
        late: percent of its reads that server 1 is late with.
        by: seconds.
        latency: what a read takes on a server that is well: seconds, at least and at most.
        spread: reads go to both servers in turn.
    """

    reads: int
    rate: int
    late: int
    by: float
    latency: tuple[float, float]
    spread: bool


@dataclasses.dataclass(frozen=True)
class Condition:
    """One of what is compared.

    Attributes:
        name: in the document.
        late: whether server 1 is.
        options: of the cache.
        help: one line.
    """

    name: str
    late: bool
    options: Sequence[str]
    help: str


CONDITIONS = (
    Condition("healthy", False, [], "all servers are well"),
    Condition("unhedged", True, ["--hedge-budget=0"], "one server is late, nothing is hedged"),
    Condition("hedged", True, [], "one server is late, reads are hedged"),
)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One mount, on which every block was read once.

    Attributes:
        condition: a name of :data:`CONDITIONS`.
        turn: the round.
        reads: how many blocks.
        by_server: reads that each server was asked for meanwhile, as it counts them, probes among them.
        late: of these, how many were answered late.
        failover: what the cache says of its hedges and switches.
        latencies_ms: of each read, shortest first.
    """

    condition: str
    turn: int
    reads: int
    by_server: list[int]
    late: int
    failover: dict[str, Any]
    latencies_ms: list[float]


def release(stage: Stage, how: Reads) -> Path:
    """A release with one file of so many blocks."""
    tree, store = stage.directory("tree"), stage.directory("store")
    (tree / FILE).write_bytes(_content(how))
    timed(build_command(tree, store, "1", f"--block-size={BLOCK}"))
    return release_of(store, "1")


def measure_all(stage: Stage, path: Path, how: Reads, turn: int) -> list[Trial]:
    """One round: all conditions at the same time, so that what else the machine does falls on all alike.

    Raises:
        UserError: a read failed, a byte was wrong, or a mount does not come up.
    """
    with ThreadPoolExecutor(len(CONDITIONS)) as pool:
        return list(pool.map(lambda condition: measure(stage, path, how, condition, turn), CONDITIONS))


def measure(stage: Stage, path: Path, how: Reads, condition: Condition, turn: int) -> Trial:
    """Reads every block of a release once, in random order, on a mount and servers that are new.

    Raises:
        UserError: a read failed, a byte was wrong, or the mount does not come up.
    """
    options = [*OPTIONS, *condition.options, *(["--spread"] if how.spread else [])]
    with ExitStack() as stack:
        servers = [stack.enter_context(FaultySource(path, stage.directory("server"))) for _ in range(SERVERS)]
        sources = Path(",".join(str(server.path) for server in servers))
        mounted = stack.enter_context(stage.cache(sources, "native", options))
        for number, server in enumerate(servers):
            _set_latency(server, how, late=condition.late and number == 0)
            # What is late still must not keep the cache from ending.
            stack.callback(server.tell, "heal")
        before = [server.counters() for server in servers]
        latencies = _read_all(mounted.path / FILE, how, turn)
        after = [server.counters() for server in servers]
        failover = mounted.status()["failover"]
    grown = [
        {name: now[name] - then[name] for name in ("read", "late")}
        for now, then in zip(after, before, strict=True)
    ]
    return Trial(
        condition=condition.name,
        turn=turn,
        reads=how.reads,
        by_server=[each["read"] for each in grown],
        late=sum(each["late"] for each in grown),
        failover=failover,
        latencies_ms=[round(latency * 1000, 3) for latency in latencies],
    )


def _set_latency(server: FaultySource, how: Reads, *, late: bool) -> None:
    least, most = (round(latency * 1000) for latency in how.latency)
    if most:
        server.tell(f"delay {least}-{most} only=read")
    if late:
        server.tell(f"late {round(how.by * 1000)} only=read percent={how.late}")


def _content(how: Reads) -> bytes:
    return random.Random(how.reads).randbytes(how.reads * BLOCK)


def _read_all(path: Path, how: Reads, turn: int) -> list[float]:
    """Seconds of each read, shortest first."""
    content = _content(how)
    order = list(range(how.reads))
    random.Random(turn).shuffle(order)
    file = os.open(path, os.O_RDONLY)
    began = time.monotonic()

    def read(number: int) -> float:
        block = order[number]
        time.sleep(max(0.0, began + number / how.rate - time.monotonic()))
        since = time.perf_counter()
        found = os.pread(file, BLOCK, block * BLOCK)
        took = time.perf_counter() - since
        if found != content[block * BLOCK : (block + 1) * BLOCK]:
            raise UserError(f"block {block} has wrong bytes", "this is a bug")
        return took

    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        with ThreadPoolExecutor(THREADS) as pool:
            return sorted(pool.map(read, range(how.reads)))
    except OSError as error:
        raise UserError(f"a read failed: {error.strerror}", "this is a bug") from None
    finally:
        os.close(file)
