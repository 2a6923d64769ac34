"""The wall clock: real servers outside the guest, on a network of the bench's own.

nfs-ganesha processes in network namespaces, the guest on a tap. Links are shaped on this machine if its
kernel has netem, and else in the guest, in both directions either way.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orioncache.bench import ganesha, netns
from orioncache.bench.plan import Link, Run
from orioncache.bench.qemu import Machine
from orioncache.bench.scene import Scene

EXPORT = "/export"
RELEASE_EXPORT = "/release"


@contextmanager
def wall_clock(scene: Scene) -> Iterator[Callable[[Run], Machine]]:
    """Starts servers and network; yields what makes a machine of a run, for one machine at a time."""
    outside = netns.can_shape()
    exports = {EXPORT: scene.root}
    if scene.release is not None:
        exports[RELEASE_EXPORT] = scene.release
    with netns.lan(scene.servers) as lan, ganesha.servers(lan, [exports]):

        def machine(run: Run) -> Machine:
            export = RELEASE_EXPORT if run.variant.released else EXPORT
            words = ["bench.clock=wall", *run.variant.command_line(lan.addresses, export)]
            if outside:
                lan.shape_node(shape(run.link))
            elif run.variant.source != "ram":
                words += run.link.command_line()
            return Machine(
                kernel=scene.kernel,
                initrd=scene.initrd,
                append=scene.command_line(words),
                memory_mb=scene.memory_mb,
                accel=scene.accel,
                seed=run.number,
                disk=scene.disk if run.variant.source == "ram" else None,
                tap=lan.tap,
                space=lan.space,
            )

        yield machine


def shape(link: Link) -> netns.Shape:
    """What each direction of the link does to its packets."""
    return netns.Shape(link.rtt_ms / 2, link.jitter_ms, link.loss_percent, link.rate_mbit)
