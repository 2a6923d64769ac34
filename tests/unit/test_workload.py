"""What is added to a root of each kind, and that the guest's script puts it there."""

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from orioncache.bench import workload
from orioncache.bench.kept import DEFAULT, KEPT
from orioncache.bench.root import (
    OWN_INIT,
    Recipe,
    check_root,
    customize_runit,
    debian_recipe,
    root_path,
)
from orioncache.bench.workload import find_workload, init_kind, inject
from orioncache.errors import UserError

SYSVINIT = b"\x7fELF INIT: version %s booting /etc/inittab"
BUSYBOX = b"\x7fELF BusyBox v1.35.0 /etc/inittab"
INJECT = Path(workload.__file__).parent / "guest" / "inject.sh"


def program(path, content=b"#!/bin/sh\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def debian_runit(top):
    program(top / "usr/lib/runit/runit-init")
    link(top / "lib", "usr/lib")
    link(top / "sbin/init", "/lib/runit/runit-init")
    (top / "etc/runit/runsvdir/default").mkdir(parents=True)
    link(top / "etc/runit/runsvdir/current", "/etc/runit/runsvdir/default")
    link(top / "etc/service", "runit/runsvdir/current")


def other_runit(top):
    program(top / "sbin/runit")
    link(top / "sbin/init", "runit")
    (top / "srv/services").mkdir(parents=True)
    link(top / "service", "/srv/services")


def systemd(top):
    program(top / "usr/lib/systemd/systemd")
    link(top / "usr/sbin/init", "../lib/systemd/systemd")
    link(top / "sbin", "usr/sbin")
    (top / "etc").mkdir()


def systemd_with_etc_elsewhere(top):
    systemd(top)
    (top / "etc").rmdir()
    (top / "state/etc").mkdir(parents=True)
    link(top / "etc", "/state/etc")


def sysvinit(top):
    program(top / "sbin/init", SYSVINIT)
    (top / "etc").mkdir()
    (top / "etc/inittab").write_text("id:2:initdefault:\nl2:2:wait:/etc/init.d/rc 2")


def busybox(top):
    program(top / "bin/busybox", BUSYBOX)
    link(top / "sbin/init", "/bin/busybox")
    (top / "etc").mkdir()
    (top / "etc/inittab").write_text("::sysinit:/sbin/openrc sysinit\n::wait:/sbin/openrc default\n")


def busybox_alone(top):
    program(top / "sbin/init", BUSYBOX)
    (top / "etc").mkdir()


def no_init(top):
    (top / "usr").mkdir()


KINDS = {
    debian_runit: ("runit", "/usr/lib/runit/runit-init", "etc/runit/runsvdir/default/orion-bench/run"),
    other_runit: ("runit", "/sbin/runit", "srv/services/orion-bench/run"),
    systemd: ("systemd", "/usr/lib/systemd/systemd", "etc/systemd/system/orion-bench.service"),
    systemd_with_etc_elsewhere: (
        "systemd",
        "/usr/lib/systemd/systemd",
        "state/etc/systemd/system/orion-bench.service",
    ),
    sysvinit: ("sysvinit", "/sbin/init", "etc/inittab"),
    busybox: ("busybox", "/bin/busybox", "etc/inittab"),
    busybox_alone: ("busybox", "/sbin/init", "etc/inittab"),
    no_init: ("none", OWN_INIT, ".orion-bench/init"),
}


@pytest.fixture
def ready(tmp_path):
    """A workload."""
    return program(tmp_path / "ready", b"\x7fELF static")


@pytest.fixture(params=KINDS, ids=lambda build: build.__name__)
def case(request, tmp_path):
    """A tree, and what is expected of it: kind, init, and the file that starts the workload."""
    top = tmp_path / "root"
    top.mkdir()
    request.param(top)
    return top, *KINDS[request.param]


def unpack(files, bench, guest):
    """What the kernel makes of the bench's archive: all executable, and the bench's own programs in it."""
    for path, content in files.items():
        program(bench.parent / path, content if isinstance(content, bytes) else content.read_bytes())
    (bench / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", bench / "bin/busybox")
    program(bench / "bin/guest", guest)


def run_inject(bench, sysroot):
    # The script's first line names the guest's shell.
    command = ["/bin/busybox", "sh", INJECT]
    environment = {"SYSROOT": str(sysroot), "BENCH": str(bench), "PATH": "/nonexistent"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_kind_and_init(case, ready):
    top, kind, init, starter = case
    root = check_root(top)
    assert init_kind(root) == kind
    injection = inject(root, ready)
    assert (injection.kind, injection.init) == (kind, init)
    assert f"bench/inject/{starter}" in injection.files
    assert injection.files["bench/inject/.orion-bench/workload"] == ready


def test_the_guest_puts_it_there(case, ready, tmp_path):
    if not Path("/bin/busybox").exists():
        pytest.skip("busybox is not installed")
    top, _, _, starter = case
    before = {path: path.stat().st_mtime_ns for path in top.rglob("*") if path.is_dir()}
    inventory = {path for path in top.rglob("*") if not path.is_symlink()}
    unpack(inject(check_root(top), ready).files, tmp_path / "boot/bench", b"guest")
    done = run_inject(tmp_path / "boot/bench", top)
    assert (done.returncode, done.stderr) == (0, "")
    assert b".orion-bench" in (top / starter).read_bytes()
    for name, content in (("workload", ready.read_bytes()), ("guest", b"guest")):
        path = top / ".orion-bench" / name
        assert path.read_bytes() == content
        assert os.access(path, os.X_OK)
    # A directory that was there keeps its time: runsvdir sleeps if its has changed within a second.
    assert {path: path.stat().st_mtime_ns for path in before} == before
    new = {path for path in top.rglob("*") if not path.is_symlink()} - inventory
    assert all(
        "orion-bench" in str(path) or path.name in ("inittab", "systemd", "system", "default.target.d")
        for path in new
    )


def test_units_and_tables_are_not_executable(tmp_path, ready):
    for build, path in ((systemd, "etc/systemd/system/orion-bench.service"), (sysvinit, "etc/inittab")):
        top = tmp_path / build.__name__
        top.mkdir()
        build(top)
        listing = inject(check_root(top), ready).files["bench/inject.list"].decode()
        assert f"644 {path}\n" in listing
        assert "755 .orion-bench/run\n" in listing


def test_the_guest_does_not_write_through_links(tmp_path, ready):
    if not Path("/bin/busybox").exists():
        pytest.skip("busybox is not installed")
    top = tmp_path / "root"
    top.mkdir()
    busybox(top)
    outside = tmp_path / "outside"
    outside.write_text("::wait:/bin/true\n")
    injection = inject(check_root(top), ready)
    (top / "etc/inittab").unlink()
    (top / "etc/inittab").symlink_to(outside)
    unpack(injection.files, tmp_path / "boot/bench", b"guest")
    assert run_inject(tmp_path / "boot/bench", top).returncode == 0
    assert outside.read_text() == "::wait:/bin/true\n"


def test_the_guest_fails_where_it_cannot_write(tmp_path, ready):
    if not Path("/bin/busybox").exists():
        pytest.skip("busybox is not installed")
    top = tmp_path / "root"
    top.mkdir()
    no_init(top)
    injection = inject(check_root(top), ready)
    (top / ".orion-bench").write_text("a file in the way")
    unpack(injection.files, tmp_path / "boot/bench", b"guest")
    assert run_inject(tmp_path / "boot/bench", top).returncode != 0


@pytest.mark.parametrize(
    ("build", "lines"),
    [
        (sysvinit, ["id:2:initdefault:", "l2:2:wait:/etc/init.d/rc 2", "orb:2345:once:/.orion-bench/run"]),
        (
            busybox,
            ["::sysinit:/sbin/openrc sysinit", "::wait:/sbin/openrc default", "::once:/.orion-bench/run"],
        ),
        (busybox_alone, ["::sysinit:/etc/init.d/rcS", "::once:/.orion-bench/run"]),
    ],
)
def test_inittab_ends_with_the_workload(tmp_path, ready, build, lines):
    top = tmp_path / "root"
    top.mkdir()
    build(top)
    found = inject(check_root(top), ready).files["bench/inject/etc/inittab"]
    assert found.decode().splitlines() == lines


def test_systemd_starts_it_after_its_target_without_a_cycle(tmp_path, ready):
    top = tmp_path / "root"
    top.mkdir()
    systemd(top)
    files = inject(check_root(top), ready).files
    unit = files["bench/inject/etc/systemd/system/orion-bench.service"].decode()
    assert "After=default.target" in unit
    assert "DefaultDependencies=no" in unit
    assert (
        b"Wants=orion-bench.service"
        in files["bench/inject/etc/systemd/system/default.target.d/orion-bench.conf"]
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [("openrc-init", b"\x7fELF"), ("dinit", b"\x7fELF"), ("init", b"#!/bin/sh\nexec /bin/sh\n")],
)
def test_an_init_that_is_not_known(tmp_path, ready, name, content):
    program(tmp_path / "sbin" / name, content)
    with pytest.raises(UserError, match="no init that the bench knows") as error:
        inject(check_root(tmp_path, f"/sbin/{name}"), ready)
    assert f"init={OWN_INIT}" in error.value.mend
    assert inject(check_root(tmp_path, OWN_INIT), ready).kind == "none"


def test_sysvinit_without_its_table(tmp_path, ready):
    sysvinit(tmp_path)
    (tmp_path / "etc/inittab").unlink()
    with pytest.raises(UserError, match="has no /etc/inittab"):
        inject(check_root(tmp_path), ready)


def test_runit_without_services(tmp_path, ready):
    program(tmp_path / "sbin/runit")
    with pytest.raises(UserError, match="no directory of services"):
        inject(check_root(tmp_path, "/sbin/runit"), ready)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "is no file"),
        (lambda path: path.write_text("#!/bin/sh\n"), "is not executable"),
        (lambda path: program(path, b"#!/usr/bin/perl -w\n"), "is run by '/usr/bin/perl', which .* lacks"),
        (lambda path: program(path, b"#! \n"), "is run by '', which .* lacks"),
        (lambda path: program(path, b"#!/usr\n"), "is run by '/usr', which .* lacks"),
    ],
)
def test_a_workload_that_cannot_run(tmp_path, make, message):
    top = tmp_path / "root"
    top.mkdir()
    no_init(top)
    make(tmp_path / "workload")
    with pytest.raises(UserError, match=message) as error:
        inject(check_root(top), tmp_path / "workload")
    assert error.value.mend


def test_the_default_workload_says_what_it_lacks(tmp_path):
    no_init(tmp_path)
    program(tmp_path / "bin/sh")
    program(tmp_path / "usr/sbin/sshd")
    with pytest.raises(UserError, match="lacks /usr/sbin/nginx") as error:
        inject(check_root(tmp_path), KEPT[DEFAULT])
    assert "--workload" in error.value.mend


def test_a_kept_workload_goes_by_its_name_and_a_file_by_its_path():
    assert find_workload() is KEPT[DEFAULT]
    assert find_workload("nodejs") is KEPT["nodejs"]
    assert find_workload("./nodejs") == Path("nodejs")
    assert find_workload("ready.sh") == Path("ready.sh")


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT.keys())
def test_a_kept_workload_is_whole(kept, tmp_path):
    no_init(tmp_path)
    assert os.access(kept.file, os.X_OK)
    assert kept.help
    interpreter = kept.file.read_text().partition("\n")[0].removeprefix("#!")
    for name in (interpreter, *kept.needs):
        program(tmp_path / name.lstrip("/"))
    injection = inject(check_root(tmp_path), kept)
    assert injection.files["bench/inject/.orion-bench/workload"] == kept.file
    (tmp_path / kept.needs[0].lstrip("/")).unlink()
    with pytest.raises(
        UserError, match=f"lacks {kept.needs[0]}, which the workload {kept.name}|which .* lacks"
    ):
        inject(check_root(tmp_path), kept)


def test_each_kept_workload_has_a_root_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("ORION_CACHE", str(tmp_path))
    assert len({root_path(each.recipe) for each in KEPT.values()}) == len(KEPT)
    assert root_path(KEPT[DEFAULT].recipe) == root_path(debian_recipe())


def test_a_root_follows_from_its_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("ORION_CACHE", str(tmp_path / "cache"))
    (tmp_path / "files/srv").mkdir(parents=True)
    (tmp_path / "files/srv/a").write_text("one")
    recipe = Recipe("some", ["runit-init"], files=tmp_path / "files")
    before = root_path(recipe)
    assert root_path(recipe) == before
    (tmp_path / "files/srv/a").write_text("two")
    other = root_path(recipe)
    (tmp_path / "files/srv/a").rename(tmp_path / "files/srv/b")
    assert (
        len({before, other, root_path(recipe), root_path(dataclasses.replace(recipe, hooks=["true"]))}) == 4
    )


def test_runit_starts_a_getty_and_the_service_that_is_asked_for():
    plain, shop = customize_runit(), customize_runit("shop", "/usr/bin/node /srv/shop/server.js")
    assert "for name in getty-ttyS0; do" in plain
    assert "for name in getty-ttyS0 shop; do" in shop
    assert "exec /usr/bin/node /srv/shop/server.js\n" in shop
    for text in (plain, shop):
        done = subprocess.run(["sh", "-n", "-c", text], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_scripts_are_clean():
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    for text in (
        workload.RUN_SCRIPT,
        workload.INIT_SCRIPT,
        workload.RUNIT_SERVICE,
        *(each.file.read_text() for each in KEPT.values() if each.file.read_bytes().startswith(b"#!/bin/sh")),
    ):
        body = "#!/bin/sh\n" + text.partition("\n")[2]
        done = subprocess.run(["shellcheck", "-"], input=body, capture_output=True, text=True, check=False)
        assert done.stdout == ""
