"""Nodes with a public key in their image: what they boot, and what they refuse."""

import subprocess

import pytest

from orioncache.bench.root import debian_root
from tests import needs
from tests.program import COMMAND
from tests.qemu.test_boot import bench, script

pytestmark = [needs.QEMU, needs.ROOT, pytest.mark.timeout(3600)]


def orion(*arguments):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A directory with keys, and a store with a release whose digests can be signed."""
    top = tmp_path_factory.mktemp("signed")
    for name in ("ours", "theirs"):
        orion("release", "keygen", top / name)
    orion(
        *("release", "build", debian_root(), top / "store", "--name", "node", "--version", "1"),
        *("--digest", "blake2b"),
    )
    script(top / "ready", "#!/bin/sh\nexit 0\n")
    return top


def boot(scene, *words):
    return bench(
        *("--variant", "orion", "--rtt", "0", "--workload", scene / "ready", "--key", scene / "ours.pub"),
        *("--release", scene / "store/releases/node/1"),
        *(argument for word in words for argument in ("--append", word)),
    )


def test_an_unsigned_release_is_refused_unless_it_shall_be_taken(scene):
    code, _, errors = boot(scene)
    assert code == 1
    assert "is not signed" in errors
    assert "verify=off" in errors
    assert "Traceback" not in errors
    code, _, errors = boot(scene, "orion.verify=off")
    assert code == 0, errors


def test_a_signed_release_boots_and_one_by_another_key_does_not(scene):
    orion("release", "sign", scene / "store", "node", "1", "--key", scene / "ours")
    code, _, errors = boot(scene)
    assert code == 0, errors
    orion("release", "sign", scene / "store", "node", "1", "--key", scene / "theirs")
    code, _, errors = boot(scene)
    assert code == 1
    assert "signature" in errors
