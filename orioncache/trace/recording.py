"""Takes what a running cache has recorded."""

import dataclasses
import subprocess
import time
from collections.abc import Sequence

from orioncache.control import client
from orioncache.errors import UserError
from orioncache.trace.format import Trace, decode


def record(where: str | None) -> Trace:
    """All that a cache has recorded since it began.

    Args:
        where: a mount point, a control socket, or None for the only cache that runs.

    Raises:
        UserError: no such cache, or it records nothing.
    """
    path, _ = client.locate(where)
    return decode(client.trace(path), path)


def record_while(where: str | None, command: Sequence[str]) -> tuple[Trace, int]:
    """What a cache records while a command runs, and the command's exit code.

    The trace begins with the command, and holds what other programs ask for meanwhile as well.

    Raises:
        UserError: as :func:`record`, or there is no such command; nothing was run then.
    """
    path, _ = client.locate(where)
    decode(client.trace(path), path)  # before anything is run for nothing
    began = time.monotonic_ns()
    try:
        code = subprocess.run(command, check=False).returncode
    except OSError as error:
        raise UserError(f"{command[0]}: {error.strerror}", "check its spelling") from None
    return since(record(path), began), code if code >= 0 else 128 - code


def since(trace: Trace, began: int) -> Trace:
    """The part of a trace from a moment on, with no more files and blocks than it speaks of."""
    records = [record for record in trace.records if record.t_ns >= began]
    inodes = {record.inode for record in records}
    blocks = {(record.inode, part.file_block) for record in records for part in trace.parts(record)}
    return dataclasses.replace(
        trace,
        records=records,
        started_ns=began,
        files={inode: file for inode, file in trace.files.items() if inode in inodes},
        digests={where: digest for where, digest in trace.digests.items() if where in blocks},
        fetches=tuple(fetch for fetch in trace.fetches if fetch.t_ns >= began),
    )
