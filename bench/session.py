"""Runs a plan: boots its machines, some at the same time, and keeps a sample of each."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from orioncache.bench.plan import Run
from orioncache.bench.probed import probed
from orioncache.bench.qemu import Machine, Outcome, boot
from orioncache.bench.sample import Sample
from orioncache.process import command_line
from orioncache.progress import step


def run_plan(
    runs: Sequence[Run],
    machine: Callable[[Run], Machine],
    *,
    clock: str,
    servers: int,
    logs: Path,
    jobs: int,
    timeout: float,
    failed: Callable[[Run, Outcome], None],
    ended: Sequence[Callable[[Run, Outcome], None]] = (),
) -> list[Sample]:
    """Boots all runs and returns their samples in the plan's order.

    Args:
        runs: the plan.
        machine: makes the guest of a run; called just before its boot.
        clock: for the samples.
        servers: for the samples.
        logs: directory for a directory of logs per run.
        jobs: boots at the same time.
        timeout: seconds of real time for one boot.
        failed: told of each run that was not ok.
        ended: they are told of each run, as soon as it has ended.
    """
    stop = threading.Event()
    samples: dict[int, Sample] = {}

    def one(run: Run) -> tuple[Sample, Outcome]:
        guest = machine(run)
        directory = logs / run.name
        outcome = boot(guest, directory, timeout, stop)
        sample = sample_of(run, guest, outcome, clock=clock, servers=servers)
        return sample, outcome

    with step("booting", f"{len(runs)} runs", total=len(runs)) as progress, ThreadPoolExecutor(jobs) as pool:
        try:
            waiting: dict[Future[tuple[Sample, Outcome]], int] = {}
            todo = list(enumerate(runs))
            while todo or waiting:
                while todo and len(waiting) < jobs:
                    index, run = todo.pop(0)
                    waiting[pool.submit(one, run)] = index
                names = ", ".join(runs[index].name for index in waiting.values())
                left = progress.elapsed / len(samples) * (len(runs) - len(samples)) if samples else 0.0
                progress.update(len(samples), names + (f"; about {left:.0f} s left" if left else ""))
                done, _ = wait(waiting, timeout=5, return_when=FIRST_COMPLETED)
                for future in done:
                    index = waiting.pop(future)
                    sample, outcome = future.result()
                    samples[index] = sample
                    for tell in ended:
                        tell(runs[index], outcome)
                    if not sample.ok:
                        failed(runs[index], outcome)
        finally:
            # A Ctrl-C ends here: the guests that run are ended before the pool is waited for.
            stop.set()
    return [samples[index] for index in sorted(samples)]


def sample_of(run: Run, machine: Machine, outcome: Outcome, *, clock: str, servers: int) -> Sample:
    """What is kept of one boot."""
    report = outcome.report
    phases = report.phases()
    error = outcome.error
    if not error and phases is None:
        error = (
            f"the guest was ready, but some of its time stamps are missing; it gave {', '.join(report.marks)}"
        )
    sample = Sample(
        variant=run.variant.name,
        rtt_ms=run.link.rtt_ms,
        rate_mbit=run.link.rate_mbit,
        run=run.number,
        ok=not error,
        clock=clock,
        boot_s=phases.boot if phases else None,
        phases_s=phases,
        nfs=report.nfs(),
        cache=report.cache(),
        memory_mb=report.memory_mb(),
        command=command_line(machine.command(Path())),
        error=error or None,
        jitter_ms=run.link.jitter_ms,
        loss_percent=run.link.loss_percent,
        servers=servers,
        accel=machine.accel,
        real_s=round(outcome.real_s, 2),
        nbd=report.nbd(),
    )
    return sample if run.trouble is None else probed(sample, run.trouble, report)
