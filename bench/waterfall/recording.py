"""Which runs are recorded."""

import dataclasses
from collections.abc import Sequence

from orioncache.bench.plan import Run


def recording(runs: Sequence[Run]) -> list[Run]:
    """The plan, with the cache recording in the first run of each variant of a release, on each link.

    Runs with faults do not record. A run that records already, as ``--trace`` has it, stays as it is.
    """
    return [
        dataclasses.replace(
            run,
            variant=dataclasses.replace(run.variant, words=[*run.variant.words, "orion.trace=on"]),
        )
        if run.number == 1 and not run.trouble and run.variant.records and not _is_recording(run)
        else run
        for run in runs
    ]


def _is_recording(run: Run) -> bool:
    return any(word.startswith("orion.trace=") for word in run.variant.words)
