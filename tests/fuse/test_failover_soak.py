"""Random faults, one after the other: no process sees an error or a wrong byte, and nothing is left behind.

``ORION_SOAK_FAULTS`` says how many (``make soak``: 10,000), ``ORION_SEED`` which.
"""

import collections
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orioncache.bench.faulty import FaultySource
from orioncache.control import client
from orioncache.errors import UserError
from tests.fuse import kinds
from tests.fuse.conftest import RunningCache, released
from tests.fuse.readers import readers
from tests.program import IS_SANITIZED
from tests.waiting import wait_until

SEED = int(os.environ.get("ORION_SEED", "20261124"))
FAULTS = int(os.environ.get("ORION_SOAK_FAULTS", "300"))
# Seconds that a fault lasts.
LASTS = (0.002, 0.06)
BOTH = 0.1  # of the faults come while the other server has one as well
# Seconds: both servers can be away for a moment, and this machine has other things to do.
LONGEST = 10.0
# Daemons are killed in the first; the second fills pools and allocators; so much the third one may add.
PARTS = 3
MORE_MEMORY = 16 << 20
MORE_THREADS, MORE_FILES = 8, 4

# What a server can be told, and how often.
TOLD = {
    "hang": 3,
    "hang only=read": 3,
    "hang only=meta": 1,
    "delay 5-80": 2,
    "late 100-500 percent=5": 2,
    "error EIO": 2,
    "error ESTALE only=read": 2,
    "error ECONNRESET percent=30": 2,
    "error ETIMEDOUT only=read percent=50": 1,
}
# Never of both at the same time: then there is no good copy, and that is an error.
LIES = {"short": 1, "corrupt": 1, "zeros": 1, "corrupt percent=10 only=read": 1}
OTHER = {"stop": 2, "kill": 0.5, "daemon-kill": 0.3}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chance = random.Random(SEED)
    top = tmp_path_factory.mktemp("soaked") / "tree"
    for folder in range(3):
        (top / f"d{folder}").mkdir(parents=True)
        for number in range(20):
            (top / f"d{folder}/small{number}").write_bytes(chance.randbytes(chance.randrange(1, 90_000)))
        (top / f"d{folder}/large").write_bytes(chance.randbytes(4 << 20))
        (top / f"d{folder}/link").symlink_to("large")
    return top


class Chaos:
    """Who makes the faults.

    Attributes:
        made: how many, by kind.
        daemon_kills: whether the cache itself may be killed.
    """

    def __init__(self, cache: RunningCache, sources: list[FaultySource]) -> None:
        self.made: collections.Counter[str] = collections.Counter()
        self.daemon_kills = True
        self._cache = cache
        self._sources = sources
        self._chance = random.Random(SEED)
        self._restarted: set[str] = set()

    def fault(self) -> None:
        """One fault, or one on each server at the same time; made and unmade."""
        number = self._chance.randrange(len(self._sources))
        kinds_now = {**TOLD, **LIES, **OTHER}
        if not self.daemon_kills:
            del kinds_now["daemon-kill"]
        kind = self._draw(kinds_now)
        self.made[kind] += 1
        other = None
        if self._chance.random() < BOTH:
            other = self._sources[1 - number]
            also = self._draw(TOLD)
            self.made[also] += 1
            other.tell(also)
        lasts = self._chance.uniform(*LASTS)
        if kind == "daemon-kill":
            self._kill_daemon()
        elif kind == "kill":
            self._restart(number, lasts)
        elif kind == "stop":
            self._sources[number].process.send_signal(signal.SIGSTOP)
            time.sleep(lasts)
            self._sources[number].process.send_signal(signal.SIGCONT)
        else:
            self._sources[number].tell(kind)
            time.sleep(lasts)
            self._sources[number].tell(self._chance.choice(["heal", "heal", "heal EIO"]))
        if other is not None:
            other.tell("heal")
        if kind in LIES:
            self._renew_liars()

    def settle(self) -> dict[str, Any]:
        """No fault any more: waits until all servers are good and nothing is under way; the status then."""
        for source in self._sources:
            source.tell("heal")
        self._renew_liars()
        wait_until(self._is_settled, "servers are good and nothing is under way", 60)
        return self._cache.status()

    def _is_settled(self) -> bool:
        found = self._cache.status()
        return (
            all(server["state"] in {"good", "slow"} for server in found["servers"])
            and not any(server["pending"] or server["stuck"] for server in found["servers"])
            and not found["fetch"]["flights"]
            and not found["failover"]["waiting"]
        )

    def _draw(self, of: dict[str, float]) -> str:
        return self._chance.choices(list(of), list(of.values()))[0]

    def _renew_liars(self) -> None:
        """Who was found to lie is out for good, until the same server is added by hand."""
        for server in client.servers(str(self._cache.socket))["servers"]:
            if server["state"] == "quarantined":
                self._renew(server["source"])

    def _renew(self, source: str) -> None:
        with suppress(UserError):  # A daemon that was killed just now may not know it.
            client.change(str(self._cache.socket), "server-remove", server=source)
        client.change(str(self._cache.socket), "server-add", source=source)

    def _restart(self, number: int, lasts: float) -> None:
        source = self._sources[number]
        source.kill()
        time.sleep(lasts)
        source.unmount()
        source.start()
        self._restarted.add(str(source.path))
        self._renew(str(source.path))

    def _kill_daemon(self) -> None:
        daemon = self._cache.daemon()
        os.kill(daemon, signal.SIGKILL)
        wait_until(lambda: self._answers() not in {0, daemon}, "another daemon answers")
        # It was given what the first one mounted.
        for source in self._restarted:
            self._renew(source)

    def _answers(self) -> int:
        try:
            return self._cache.daemon()
        except UserError:
            return 0


def _size(pid: int) -> tuple[int, int, int]:
    """Bytes of memory, open files and threads."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return (
        int(fields["VmRSS"].split()[0]) << 10,
        len(os.listdir(f"/proc/{pid}/fd")),
        int(fields["Threads"]),
    )


@pytest.mark.timeout(FAULTS * 0.3 + 240)
def test_random_faults_are_noticed_by_no_process(tree: Path, tmp_path: Path) -> None:
    release = released(tree, tmp_path / "store")
    with (
        FaultySource(release, tmp_path / "s0") as one,
        FaultySource(release, tmp_path / "s1") as other,
    ):
        paths = [one.path, other.path]
        # So little is kept that most reads need a server.
        options = ["--cache-size=2M", "--compressed-size=1M"]
        cache = RunningCache(paths, tmp_path / "m", options, kinds.NATIVE_LIVE)
        chaos = Chaos(cache, [one, other])
        sizes, found = [], []
        try:
            for part in range(PARTS):
                # What a killed daemon leaves is gone with it: after the first part it is always the same one.
                chaos.daemon_kills = part == 0
                with readers(tree, cache.path, patience=60) as read:
                    for _ in range(FAULTS // PARTS):
                        chaos.fault()
                        assert cache.process.poll() is None, cache.log()
                found += read
                status = chaos.settle()
                sizes.append(_size(status["pid"]))
                print(f"part {part + 1}: {sizes[-1]}, {status['failover']}")
        except BaseException:
            print(cache.log())
            raise
        finally:
            for source in (one, other):
                source.process.send_signal(signal.SIGCONT)
                source.tell("heal")
            code = cache.end()
    operations, longest = sum(reader["operations"] for reader in found), max(r["longest"] for r in found)
    print(f"{sum(chaos.made.values())} faults: {dict(chaos.made.most_common())}")
    print(f"{operations} operations, the longest took {longest:.3f} s; memory, files, threads: {sizes}")
    assert code == 0
    assert "Traceback" not in cache.log()
    assert [reader["errors"] for reader in found] == [[]] * len(found)
    assert all(reader["operations"] > FAULTS // PARTS for reader in found)
    _, first, second = sizes
    assert second[0] <= first[0] + MORE_MEMORY, sizes
    assert second[1] <= first[1] + MORE_FILES, sizes
    assert second[2] <= first[2] + MORE_THREADS, sizes
    if not IS_SANITIZED:
        assert longest < LONGEST
