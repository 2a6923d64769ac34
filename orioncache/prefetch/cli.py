"""What can be fetched ahead: lists the heuristics with their tunables, and learns from traces.

Examples:
  orioncache prefetch list                                  ours, and those that other packages add
  orioncache prefetch list --json
  orioncache prefetch train boot1.trace boot2.trace --output boot.model
  orioncache simulate boot3.trace --heuristic successor:model=boot.model
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orioncache.atomic import replacing
from orioncache.errors import UserError
from orioncache.prefetch import registry
from orioncache.prefetch.interface import ERROR, READ, Tunable
from orioncache.prefetch.scheduler import LIMITS
from orioncache.prefetch.successor_model import Model, train


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of ``orioncache prefetch``."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    shown = commands.add_parser("list", help="heuristics and scheduler, with what can be set")
    shown.add_argument("--json", action="store_true", help="for programs")
    shown.set_defaults(run=_list)
    learn = commands.add_parser("train", help="mine traces for which block follows which")
    learn.add_argument("traces", nargs="+", type=Path, metavar="TRACE", help="boots of the same role")
    learn.add_argument("--output", required=True, type=Path, metavar="FILE", help="the model")
    learn.add_argument("--json", action="store_true", help="print what was learned, for programs")
    learn.set_defaults(run=_train)


def _list(args: argparse.Namespace) -> int:
    found: list[tuple[str, str, Sequence[Tunable], str]] = []
    for name in registry.names():
        try:
            kind = registry.load(name)
        except UserError as error:
            found.append((name, "", (), error.message))
        else:
            found.append((name, (kind.__doc__ or "").strip().split("\n")[0], kind.tunables, ""))
    found.append(("scheduler", "What departs next.", LIMITS, ""))
    if args.json:
        print(json.dumps([_as_dict(*each) for each in found], indent=2))
        return 0
    for name, help_line, tunables, problem in found:
        print(f"{name}: {problem or help_line}")
        for each in tunables:
            value = f"{each.default}{f' {each.unit}' if each.unit else ''}"
            print(f"  {each.name:12} {each.help} (default: {value})")
    return 0


def _as_dict(name: str, help_line: str, tunables: Sequence[Tunable], problem: str) -> dict[str, Any]:
    return {
        "name": name,
        "help": help_line,
        "problem": problem or None,
        "tunables": [
            {"name": each.name, "default": each.default, "unit": each.unit, "help": each.help}
            for each in tunables
        ],
    }


def _train(args: argparse.Namespace) -> int:
    from orioncache.trace.format import read  # noqa: PLC0415

    boots = []
    for path in args.traces:
        trace = read(path)
        if trace.degraded:
            raise UserError(f"{path} is of a degraded boot: nothing can be learned from it", "leave it out")
        seen: set[bytes] = set()
        boot = []
        for record in trace.records:
            if record.kind != READ or record.outcome == ERROR:
                continue
            for part in trace.parts(record):
                digest = trace.digests.get((record.inode, part.file_block))
                if digest is not None and digest not in seen:
                    seen.add(digest)
                    boot.append((trace.seconds(record), digest))
        if not boot:
            raise UserError(
                f"{path} names no blocks", "record it with orioncache trace record or bench --trace"
            )
        boots.append(boot)
    data = train(boots)
    with replacing(args.output) as file:
        file.write(data)
    model = Model(data)
    edges = sum(len(model.successors(number)) for number in range(model.blocks))
    facts = {"path": str(args.output), "boots": len(boots), "blocks": model.blocks, "successors": edges,
             "bytes": len(data)}  # fmt: skip
    if args.json:
        print(json.dumps(facts))
    else:
        what = f"{model.blocks:,} blocks, {edges:,} successors, from {len(boots)} boots; {len(data):,} bytes"
        print(f"{args.output}: {what}")
    return 0
