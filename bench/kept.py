"""The workloads that are kept here, each with a root of its own: what ``--workload NAME`` stands for."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from orioncache.bench.root import CUSTOMIZE, INITS, Recipe, customize_runit, debian_recipe

WORKLOADS = Path(__file__).parent / "workloads"
DEFAULT = "nginx-python"

# The runit of these roots brings lo up with iproute2's ip.
RUNIT = (*INITS["runit"], "iproute2")


@dataclasses.dataclass(frozen=True)
class Kept:
    """One of them.

    Attributes:
        name: what ``--workload`` calls it.
        help: when a node with it is ready, in a few words.
        needs: programs that it starts; another root has to have them too.
        recipe: of its root.
    """

    name: str
    help: str
    needs: Sequence[str]
    recipe: Recipe

    @property
    def file(self) -> Path:
        """The executable that runs in the node."""
        return WORKLOADS / self.name


KEPT: Mapping[str, Kept] = {
    each.name: each
    for each in (
        Kept(
            DEFAULT,
            "nginx answers a Python client",
            ("/usr/sbin/sshd", "/usr/sbin/nginx", "/usr/bin/python3"),
            debian_recipe(),
        ),
        Kept(
            "systemd",
            "systemd has reached its target and sshd shows its key",
            ("/usr/bin/systemctl", "/usr/bin/ssh-keyscan", "/usr/sbin/sshd"),
            Recipe(
                "systemd-multi-user",
                [*INITS["systemd"], "dbus", "libpam-systemd", "openssh-server", "cron"],
                [CUSTOMIZE],
                "half a minute to three, 200 MB",
            ),
        ),
        Kept(
            "nodejs",
            "a Node.js service with express answers a Node.js client",
            ("/usr/bin/node",),
            Recipe(
                "nodejs",
                [*RUNIT, "nodejs", "node-express"],
                [CUSTOMIZE, customize_runit("shop", "/usr/bin/node /srv/shop/server.js")],
                "half a minute to three, 350 MB",
                WORKLOADS / "roots" / "nodejs",
            ),
        ),
        Kept(
            "compile",
            "make and gcc have built a C project, which runs",
            ("/usr/bin/make", "/usr/bin/gcc"),
            Recipe(
                "compile",
                [*RUNIT, "gcc", "libc6-dev", "make"],
                [CUSTOMIZE, customize_runit()],
                "half a minute to three, 350 MB",
                WORKLOADS / "roots" / "compile",
            ),
        ),
    )
}
