"""Boots a diskless node again and again under QEMU and prints where the time went.

Every run is a whole boot: kernel, initramfs, userland, until the workload exits 0. Variants differ only in
where the root comes from; kernel, workload, overlay and links are the same. With the virtual clock (the
default) the guest's time is counted in instructions and its servers live in the guest, so that figures repeat
to a fraction of a percent on any machine; with the wall clock real servers stand outside. Needs root rights.

Examples:
  orioncache bench                                    NFS, the cache and RAM at 0, 1 and 10 ms
  orioncache bench --variant nfs,orion --rtt 1 --runs 5
  orioncache bench --rtt 20 --rate 100 --jitter 2 --loss 0.1
  orioncache bench --workload nodejs --variant nfs,nbd-squashfs,orion --rtt 1
  orioncache bench --root /srv/node --workload ./ready.sh --append init=/sbin/init
  orioncache bench --fragment CONFIG_PREEMPT=y --json samples.json --html report.html
  orioncache bench --clock wall --keep=logs
  orioncache bench --variant orion --rtt 0 --trace boot.trace --trace-touch
  orioncache bench --fault kill@switch_root,hang@userland+0.1 --variant orion,nfs-hard
  orioncache bench --fault blackhole@mount:server=2:for=5 --variant orion
  orioncache bench --fault all --html faults.html     every kind at three points of the boot, beside plain NFS
  orioncache bench fs --help                          the file system alone, without a boot
  orioncache bench hedge --help                       hedged reads alone, over servers that are late

Exit code: 0 if every boot was ok, 1 if one was not, 130 after Ctrl-C. With --fault a boot over plain NFS may
fail: that is a figure too.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from orioncache.atomic import replacing
from orioncache.bench.fault import DIVERGENT, FAULT_KERNEL, KINDS, MATRIX_POINTS, Fault, check, parse
from orioncache.bench.fault import plan as plan_faults
from orioncache.bench.fs import cli as fs
from orioncache.bench.hedge import cli as hedge
from orioncache.bench.kept import DEFAULT, KEPT, Kept
from orioncache.bench.plan import VARIANTS, Link, Run, Variant, choose, plan
from orioncache.bench.qemu import Machine, Outcome, choose_accel
from orioncache.bench.scene import Scene
from orioncache.bench.tracing import TraceFiles, traced
from orioncache.bench.waterfall.recording import recording
from orioncache.errors import UserError
from orioncache.process import command_line

DEFAULT_VARIANTS = "nfs,orion,ram"
DEFAULT_RTT = "0,1,10"
FAULT_VARIANTS = "orion,nfs-softerr,nfs-hard"
FAULT_RTT = "1"

# Seconds of real time for one boot; with the virtual clock one takes 10 to 60.
DEFAULT_TIMEOUT = 300.0

LOG_TAIL = 10  # lines of a failed workload's output


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    what = parser.add_argument_group("what is booted")
    what.add_argument(
        "--variant",
        metavar="LIST",
        help=f"of {', '.join(VARIANTS)} (default: {DEFAULT_VARIANTS}; with --fault {FAULT_VARIANTS})",
    )
    what.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="the node's root (default: the workload's own, a Debian root that is built once)",
    )
    what.add_argument(
        "--workload",
        default=DEFAULT,
        metavar="NAME",
        help="; ".join(f"{each.name}: {each.help}" for each in KEPT.values())
        + "; or a FILE, an executable whose exit 0 in the node means ready (default: %(default)s)",
    )
    what.add_argument(
        "--release",
        type=Path,
        metavar="DIR",
        help="a release of the root, STORE/releases/NAME/VERSION (default: built once)",
    )
    what.add_argument(
        "--key", type=Path, metavar="FILE", help="build this public key into the node's initramfs"
    )
    what.add_argument("--kernel", type=Path, metavar="FILE", help="a bzImage (default: ours, built once)")
    what.add_argument(
        "--fragment",
        action="append",
        default=[],
        metavar="F",
        help="add to the kernel: name, file or CONFIG_X=y; again for more",
    )
    what.add_argument(
        "--append",
        action="append",
        default=[],
        metavar="ARGS",
        help="add to the kernel command line; again for more",
    )
    link = parser.add_argument_group("link and servers")
    link.add_argument(
        "--rtt",
        type=_numbers,
        metavar="LIST",
        help=f"round trips in ms (default: {DEFAULT_RTT}; with --fault {FAULT_RTT})",
    )
    link.add_argument(
        "--rate",
        type=_positive,
        metavar="MBIT",
        help="the link's speed in each direction (default: not limited)",
    )
    link.add_argument(
        "--jitter", type=_number, default=0.0, metavar="MS", help="the delay varies by this in each direction"
    )
    link.add_argument(
        "--loss", type=_percent, default=0.0, metavar="PERCENT", help="packets lost in each direction"
    )
    link.add_argument(
        "--servers", type=_count, default=2, metavar="N", help="NFS servers (default: %(default)s)"
    )
    fault = parser.add_argument_group("faults")
    fault.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="LIST",
        help="boots with a fault, beside faultless ones: KIND@POINT[:server=N][:for=SECONDS]. "
        + "; ".join(f"{kind.name}: {kind.help}" for kind in KINDS.values()).replace("%", "%%")
        + ". POINT: power-on, mount, switch_root, userland+SECONDS, idle. server=1 is the default, "
        "and asked first; 1+2 or all are several. all: the matrix of all kinds at "
        + ", ".join(MATRIX_POINTS),
    )
    how = parser.add_argument_group("how it is measured")
    how.add_argument(
        "--runs",
        type=_count,
        default=1,
        metavar="N",
        help="boots of each variant and link (default: %(default)s)",
    )
    how.add_argument("--clock", choices=("virtual", "wall"), default="virtual", help="default: %(default)s")
    how.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="default: %(default)s")
    how.add_argument(
        "--jobs",
        type=_count,
        metavar="N",
        help="boots at the same time (default: one for each processor; 1 with the wall clock)",
    )
    how.add_argument(
        "--timeout",
        type=_positive,
        default=DEFAULT_TIMEOUT,
        metavar="S",
        help="real seconds for one boot (default: %(default)g)",
    )
    out = parser.add_argument_group("results")
    out.add_argument("--json", type=Path, metavar="FILE", help="every raw sample and the environment")
    out.add_argument("--html", type=Path, metavar="FILE", help="one self-contained page")
    out.add_argument(
        "--waterfall",
        action=argparse.BooleanOptionalAction,
        help="record the first run of each orion variant on each link, for the page and --json, at less than "
        "0.5%% of a boot (default: with --html)",
    )
    out.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="what each boot from a release asked for; with several runs a file for each, named after it",
    )
    out.add_argument(
        "--trace-touch",
        action="store_true",
        help="with --trace: page by page as they are touched, nothing read ahead; such a boot is slower",
    )
    out.add_argument(
        "--keep",
        nargs="?",
        type=Path,
        const=Path("bench-logs"),
        metavar="DIR",
        help="keep each boot's logs (in DIR: bench-logs)",
    )
    out.add_argument(
        "--dry-run",
        action="store_true",
        help="print the commands that build the kernel and boot, run none; the root they name is built",
    )
    parser.set_defaults(run=run)
    commands = parser.add_subparsers(title="without a boot", metavar="COMMAND")
    for name, alone in (("fs", fs), ("hedge", hedge)):
        alone.configure(
            commands.add_parser(
                name, help=alone.HELP, description=alone.__doc__, formatter_class=parser.formatter_class
            )
        )


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no number") from None
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"'{text}' is out of range")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if value == 0:
        raise argparse.ArgumentTypeError("it must be more than 0")
    return value


def _percent(text: str) -> float:
    value = _number(text)
    if value >= 100:
        raise argparse.ArgumentTypeError("it must be below 100")
    return value


def _numbers(text: str) -> list[float]:
    return list(dict.fromkeys(_number(part) for part in text.split(",")))


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 99:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1 to 99")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Builds what is missing, boots, reports."""
    args.variant = args.variant or (FAULT_VARIANTS if args.fault else DEFAULT_VARIANTS)
    args.rtt = args.rtt or _numbers(FAULT_RTT if args.fault else DEFAULT_RTT)
    variants = choose([name.strip() for name in args.variant.split(",")])
    faults = parse(args.fault, args.servers)
    if faults:
        check(faults, variants, args.fault)
    if args.trace is not None:
        variants = traced(variants, "touch" if args.trace_touch else "on")
    elif args.trace_touch:
        raise UserError("--trace-touch says how --trace records", "say --trace FILE as well")
    links = [Link(rtt, args.rate, args.jitter, args.loss) for rtt in args.rtt]
    runs = plan_faults(faults, variants, links, args.runs) if faults else plan(variants, links, args.runs)
    if args.html is not None if args.waterfall is None else args.waterfall:
        runs = recording(runs)
    if os.geteuid() != 0 and not args.dry_run:
        raise UserError("the bench makes namespaces, device nodes and mounts", "run it as root (sudo)")
    for path in (args.json, args.html, args.trace):
        _check_output(path)
    if faults and args.clock == "wall":
        raise UserError("--fault needs servers in the guest, on the virtual clock", "leave --clock wall out")
    if args.clock == "wall" and any(variant.source == "nbd" for variant in variants):
        raise UserError(
            "nbd-squashfs has its server in the guest, on the virtual clock",
            "--clock virtual, or leave nbd-squashfs out of --variant",
        )
    accel, remark = choose_accel(args.accel, virtual=args.clock == "virtual")
    if remark:
        print(remark, file=sys.stderr)
    scene = prepare(args, accel, variants, faults)
    if args.dry_run:
        return _print_commands(args, scene, runs)
    return _measure(args, scene, runs)


def _check_output(path: Path | None) -> None:
    if path is not None and (not path.parent.is_dir() or path.is_dir()):
        raise UserError(f"{path} cannot be written", "name a file in a directory that exists")


def prepare(
    args: argparse.Namespace, accel: str, variants: Sequence[Variant], faults: Sequence[Fault] = ()
) -> Scene:
    """Kernel, image, root, workload and what the variants want of the root, where they are not there yet.

    Raises:
        UserError: one of them is not fit, or cannot be built.
    """
    from orioncache.bench.bundled import bundled_release, check_bundle  # noqa: PLC0415
    from orioncache.bench.image import bench_image  # noqa: PLC0415
    from orioncache.bench.probe import probe_files  # noqa: PLC0415
    from orioncache.bench.released import bench_release, check_release  # noqa: PLC0415
    from orioncache.bench.root import build_root, check_root, debian_recipe, disk_image  # noqa: PLC0415
    from orioncache.bench.squashed import KERNEL, bench_squashfs  # noqa: PLC0415
    from orioncache.bench.workload import find_workload, inject  # noqa: PLC0415
    from orioncache.initramfs.build import build_initramfs  # noqa: PLC0415

    append = [word for text in args.append for word in text.split()]
    init = next((word.removeprefix("init=") for word in reversed(append) if word.startswith("init=")), None)
    bundled = any(variant.bundled for variant in variants)
    # What the user gave is checked before minutes are spent on what is ours.
    if args.root is not None:
        check_root(args.root, init)
    if args.release is not None:
        check_release(args.release)
        if bundled:
            check_bundle(args.release)
    network_block = any(variant.source == "nbd" for variant in variants)
    kernel = _kernel(args, [*(KERNEL if network_block else ()), *(FAULT_KERNEL if faults else ())])
    workload = find_workload(args.workload)
    recipe = workload.recipe if isinstance(workload, Kept) else debian_recipe()
    root = check_root(args.root or build_root(recipe), init)
    injection = inject(root, workload)
    initramfs = build_initramfs(key=args.key)
    released = any(variant.released for variant in variants)
    release = (args.release or bench_release(root.path)) if released else None
    squashed = bench_squashfs(root.path) if network_block else None
    files = dict(injection.files)
    if faults:
        divergent = any(fault.kind.name == DIVERGENT for fault in faults)
        files |= probe_files(root.path, release, divergent=divergent)
    scene = Scene(
        kernel=kernel,
        initramfs=initramfs,
        initrd=bench_image(files, node_image=initramfs),
        root=root.path,
        disk=disk_image(root.path),
        release=release,
        release_disk=disk_image(release) if release else None,
        squashed=squashed,
        squashed_disk=disk_image(squashed) if squashed else None,
        init=injection.init,
        append=[word for word in append if not word.startswith("init=")],
        servers=args.servers,
        accel=accel,
        copies=max((len(fault.servers) for fault in faults if fault.kind.copies), default=0),
    )
    if not bundled:
        return scene
    if args.release is not None:
        return dataclasses.replace(scene, bundled=scene.release, bundled_disk=scene.release_disk)
    place = bundled_release(scene, injection.files, timeout=args.timeout, record=not args.dry_run)
    return dataclasses.replace(scene, bundled=place, bundled_disk=disk_image(place))


def _kernel(args: argparse.Namespace, needed: Sequence[str]) -> Path:
    from orioncache.kernel.build import build_kernel  # noqa: PLC0415
    from orioncache.kernel.check import check_image  # noqa: PLC0415

    if args.kernel is None:
        return build_kernel(["bench", *args.fragment], dry_run=args.dry_run).image
    if args.fragment:
        raise UserError(
            "--kernel gives a kernel that is built, --fragment builds one", "leave one of them out"
        )
    check_image(args.kernel, ["bench", *needed])
    return Path(args.kernel)


def _clock(name: str) -> Callable[[Scene], AbstractContextManager[Callable[[Run], Machine]]]:
    from orioncache.bench.virtual import virtual_clock  # noqa: PLC0415
    from orioncache.bench.wall import wall_clock  # noqa: PLC0415

    return virtual_clock if name == "virtual" else wall_clock


def _print_commands(args: argparse.Namespace, scene: Scene, runs: Sequence[Run]) -> int:
    with _clock(args.clock)(scene) as machine:
        for each in runs:
            print(f"# {each.name}")
            print(command_line(machine(each).command(Path("bench-logs", each.name))))
    return 0


def _measure(args: argparse.Namespace, scene: Scene, runs: Sequence[Run]) -> int:
    from orioncache.bench import report  # noqa: PLC0415
    from orioncache.bench.environment import environment  # noqa: PLC0415
    from orioncache.bench.sample import SCHEMA, Document, write  # noqa: PLC0415
    from orioncache.bench.session import run_plan  # noqa: PLC0415
    from orioncache.bench.waterfall.collecting import Waterfalls  # noqa: PLC0415

    waterfalls = Waterfalls(scene)
    jobs = 1 if args.clock == "wall" else args.jobs or len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        logs = args.keep
        if logs is None:
            logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orion-bench-")))
        machine = stack.enter_context(_clock(args.clock)(scene))
        traces = TraceFiles(args.trace, runs) if args.trace is not None else None
        samples = run_plan(
            runs,
            machine,
            clock=args.clock,
            servers=args.servers,
            logs=logs,
            jobs=min(jobs, len(runs)),
            timeout=args.timeout,
            failed=_tell_failure,
            ended=[waterfalls.take, *([traces.take] if traces else [])],
        )
    samples = waterfalls.complete(runs, samples)
    document = Document(SCHEMA, environment(args, scene), samples)
    # First: what was measured for an hour must not be lost for a table's sake.
    if args.json is not None:
        write(document, args.json)
    report.table(document)
    if args.html is not None:
        with replacing(args.html) as file:
            file.write(report.page(document, waterfalls.first(runs)).encode())
    if traces is not None:
        traces.tell()
    # What plain NFS does in trouble is what was asked.
    failed = [s for s in samples if not s.ok and not (s.fault and VARIANTS[s.variant].source == "nfs")]
    if not failed:
        return 0
    mend = "the console's last lines stand above"
    raise UserError(
        f"{len(failed)} of {len(samples)} boots failed; the first: {failed[0].variant}: {failed[0].error}",
        f"{mend}; whole logs are in {args.keep}" if args.keep else f"{mend}; --keep keeps whole logs",
    )


def _tell_failure(run: Run, outcome: Outcome) -> None:
    if run.trouble and run.variant.source == "nfs":
        return
    lines = [f"--- {run.name} failed: {outcome.error}"]
    lines += [f"  workload: {line}" for line in outcome.report.log[-LOG_TAIL:]]
    lines += [f"  console: {line}" for line in outcome.console]
    print("\n".join(lines), file=sys.stderr)
