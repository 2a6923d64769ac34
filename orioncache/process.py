"""Other programs: run as lists, never through a shell, and printable with ``--dry-run``."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from orioncache.errors import UserError

# How much of a failed program's output is shown; the rest is in the log.
TAIL_LINES = 15


def command_line(command: Sequence[str | Path]) -> str:
    """The command as text that can be pasted into a shell."""
    return shlex.join(str(part) for part in command)


def require(program: str, package: str) -> str:
    """The path of ``program``, or an error that names Debian's package for it."""
    found = shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        raise UserError(f"{program} is not installed", f"apt-get install {package} (or: make setup)")
    return found


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: bytes | None = None,
    log: Path | None = None,
    dry_run: bool = False,
    mend: str = "",
) -> bytes:
    """Runs a program to its end and returns its standard output.

    Args:
        command: program and arguments.
        cwd: working directory.
        env: the whole environment; ours if None.
        input: bytes for standard input; without it standard input is empty.
        log: a file that gets output and errors together; then nothing is returned.
        dry_run: print the command instead.
        mend: advice to show when it fails.

    Raises:
        UserError: the program failed or is not there; with the last lines that it printed.
    """
    if dry_run:
        print(
            command_line(command) if cwd is None else f"cd {shlex.quote(str(cwd))} && {command_line(command)}"
        )
        return b""
    text = [str(part) for part in command]
    try:
        if log is None:
            done = subprocess.run(
                text, cwd=cwd, env=env, input=input or b"", capture_output=True, check=False
            )
            said = done.stderr or done.stdout
        else:
            with log.open("ab") as file:
                done = subprocess.run(
                    text, cwd=cwd, env=env, input=input or b"", stdout=file, stderr=file, check=False
                )
            said = log.read_bytes() if done.returncode else b""
    except FileNotFoundError as error:
        raise UserError(
            f"cannot run {text[0]}: {error.strerror}", mend or "make setup installs what is needed"
        ) from None
    if done.returncode:
        tail = "\n".join(said.decode(errors="replace").splitlines()[-TAIL_LINES:])
        if tail:
            print(tail, file=sys.stderr)
        raise UserError(
            f"{Path(text[0]).name} failed with exit code {done.returncode}: {command_line(text)[:300]}", mend
        )
    return done.stdout or b""
