"""What an answer says: something about a file, or about the server that gave it."""

import enum
import errno

# Errors that speak of the server or of the way to it; all others are answers about the file.
SERVER_ERRORS = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EIO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENODEV,
        errno.ENOTCONN,
        errno.EPIPE,
        errno.EREMOTEIO,
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,
    }
)


class NoServerError(OSError):
    """No server answers, and the caller does not want to wait until one does."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "no server answers")


class Verdict(enum.Enum):
    """GOOD: what was asked for. OF_FILE: an error that is an answer, such as ENOENT. STALE: this server has
    something else there. OF_SERVER: an error of the server or of the way to it. BUG: one of ours.
    """

    GOOD = enum.auto()
    OF_FILE = enum.auto()
    STALE = enum.auto()
    OF_SERVER = enum.auto()
    BUG = enum.auto()


def judge(error: BaseException | None) -> Verdict:
    """What the error of an answer says; None: there is none."""
    if error is None:
        return Verdict.GOOD
    if not isinstance(error, OSError):
        return Verdict.BUG
    if error.errno == errno.ESTALE:
        return Verdict.STALE
    return Verdict.OF_SERVER if error.errno in SERVER_ERRORS else Verdict.OF_FILE


def shown(error: OSError) -> OSError:
    """The error as a process may see it: none of them ever expected ETIMEDOUT of a file."""
    if isinstance(error, NoServerError) or error.errno not in SERVER_ERRORS:
        return error
    return OSError(errno.EIO, error.strerror)
