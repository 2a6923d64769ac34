"""The virtual clock: everything inside one guest, counted in instructions.

Servers are the guest kernel's own nfsd in network namespaces, links are veth pairs with netem, as in
guest/init.sh, and the root lies in memory: every wait is a timer of the guest's, nothing on it is real.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orioncache.bench.netns import FIRST_SERVER, SERVER_ADDRESS
from orioncache.bench.plan import Run
from orioncache.bench.qemu import Machine
from orioncache.bench.scene import Scene

# guest/init.sh gives its servers netns.py's addresses, and their export is the root of what they serve.
EXPORT = "/"


@contextmanager
def virtual_clock(scene: Scene) -> Iterator[Callable[[Run], Machine]]:
    """Yields what makes a machine of a run; any number of them can run at the same time."""
    addresses = [SERVER_ADDRESS.format(FIRST_SERVER + index) for index in range(scene.servers)]

    def machine(run: Run) -> Machine:
        words = ["bench.clock=virtual", *run.variant.command_line(addresses, EXPORT)]
        if run.variant.source != "ram":
            # An image has one server: the node's nbd driver knows no second one.
            servers = 1 if run.variant.source == "nbd" else scene.servers
            words += [f"bench.servers={servers}", *run.link.command_line(), *run.words]
        return Machine(
            kernel=scene.kernel,
            initrd=scene.initrd,
            append=scene.command_line(words),
            memory_mb=scene.memory_mb,
            virtual=True,
            seed=run.number,
            disk=scene.export(run.variant)[1],
        )

    yield machine
