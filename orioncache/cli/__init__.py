"""The command line: one module per subcommand, loaded only when it is asked for."""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from orioncache import __version__
from orioncache.errors import UserError

# name -> (module, one line of help). A module has `configure(parser)`, which sets `run` to a function
# of the parsed arguments that returns the exit code; its docstring is the long help, with examples.
COMMANDS = {
    "mount": ("orioncache.cli.mount", "serve a directory or NFS mounts through the cache"),
    "status": ("orioncache.cli.status", "show what a running cache does"),
    "events": ("orioncache.cli.events", "show what happened to a running cache, and go on with it"),
    "metrics": ("orioncache.cli.metrics", "print a running cache's figures for Prometheus"),
    "server": ("orioncache.cli.server", "list, add, remove, drain and check the servers of a cache"),
    "release": ("orioncache.release.cli", "build releases of a root, and look after their store"),
    "trace": ("orioncache.trace.cli", "record what a boot asks of a release, and look at it"),
    "profile": ("orioncache.profile.cli", "learn from recorded boots what nodes read"),
    "prefetch": ("orioncache.prefetch.cli", "list what can be fetched ahead, and learn from traces"),
    "simulate": (
        "orioncache.simulate.cli",
        "replay a recorded boot over another link, with other heuristics",
    ),
    "kernel": ("orioncache.kernel.cli", "configure, build and check kernels for diskless nodes"),
    "initramfs": ("orioncache.initramfs.cli", "build and inspect the image that a node boots"),
    "bench": ("orioncache.bench.cli", "boot nodes under QEMU and measure where the time goes"),
    "completion": ("orioncache.cli.completion", "print a completion script for bash, zsh or tcsh"),
}

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser; with ``only``, just that subcommand's module is imported."""
    parser = argparse.ArgumentParser(
        prog="orioncache",
        description="A FUSE read cache for diskless nodes, and the workbench around it.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.",
        formatter_class=_formatter(),
    )
    parser.add_argument("--version", action="version", version=f"orioncache {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module_name, help_line) in COMMANDS.items():
        if only in (None, name):
            module = importlib.import_module(module_name)
            sub = commands.add_parser(
                name, help=help_line, description=_description(module), formatter_class=parser.formatter_class
            )
            module.configure(sub)
        else:
            commands.add_parser(name, help=help_line)
    return parser


def _description(module: ModuleType) -> str:
    return (module.__doc__ or "").strip()


def _formatter() -> type[argparse.HelpFormatter]:
    """Coloured help where rich is installed (a workbench), plain text where it is not (a node)."""
    if not sys.stdout.isatty() or not {"-h", "--help"} & set(sys.argv):
        return argparse.RawDescriptionHelpFormatter
    try:
        from rich_argparse import RawDescriptionRichHelpFormatter  # noqa: PLC0415
    except ImportError:
        return argparse.RawDescriptionHelpFormatter
    return RawDescriptionRichHelpFormatter


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # A service manager's SIGTERM is cleaned up after as a Ctrl-C is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        parser = build_parser(arguments[0] if arguments and arguments[0] in COMMANDS else "")
        parsed = parser.parse_args(arguments)
        run: Callable[[argparse.Namespace], int] = parsed.run
        return run(parsed)
    except UserError as error:
        print(error.lines(), file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("orioncache: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`| head`); Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        print(UserError(f"{where}{error.strerror}", _mend_for(error)).lines(), file=sys.stderr)
        return 1


def _mend_for(error: OSError) -> str:
    mends = {
        "ENOSPC": "free some space, or point ORION_CACHE at another disk",
        "EACCES": "run it as root",
        "EPERM": "run it as root",
        "ENOENT": "check the path",
        "EROFS": "point ORION_CACHE or the output at a writable file system",
    }
    import errno  # noqa: PLC0415

    return mends.get(errno.errorcode.get(error.errno or 0, ""), "")
