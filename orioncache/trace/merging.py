"""Several traces of one release as one."""

import dataclasses
from collections.abc import Sequence

from orioncache.errors import UserError
from orioncache.trace.format import Trace


def merge(traces: Sequence[Trace], names: Sequence[str]) -> Trace:
    """All records on one clock, on which every trace begins at 0.

    The result is one of first touches if all are, and degraded if one is.

    Args:
        traces: at least one.
        names: what to call them in an error.

    Raises:
        UserError: they are not of the same release.
    """
    first = traces[0]
    for trace, name in zip(traces, names, strict=True):
        if trace.manifest_digest != first.manifest_digest:
            raise UserError(
                f"{name} is of {_release(trace)}, and {names[0]} of {_release(first)}",
                "merge traces of one release; a profile carries over from one to the next",
            )
    moved = [
        record._replace(t_ns=max(0, record.t_ns - trace.started_ns))
        for trace in traces
        for record in trace.records
    ]
    fetches = [
        fetch._replace(t_ns=max(0, fetch.t_ns - trace.started_ns))
        for trace in traces
        for fetch in trace.fetches
    ]
    return dataclasses.replace(
        first,
        records=sorted(moved, key=lambda record: record.t_ns),
        started_ns=0,
        first_touches=all(trace.first_touches for trace in traces),
        degraded=any(trace.degraded for trace in traces),
        lost=sum(trace.lost for trace in traces),
        files={inode: file for trace in traces for inode, file in trace.files.items()},
        digests={where: digest for trace in traces for where, digest in trace.digests.items()},
        fetches=tuple(sorted(fetches, key=lambda fetch: fetch.t_ns)),
    )


def _release(trace: Trace) -> str:
    return f"{trace.release} {trace.version} ({trace.manifest_digest.hex()[:12]})"
