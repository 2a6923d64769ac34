"""Which daemon is followed by another one, and which ends it all."""

import os
import signal
from collections.abc import Callable, Sequence

import pytest

from orioncache.errors import UserError
from orioncache.fs import supervisor
from orioncache.fs.supervisor import DEATHS, Held, Supervisor

Work = Callable[[Held], None]


def run(*lives: Work, gives_up: bool = True) -> tuple[int | None, list[str]]:
    """Has each daemon do one of these, the last one again and again; the exit code, and the reasons."""
    told, says = os.pipe()

    def work(held: Held) -> None:
        os.write(says, f"{held.restarts} {held.reason};".encode())
        lives[min(held.restarts, len(lives) - 1)](held)

    held = Held([], None, keeps_root=False)
    try:
        code = Supervisor(held, work, ready=lambda: None, gives_up=gives_up).run()
    finally:
        os.close(says)
        with os.fdopen(told, "rb") as pipe:
            found = pipe.read().decode().split(";")[:-1]
    return code, found


def serve(held: Held) -> None:
    held.serve(-1, -1)


def die(number: signal.Signals) -> Work:
    def work(held: Held) -> None:
        serve(held)
        # The command line's tests leave a handler behind.
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    return work


def fail(held: Held) -> None:
    raise UserError("no release", "build one", 3)


def fall(held: Held) -> None:
    serve(held)
    raise ZeroDivisionError


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE", 0.001)
    monkeypatch.setattr(supervisor, "PAUSE", 0.001)


def test_who_returns_ends_it() -> None:
    assert run(serve) == (0, ["0 "])


def test_who_is_killed_is_followed_always() -> None:
    lives: Sequence[Work] = [die(signal.SIGKILL)] * (2 * DEATHS)
    code, found = run(*lives, serve)
    assert code == 0
    assert found[1:] == [f"{number + 1} signal 9 (SIGKILL)" for number in range(2 * DEATHS)]


def test_who_dies_by_itself_is_followed_so_often_and_no_more() -> None:
    code, found = run(die(signal.SIGTERM))
    assert code == 1
    assert len(found) == DEATHS
    assert found[-1] == f"{DEATHS - 1} signal 15 (SIGTERM)"


def test_a_node_never_gives_up() -> None:
    code, found = run(*[die(signal.SIGTERM)] * (3 * DEATHS), serve, gives_up=False)
    assert (code, len(found)) == (0, 3 * DEATHS + 1)


def test_who_cannot_serve_says_why_and_is_followed_by_nobody() -> None:
    with pytest.raises(UserError, match="no release") as told:
        run(fail)
    assert (told.value.mend, told.value.code) == ("build one", 3)


def test_once_it_is_used_a_failure_is_a_death() -> None:
    """Also one that a user could have mended: those who read cannot."""
    assert run(die(signal.SIGKILL), fail, fall, serve) == (
        0,
        ["0 ", "1 signal 9 (SIGKILL)", "2 exit code 1", "3 exit code 1"],
    )


def test_who_declines_is_followed_by_nobody() -> None:
    assert run(lambda held: held.decline()) == (None, ["0 "])
