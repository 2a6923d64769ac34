"""`--trace`: cache variants that record what their boot asks for, and the files that it becomes."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from orioncache.bench.plan import Run, Variant
from orioncache.bench.qemu import Outcome
from orioncache.errors import UserError
from orioncache.trace import format
from orioncache.trace.format import Trace


def traced(variants: Sequence[Variant], mode: str) -> list[Variant]:
    """The variants, those of a release through the cache with tracing.

    Args:
        variants: as the user chose them.
        mode: what ``orion.trace`` shall be.

    Raises:
        UserError: none of them can record.
    """
    if not any(variant.records for variant in variants):
        raise UserError(
            "none of the variants records a trace", "--trace wants one that serves a release: orion"
        )
    return [
        dataclasses.replace(variant, words=[*variant.words, f"orion.trace={mode}"])
        if variant.records
        else variant
        for variant in variants
    ]


class TraceFiles:
    """Where the traces of a plan's runs go: one file, or with several runs one for each."""

    def __init__(self, path: Path, runs: Sequence[Run]) -> None:
        self._path = path
        self._single = sum(run.variant.records for run in runs) == 1
        self._runs = runs
        self._written: dict[str, Trace] = {}

    def take(self, run: Run, outcome: Outcome) -> None:
        """Writes a run's trace, if it sent one."""
        data = outcome.report.files.get("trace")
        if not data:
            return
        trace = format.decode(data, f"what {run.name} sent")
        if outcome.error:
            # Nobody shall learn from a boot that failed.
            trace = dataclasses.replace(trace, degraded=True)
        format.write(trace, self.path(run))
        self._written[run.name] = trace

    def tell(self) -> None:
        """Says which files there are now.

        Raises:
            UserError: there is none.
        """
        if not self._written:
            raise UserError("no boot sent a trace", "--keep keeps the boots' logs")
        for run in self._runs:
            trace = self._written.get(run.name)
            if trace is not None:
                marks = ", degraded" if trace.degraded else ""
                print(f"trace: {self.path(run)}: {len(trace.reads):,} reads{marks}", file=sys.stderr)

    def path(self, run: Run) -> Path:
        """The file of a run."""
        if self._single:
            return self._path
        return self._path.with_name(f"{self._path.stem}.{run.name}{self._path.suffix}")
