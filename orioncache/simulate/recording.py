"""A trace turned into what can be replayed: requests, what each had to wait for, and the work before it.

A trace has times, and no causes. Four rules make causes of times:

- A process goes on after its own last answer.
- A process that is new goes on after the last answer that anybody got before: whoever forked it.
- A process that was silent while another one lived from its first request to its last has waited for it.
- Processes that read the same file side by side do it in the recorded order (:class:`_Beside`).

The work before a request is the time since the last thing that happened to anybody: on one processor,
somebody's computing. What a process slept is in it, too. Where requests overlap, others compute while one
waits: of a trace that was recorded with no round trip to speak of, what a span of waiting has more than its
requests cost was somebody's work, and what it has less was not (:func:`settle`).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from orioncache.prefetch.interface import ERROR, READ


@dataclasses.dataclass(slots=True)
class Touch:
    """One record of a trace. Seconds, bytes.

    Attributes:
        at: when the request came, on any clock.
        waited: until its answer.
    """

    at: float
    waited: float
    inode: int
    offset: int
    length: int
    pid: int = 0
    comm: str = ""
    kind: int = READ
    outcome: int = 0


@dataclasses.dataclass(slots=True)
class Step:
    """One request to be replayed.

    Attributes:
        touch: as it was recorded.
        work: seconds of processor time between what it waits for and itself.
        after: numbers of steps whose answers it waits for.
        beside: numbers of steps that must have been asked for, and need not be answered.
    """

    touch: Touch
    work: float
    after: tuple[int, ...]
    beside: tuple[int, ...]


@dataclasses.dataclass
class Recording:
    """A boot that can be replayed.

    Attributes:
        name: for people.
        steps: in the order of their requests.
        lead: seconds from the mount to the first request.
        first_touches: each page once, recorded without readahead; else what the kernel asked for.
        files: path and bytes by inode.
        digests: by (inode, block of the file); what is missing is not known, None is a hole.
        block_size: bytes.
        manifest: digest of the manifest, hexadecimal; "": not known.
    """

    name: str
    steps: list[Step]
    lead: float
    first_touches: bool
    files: dict[int, tuple[str, int]]
    digests: dict[tuple[int, int], bytes | None]
    block_size: int = 128 << 10
    manifest: str = ""

    @property
    def span(self) -> float:
        """Seconds from the first request to the last answer, as recorded."""
        if not self.steps:
            return 0.0
        return max(step.touch.at + step.touch.waited for step in self.steps) - self.steps[0].touch.at

    def first_demands(self) -> list[tuple[float, bytes]]:
        """Seconds and digest of each block's first demand, in order."""
        seen: set[bytes] = set()
        found = []
        for step in self.steps:
            touch = step.touch
            if touch.kind != READ or touch.outcome == ERROR or not touch.length:
                continue
            last = (touch.offset + touch.length - 1) // self.block_size
            for number in range(touch.offset // self.block_size, last + 1):
                digest = self.digests.get((touch.inode, number))
                if digest is not None and digest not in seen:
                    seen.add(digest)
                    found.append((touch.at, digest))
        return found


def causes(touches: Iterable[Touch]) -> list[Step]:
    """Steps from touches, whatever their order; failed ones and hints are left out."""
    ordered = sorted(
        (each for each in touches if each.kind == READ and each.outcome != ERROR and each.length),
        key=lambda each: each.at,
    )
    lives: dict[int, tuple[float, float, int]] = {}  # of a process: first request, last answer, its last step
    for number, touch in enumerate(ordered):
        end = touch.at + touch.waited
        first, last, _ = lives.get(touch.pid, (touch.at, end, number))
        lives[touch.pid] = first, max(last, end), number
    # By their ends: whom somebody may have waited for.
    ended = sorted((last, first, pid, number) for pid, (first, last, number) in lives.items() if pid)
    answered: list[tuple[float, int]] = []  # answers so far that were seen, in order
    pending: list[tuple[float, int]] = []
    own: dict[int, int] = {}
    steps: list[Step] = []
    side_by_side = _Beside(lives)
    last_event = ordered[0].at if ordered else 0.0
    for number, touch in enumerate(ordered):
        pending.sort()
        while pending and pending[0][0] <= touch.at:
            answered.append(pending.pop(0))
            last_event = max(last_event, answered[-1][0])
        after: list[int] = []
        beside: list[int] = []
        previous = own.get(touch.pid) if touch.pid else None
        if previous is None:
            if answered:
                after.append(answered[-1][1])
        else:
            before = ordered[previous]
            since = before.at + before.waited
            (after if since <= touch.at else beside).append(previous)
            after += [
                last_step
                for last, first, pid, last_step in _between(ended, since, touch.at)
                if first >= since and pid != touch.pid
            ]
        followed = side_by_side.asks(number, touch)
        if followed is not None and followed not in after:
            after.append(followed)
        steps.append(Step(touch, max(0.0, touch.at - last_event), tuple(after), tuple(beside)))
        own[touch.pid] = number
        last_event = touch.at
        pending.append((touch.at + touch.waited, number))
    return steps


class _Beside:
    """Who goes through the same files at the same time.

    Two programs that map the same library fault on the same pages. Whoever faults on a page that the other
    one's READ is about to bring waits for it, and has no READ of its own that would show it. So a request
    goes after the last answer that another process, which lived before and after, had got from the same file.
    """

    def __init__(self, lives: Mapping[int, tuple[float, float, int]]) -> None:
        self._lives = lives
        # By inode and process: the last request's number, when it came, when it was answered.
        self._recent: dict[int, dict[int, tuple[int, float, float]]] = {}

    def asks(self, number: int, touch: Touch) -> int | None:
        """Notes a request; the number of the one that it goes after, if there is any."""
        if not touch.pid:
            return None
        recent = self._recent.setdefault(touch.inode, {})
        begun = self._lives[touch.pid][0]
        found = [
            (answered, other)
            for pid, (other, asked, answered) in recent.items()
            if pid != touch.pid and answered <= touch.at < self._lives[pid][1] and begun < asked
        ]
        recent[touch.pid] = number, touch.at, touch.at + touch.waited
        return max(found)[1] if found else None


def settle(steps: Sequence[Step], cost: Callable[[Touch], float]) -> None:
    """Makes work and costs add up to the recorded time, span of waiting by span of waiting.

    Args:
        steps: from :func:`causes`; their work is changed.
        cost: seconds of processor time that serving a request took. Called for each once, in order.
    """
    position = 0
    while position < len(steps):
        first = position
        touch = steps[first].touch
        end, expected = touch.at + touch.waited, cost(touch)
        position += 1
        while position < len(steps) and steps[position].touch.at < end:
            touch = steps[position].touch
            end = max(end, touch.at + touch.waited)
            expected += cost(touch)
            position += 1
        inside = steps[first + 1 : position]
        begun = steps[first].touch.at
        hidden = end - begun - expected - sum(step.work for step in inside)
        if hidden >= 0:
            # Whoever asks next has worked meanwhile.
            if position < len(steps):
                steps[position].work += hidden
            continue
        # They cost more than the span was long: less was worked in it, or after it.
        for step in [*inside, *steps[position : position + 1]]:
            less = min(step.work, -hidden)
            step.work -= less
            hidden += less


def _between(
    ended: list[tuple[float, float, int, int]], since: float, until: float
) -> list[tuple[float, float, int, int]]:
    """Lives that ended in a span of time."""
    from bisect import bisect_left, bisect_right  # noqa: PLC0415

    return ended[bisect_left(ended, (since,)) : bisect_right(ended, (until,))]
