"""Print a completion script for a shell.

Examples:
  orioncache completion bash > /etc/bash_completion.d/orioncache
  orioncache completion zsh > /usr/local/share/zsh/site-functions/_orioncache
"""

import argparse

from orioncache.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of ``orioncache completion``."""
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="the shell to complete in")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    try:
        import shtab  # noqa: PLC0415
    except ImportError:
        raise UserError("shtab is not installed", "pip install 'orioncache[workbench]'") from None
    from orioncache.cli import build_parser  # noqa: PLC0415

    print(shtab.complete(build_parser(), shell=args.shell))
    return 0
