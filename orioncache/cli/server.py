"""List, add, remove and drain the servers of a running cache, and check whole copies of a release.

A server is a directory that holds the release (or tree) that the cache serves, or HOST:/PATH, which the cache
mounts. All but check ask the cache through its control socket, which answers while every server is down.

Examples:
  orioncache server list
  orioncache server add /mnt/cached /mnt/nfs3
  orioncache server drain /mnt/cached 0          # no new reads; drain --off takes that back
  orioncache server remove /mnt/cached /mnt/nfs1
  orioncache server check /mnt/nfs1 /mnt/nfs2 --rate 20M
"""

import argparse
import json
import os

from orioncache.cli import checking
from orioncache.cli.status import servers
from orioncache.control import client


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the subcommands."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = commands.add_parser(
        "list",
        help="show the servers of a running cache",
        description="Shows each server's state, why it is in that, and what it did.",
        epilog="Examples:\n  orioncache server list\n  orioncache server list /mnt/cached --json",
        formatter_class=parser.formatter_class,
    )
    show.add_argument(
        "where", nargs="?", metavar="MOUNTPOINT|SOCKET", help="which cache (default: the only one)"
    )
    show.add_argument("--json", action="store_true", help="print all there is, for programs")
    show.set_defaults(run=_list)
    add = commands.add_parser(
        "add",
        help="have a running cache read from one more server",
        description="Adds a server. One that turns out to have something else than the cache serves is\n"
        "quarantined: see orioncache server list. A directory's path is the daemon's: on a node that is\n"
        "one of the initramfs, so give HOST:/PATH there.",
        epilog="Examples:\n"
        "  orioncache server add /mnt/cached /mnt/nfs3\n"
        "  orioncache server add /run/orion/control.sock 10.0.0.3:/srv/store/releases/debian/12.8",
        formatter_class=parser.formatter_class,
    )
    _where(add)
    add.add_argument("source", metavar="SOURCE", help="a directory, or HOST:/PATH")
    add.set_defaults(run=_add)
    remove = commands.add_parser(
        "remove",
        help="have it read no more from a server, and forget it",
        description="Removes a server. What is being read there is read from the others. The last server\n"
        "cannot be removed.",
        epilog="Examples:\n"
        "  orioncache server remove /mnt/cached 1\n"
        "  orioncache server remove /mnt/cached /mnt/nfs1",
        formatter_class=parser.formatter_class,
    )
    _where(remove)
    _server(remove)
    remove.set_defaults(run=_remove)
    drain = commands.add_parser(
        "drain",
        help="have it send no new reads to a server",
        description="Sends no new reads to a server, as before maintenance; those under way end there.",
        epilog="Examples:\n"
        "  orioncache server drain /mnt/cached 1\n"
        "  orioncache server drain /mnt/cached 1 --off",
        formatter_class=parser.formatter_class,
    )
    _where(drain)
    _server(drain)
    drain.add_argument("--off", action="store_true", help="send reads there again")
    drain.set_defaults(run=_drain)
    checking.configure(commands, parser.formatter_class)


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("where", metavar="MOUNTPOINT|SOCKET", help="which cache")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER", help="its number or its source, as list shows them")


def _list(args: argparse.Namespace) -> int:
    path, _ = client.locate(args.where)
    found = client.servers(path)
    print(json.dumps(found, indent=2) if args.json else "\n".join(servers(found)))
    return 0


def _add(args: argparse.Namespace) -> int:
    source = args.source
    if source.startswith(("/", ".")) or ":/" not in source:
        source = os.path.abspath(source)  # noqa: PTH100  # the daemon has a working directory of its own
    return _change(args, "added", "server-add", source=source)


def _remove(args: argparse.Namespace) -> int:
    return _change(args, "removed", "server-remove", server=args.server)


def _drain(args: argparse.Namespace) -> int:
    done = "read from again" if args.off else "drained: it gets no new reads"
    return _change(args, done, "server-drain", server=args.server, on=not args.off)


def _change(args: argparse.Namespace, done: str, op: str, **arguments: object) -> int:
    path, _ = client.locate(args.where)
    found = client.change(path, op, **arguments)
    print(json.dumps(found) if args.json else f"{found['number']} {found['source']} is {done}")
    return 0
