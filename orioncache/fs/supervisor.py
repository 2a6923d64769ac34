"""Keeps a mount alive when its daemon dies: holds what the next one needs, and forks it (docs/supervisor.md).

One thread, no path of the mount that it keeps, and no import between a death and the next daemon: a node's
boot imports this, and a node's root may be what nobody serves just then.
"""

from __future__ import annotations

import _socket
import gc
import os
import sys
import time

from orioncache.errors import UserError
from orioncache.native.supervision import Agreement, end_with_parent, hold_lifeline, resend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Seconds that a dying daemon may take before the next one begins: threads of it may be waiting for answers
# that only the next one can give.
GRACE = 0.02
# How often it is looked whether a bundle has come, as long as it has not.
LOOK = 1.0
# Who dies by itself, and not by a SIGKILL, is begun again after so many seconds; twice as many each time.
PAUSE, LONGEST_PAUSE = 0.025, 1.0
# Who lived for so long did not die at once.
SOUND = 10.0
# Deaths at once, one after the other, after which a user's mount is given up. A node's never is.
DEATHS = 10

SIGTERM, SIGKILL = 15, 9
# What a daemon says: one letter, then text. Descriptors come with it.
_MANIFEST, _DEVICE, _SERVING, _DECLINED, _ENDED, _FAILED = b"M", b"D", b"S", b"N", b"E", b"F"
_MESSAGE_BYTES = 8192
_DESCRIPTORS = 2
_BETWEEN = "\0"
_INT = 4


class Held:
    """What a daemon has from its supervisor, and tells it.

    Attributes:
        servers: descriptors (O_PATH) of the servers' directories, in their order; not the daemon's to close.
        device: of /dev/fuse; None: the daemon has to get one, and gives it to :meth:`keep_device`.
        is_mounted: whether the device is.
        manifest: of the release that is served, as ``Engine.keep()`` gave it; None: nothing is served yet.
        is_ready: whether the mount can be used, and whoever waited for it was told.
        root, readahead: of the mount, as ``Engine.stream()`` wants them; negative: there is none.
        keeps_root: the root is kept until the bundle has come; otherwise it is still there by its path.
        agreement: with the daemons before and after.
        restarts: how many daemons there were before.
        reason: what the one before died of; empty if there was none.
        died: when, on the clock of ``time.monotonic()``; 0 if there was none.
    """

    def __init__(self, servers: Sequence[int], device: int | None, *, keeps_root: bool) -> None:
        """For the first daemon."""
        self.servers = servers
        self.device = device
        self.is_mounted = False
        self.manifest: int | None = None
        self.is_ready = False
        self.root = self.readahead = -1
        self.keeps_root = keeps_root
        self.agreement = Agreement()
        self.restarts = 0
        self.reason = ""
        self.died = 0.0
        self._supervisor = os.getpid()
        self._said: _socket.socket | None = None

    @property
    def is_supervised(self) -> bool:
        """Whether a supervisor is there still."""
        return os.getppid() == self._supervisor

    def keep_manifest(self, fd: int) -> None:
        """Gives the supervisor the manifest that is about to be served, for the daemons after this one."""
        self.manifest = fd
        self._say(_MANIFEST, "", fd)

    def keep_device(self, fd: int) -> None:
        """Says that the device is mounted, and gives it, if it is not the one that was here."""
        self.is_mounted = True
        if fd != self.device:
            self.device = fd
            self._say(_DEVICE, "", fd)

    def serve(self, root: int, readahead: int) -> None:
        """Says that the mount can be used."""
        self.is_ready = True
        kept = {"root": root if self.keeps_root else -1, "readahead": readahead}
        kept = {name: fd for name, fd in kept.items() if fd >= 0}
        self._say(_SERVING, " ".join(kept), *kept.values())

    def decline(self) -> None:
        """Says that it ends because what is to be served is not for daemons that follow one another."""
        self._say(_DECLINED, "")

    def close(self) -> None:
        """Closes what was to be given to daemons."""
        for fd in (*self.servers, *([] if self.device is None else [self.device])):
            os.close(fd)

    def end(self, code: int) -> None:
        """Says that it ends because it shall."""
        self._say(_ENDED, str(code))

    def fail(self, error: UserError) -> None:
        """Says why it cannot serve."""
        text = _BETWEEN.join((str(error.code), error.message, error.mend))
        self._say(_FAILED, text)

    def _say(self, kind: bytes, text: str, *fds: int) -> None:
        data = kind + text.encode(errors="backslashreplace")[: _MESSAGE_BYTES - 1]
        passed = b"".join(fd.to_bytes(_INT, sys.byteorder) for fd in fds)
        more = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, passed)] if fds else []
        if self._said is None:
            return
        try:
            self._said.sendmsg([data], more)
        except OSError:
            # The supervisor is gone. The mount is served all the same.
            self._said = None


class Supervisor:
    """One mount's: forks its daemons, one after the other's death."""

    def __init__(
        self,
        held: Held,
        work: Callable[[Held], None],
        *,
        ready: Callable[[], None],
        stop_on: Sequence[int] = (),
        survived: bool = True,
        gives_up: bool = True,
        began: Callable[[int], None] = lambda _: None,
        unmount: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepares it.

        Args:
            held: what the daemons get.
            work: what a daemon does; it ends when that returns.
            ready: called here when the mount can be used.
            stop_on: signals that are handed on to the daemon, which ends it all.
            survived: a daemon goes on when this process is killed.
            gives_up: a daemon that dies again and again gets no successor, and the mount says ENOTCONN.
            began: called here with the number of each daemon's process.
            unmount: called here if the daemon dies of one of those signals.
        """
        self._held = held
        self._work = work
        self._ready = ready
        self._stop_on = stop_on
        self._survived = survived
        self._gives_up = gives_up
        self._began = began
        self._unmount = unmount
        self._daemon = 0
        self._born = 0.0
        self._life = -1
        self._said: _socket.socket
        self._signals = self._wakes = -1
        self._stopping = False
        self._last: bytes | None = None
        # Daemons that are dead, but for threads which wait for an answer.
        self._dying: dict[int, int] = {}
        self._early_deaths = 0

    def run(self) -> int | None:
        """Returns when the mount's last daemon has ended, with its exit code; None: it has declined.

        Raises:
            UserError: the daemon cannot serve.
        """
        if self._stop_on:
            self._take_signals()
        while True:
            self._fork()
            self._follow()
            if self._last is not None:
                os.waitpid(self._daemon, 0)
                if self._stop_on:
                    self._give_signals_back()
                return self._end(self._last)
            pause = self._bury()
            if pause is None:
                return 1
            if pause:
                time.sleep(pause)

    # The daemon's side of the fork.

    def _fork(self) -> None:
        life, its_life = os.pipe()
        self._said, its = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self._born = time.monotonic()
        # What is here now lives on in all of them: who looked through it would get pages of his own for that.
        gc.freeze()
        self._daemon = os.fork()
        if not self._daemon:
            self._said.close()
            os.close(life)
            self._be_daemon(its, its_life)
        its.close()
        os.close(its_life)
        self._life = life
        self._began(self._daemon)

    def _be_daemon(self, said: _socket.socket, life: int) -> None:
        code = 1
        held = self._held
        try:
            if self._stop_on:
                self._give_signals_back()
            for fd in self._dying:
                os.close(fd)
            held._said = said
            _hold(life)
            if not self._survived:
                end_with_parent()
            self._work(held)
            code = 0
            held.end(code)
        except UserError as error:
            if held.is_ready:
                # Whoever uses the mount can mend nothing; the next daemon may have more luck.
                _log(error.message)
            else:
                held.fail(error)
        except KeyboardInterrupt:
            held.end(130)
        except BaseException:
            import logging  # noqa: PLC0415

            logging.getLogger("orioncache").exception("the cache failed")
            if not held.is_ready:
                held.end(code)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    # The supervisor's.

    def _follow(self) -> None:
        """Until the daemon is being ended, by itself or by others, or shall not be followed."""
        import select  # noqa: PLC0415  # the first daemon does not wait for it

        held = self._held
        poller = select.poll()
        for fd in (self._life, self._said.fileno(), *self._dying):
            poller.register(fd, select.POLLIN)
        if self._signals >= 0:
            poller.register(self._signals, select.POLLIN)
        is_alive = True
        while is_alive:
            self._let_root_go()
            for fd, _ in poller.poll(None if held.root < 0 else LOOK * 1000):
                if fd == self._life:
                    is_alive = False
                elif fd == self._said.fileno():
                    if not self._listen():
                        poller.unregister(fd)
                elif fd == self._signals:
                    self._hand_on(os.read(fd, 64))
                else:
                    poller.unregister(fd)
                    self._reap(fd)
        # What it said last.
        while self._listen():
            pass
        os.close(self._life)
        self._said.close()

    def _let_root_go(self) -> None:
        """As soon as the bundle has come: whoever has the mount's root keeps it from being taken away."""
        held = self._held
        if held.root >= 0 and not held.agreement.streams():
            os.close(held.root)
            held.root = -1

    def _listen(self) -> bool:
        """Takes one message; False: there is none."""
        held = self._held
        try:
            data, more, _, _ = self._said.recvmsg(
                _MESSAGE_BYTES,
                _socket.CMSG_LEN(_DESCRIPTORS * _INT),
                _socket.MSG_CMSG_CLOEXEC | _socket.MSG_DONTWAIT,
            )
        except OSError:
            return False
        passed = b"".join(part for _, _, part in more)
        fds = [
            int.from_bytes(passed[at : at + _INT], sys.byteorder) for at in range(0, len(passed) - 3, _INT)
        ]
        kind = data[:1]
        if kind == _MANIFEST and fds:
            held.manifest = fds[0]
        elif kind == _DEVICE and fds:
            held.device, held.is_mounted = fds[0], True
        elif kind == _SERVING:
            held.is_ready = True
            for name, fd in zip(data[1:].decode().split(), fds, strict=True):
                setattr(held, name, fd)
        elif kind in {_DECLINED, _ENDED, _FAILED} and self._last is None:
            self._last = data
        if kind == _SERVING:
            self._ready()
        return bool(data)

    def _bury(self) -> float | None:
        """After a death: seconds until the next birth; None if there shall be none."""
        held = self._held
        import select  # noqa: PLC0415

        held.died = time.monotonic()
        pidfd = os.pidfd_open(self._daemon)
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        status = 0
        if waiting.poll(GRACE * 1000):
            os.close(pidfd)
            _, status = os.waitpid(self._daemon, 0)
        else:
            self._dying[pidfd] = self._daemon
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        held.reason = _reason(status)
        if held.device is not None and resend(held.device) is not None:
            held.is_mounted = True
        if self._stopping:
            if held.is_mounted:
                self._unmount()
            return None
        held.restarts += 1
        # Somebody who kills does not do so without end; a daemon that falls over its own feet might.
        if number == SIGKILL or not status or held.died - self._born >= SOUND:
            self._early_deaths = 0
            return 0.0
        self._early_deaths += 1
        pause: float = min(PAUSE * 2 ** (self._early_deaths - 1), LONGEST_PAUSE)
        if self._early_deaths == DEATHS and self._gives_up:
            _log(f"the daemon died {DEATHS} times ({held.reason}): the mount is given up")
            return None
        if self._early_deaths >= DEATHS and self._early_deaths % DEATHS == 0:
            _log(f"the daemon dies again and again ({held.reason}); it is begun again all the same")
        return pause

    def _reap(self, pidfd: int) -> None:
        """A daemon that died before this one is gone: what its last threads had read is asked for again."""
        os.waitpid(self._dying.pop(pidfd), 0)
        os.close(pidfd)
        if self._held.device is not None:
            resend(self._held.device)

    def _end(self, last: bytes) -> int | None:
        text = last[1:].decode(errors="replace")
        if last[:1] == _DECLINED:
            return None
        if last[:1] == _ENDED:
            return int(text)
        code, message, mend = text.split(_BETWEEN, 2)
        raise UserError(message, mend, int(code))

    def _take_signals(self) -> None:
        from _signal import set_wakeup_fd, signal  # noqa: PLC0415

        self._signals, self._wakes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        for number in self._stop_on:
            signal(number, lambda *_: None)

    def _give_signals_back(self) -> None:
        from _signal import SIG_DFL, SIGINT, default_int_handler, set_wakeup_fd, signal  # noqa: PLC0415

        set_wakeup_fd(-1)
        for number in self._stop_on:
            signal(number, default_int_handler if number == SIGINT else SIG_DFL)
        os.close(self._signals)
        os.close(self._wakes)

    def _hand_on(self, numbers: bytes) -> None:
        for number in numbers:
            if number in self._stop_on:
                self._stopping = True
                os.kill(self._daemon, number)


def _log(text: str) -> None:
    import logging  # noqa: PLC0415

    logging.getLogger("orioncache").error(text)


def _hold(life: int) -> None:
    try:
        hold_lifeline(life)
    except OSError:
        # Where a thread may have no descriptors of its own: this one closes when all threads are gone.
        return


def _reason(status: int) -> str:
    if not status:
        return "killed"
    if os.WIFEXITED(status):
        return f"exit code {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    names = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}
    return f"signal {number} ({names.get(number, '?')})"
