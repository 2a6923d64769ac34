"""The command line as a whole: help, completion, errors."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orioncache.cli import COMMANDS, main
from orioncache.errors import UserError
from orioncache.process import run


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "Examples:" in said
    assert f"orioncache {command}" in said


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_and_their_flags(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*COMMANDS, "--variant", "--cache-size"):
        assert word in script


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bnech"])
    assert stop.value.code == 2
    assert "bnech" in capsys.readouterr().err


def test_a_failed_program_gives_its_last_lines_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as failed:
        run(
            [sys.executable, "-c", "import sys; print('why it failed', file=sys.stderr); sys.exit(3)"],
            mend="try again",
        )
    assert "exit code 3" in failed.value.message
    assert failed.value.mend == "try again"
    assert "why it failed" in capsys.readouterr().err


def test_dry_run_prints_what_can_be_pasted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["touch", "a b", tmp_path / "x"], dry_run=True) == b""
    assert capsys.readouterr().out == f"touch 'a b' {tmp_path / 'x'}\n"
    assert not (tmp_path / "x").exists()


def test_a_closed_pipe_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        [sys.executable, "-m", "orioncache", "completion", "bash"], stdout=writer, stderr=subprocess.PIPE
    ) as child:
        os.close(writer)
        _, said = child.communicate(timeout=60)
    assert b"Traceback" not in said
    assert child.returncode != 0
    assert child.returncode != -signal.SIGPIPE
