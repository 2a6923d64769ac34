"""The archive format, reading and comparing images, and what the builder puts into one."""

import json
import marshal
import re
import subprocess

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from orioncache.cli import main
from orioncache.errors import UserError
from orioncache.initramfs import build
from orioncache.initramfs.compiled import compiled
from orioncache.initramfs.cpio import BadArchiveError, Entry, pack, unpack
from orioncache.initramfs.image import compare, group_of, read_image

names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..", "TRAILER!!!")
)
entries = st.one_of(
    st.builds(Entry.file, st.binary(max_size=99), executable=st.booleans()),
    st.builds(Entry.link, names),
    st.just(Entry(0o020600, device=(5, 1))),
)
trees = st.dictionaries(names.map(lambda name: f"d/{name}"), entries, min_size=1, max_size=6)


@given(trees)
def test_archive_round_trip(tree):
    assert unpack(pack(tree)) == tree | {"d": Entry.directory()}


@given(trees)
def test_archive_depends_on_nothing_but_its_entries(tree):
    assert pack(dict(reversed(tree.items()))) == pack(tree)


@given(trees, st.data())
def test_damaged_archive_is_refused_or_read(tree, data):
    """Never anything but an error of ours."""
    archive = bytearray(pack(tree))
    for _ in range(3):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    try:
        unpack(bytes(archive[: data.draw(st.integers(1, len(archive)))]))
    except BadArchiveError as error:
        assert str(error)


def test_cpio_reads_it(tmp_path):
    tree = {"a/b": Entry.file(b"hello", executable=True), "a/c": Entry.link("b"), "z": Entry.directory(0o700)}
    done = subprocess.run(["cpio", "-itv", "--quiet"], input=pack(tree), capture_output=True, check=True)
    lines = [line.split() for line in done.stdout.decode().splitlines()]
    assert [(line[0], line[2], line[3], line[8]) for line in lines] == [
        ("drwxr-xr-x", "root", "root", "a"),
        ("-rwxr-xr-x", "root", "root", "a/b"),
        ("lrwxrwxrwx", "root", "root", "a/c"),
        ("drwx------", "root", "root", "z"),
    ]


def test_appended_archives_win(tmp_path):
    image = tmp_path / "image"
    first = build.compress(pack({"a": Entry.file(b"1"), "b": Entry.file(b"1")}))
    assert len(first) % 4 == 0
    image.write_bytes(
        first + zstandard.compress(pack({"b": Entry.file(b"2")})) + pack({"c": Entry.file(b"3")})
    )
    assert {path: entry.data for path, entry in read_image(image).items()} == {
        "a": b"1",
        "b": b"2",
        "c": b"3",
    }


@pytest.mark.parametrize(
    "data", [b"", b"\0\0", b"#!/bin/sh\n", zstandard.compress(b"x"), b"070701junk", b"\x28\xb5\x2f\xfdx"]
)
def test_what_is_no_image_is_refused(tmp_path, data):
    (tmp_path / "image").write_bytes(data)
    with pytest.raises(UserError, match="image"):
        read_image(tmp_path / "image")


def test_compare():
    old = {
        "same": Entry.file(b""),
        "gone": Entry.file(b"12"),
        "mode": Entry.file(b"1"),
        "text": Entry.file(b"1"),
    }
    new = {"same": Entry.file(b""), "new": Entry.file(b"123"), "text": Entry.file(b"22")}
    new["mode"] = Entry.file(b"1", executable=True)
    found = [
        (change.sign, change.path, change.before, change.after, change.what) for change in compare(old, new)
    ]
    assert found == [
        ("-", "/gone", 2, None, ""),
        ("~", "/mode", 1, 1, "mode"),
        ("+", "/new", None, 3, ""),
        ("~", "/text", 1, 2, "content"),
    ]


def test_compiled_code_runs_and_has_no_docstrings():
    source = b'"""Doc."""\nclass C:\n    """Doc."""\ndef f():\n    """Doc."""\n    assert False, "kept"\n'
    scope = {}
    exec(marshal.loads(compiled(source, "/usr/lib/python3.11/m.py")[16:]), scope)
    assert (scope.get("__doc__"), scope["C"].__doc__, scope["f"].__doc__) == (None,) * 3
    with pytest.raises(AssertionError, match="kept"):
        scope["f"]()


@pytest.fixture(scope="module")
def wanted():
    return build.plan()


@pytest.fixture(scope="module")
def assembled(wanted):
    return build.assemble(wanted)


def test_two_builds_are_the_same_bytes(wanted, assembled):
    again = build.assemble(build.plan())
    assert compare(assembled, again) == []
    archive = pack(assembled)
    assert pack(again) == archive
    head = archive[: 1 << 20]
    assert build.compress(head) == build.compress(head)


def test_image_is_within_its_bar(assembled):
    image = build.build_initramfs()
    assert image.stat().st_size <= build.LIMIT
    assert {path for path, entry in read_image(image).items() if entry.data} == {
        path for path, entry in assembled.items() if entry.data
    }
    assert build.build_initramfs() == image


def test_heuristics_of_other_packages_are_in_the_image(tmp_path, monkeypatch):
    about = tmp_path / "users-1.dist-info"
    about.mkdir()
    (tmp_path / "users.py").write_text("import orioncache.prefetch.interface\nclass One: pass\n")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: users\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[orioncache.heuristics]\none = users:One\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = build.plan()
    assert found.modules[f"usr/lib/python{found.version}/users.pyc"] == tmp_path / "users.py"
    assert found.texts["lib/orion/heuristics"] == "one users:One\n"
    monkeypatch.undo()
    assert "lib/orion/heuristics" not in build.plan().texts


def test_image_has_no_path_of_this_machine_and_no_source(assembled):
    here = str(build.HERE.parent).encode()
    assert [path for path, entry in assembled.items() if here in entry.data] == []
    assert [path for path in assembled if path.endswith(".py")] == []


def test_python_of_the_image_imports_the_daemon_from_the_image_alone(assembled, tmp_path):
    """In a chroot with nothing else in it."""
    for path, entry in assembled.items():
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if entry.kind == "-":
            place.write_bytes(entry.data)
            place.chmod(entry.mode & 0o7777)
        elif entry.kind == "l":
            place.symlink_to(entry.data.decode())
    program = (
        "import sys, trio, pyfuse3, orioncache.node, orioncache.native, orioncache.fs.serving, traceback\n"
        "async def main():\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        nursery.start_soon(trio.to_thread.run_sync, id, 1)\n"
        "trio.run(main)\n"
        "files = [getattr(module, '__file__', None) for module in sys.modules.values()]\n"
        "print(*{file[:5] for file in files if file})\n"
    )
    python = ["/usr/bin/python3", "-I", "-S", "-B", "-X", "utf8", "-c", program]
    done = subprocess.run(
        ["/usr/sbin/chroot", str(tmp_path), *python], capture_output=True, text=True, check=False, env={}
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("chroot needs root")
    assert done.stderr == ""
    assert done.stdout == "/usr/\n"


def test_parts_have_names(assembled):
    named = {group_of(path) for path in assembled}
    assert {
        "Python interpreter",
        "trio and what it needs",
        "pyfuse3, libfuse",
        "busybox",
        "orioncache",
    } <= named
    assert group_of("usr/lib/python3.11/trio/_core/_run.pyc") == "trio and what it needs"
    assert group_of("usr/lib/python3.11/typing.pyc") == "standard library"
    assert group_of("init") == "init and helpers"


def test_commands(tmp_path, capsysbinary):
    image, hook = tmp_path / "image", tmp_path / "hook"
    hook.write_bytes(b"#!/bin/sh\n")
    assert main(["initramfs", "build", "--output", str(image), "--json"]) == 0
    said = json.loads(capsysbinary.readouterr().out)
    assert said["bytes"] == image.stat().st_size <= said["limit"]
    assert main(["initramfs", "ls", str(image)]) == 0
    listed = capsysbinary.readouterr().out.decode()
    assert re.search(r"^-rwxr-xr-x +\d+ /init$", listed, re.MULTILINE)
    assert re.search(r"^l.* /bin/sh -> busybox$", listed, re.MULTILINE)
    assert main(["initramfs", "cat", "/init", "--image", str(image)]) == 0
    assert capsysbinary.readouterr().out == (build.HERE / "init").read_bytes()
    assert main(["initramfs", "diff", str(image)]) == 0
    image.write_bytes(image.read_bytes() + pack({"hooks/mount/10-x": Entry.file(b"1")}))
    assert main(["initramfs", "diff", str(image), "--json"]) == 1
    assert [(change["sign"], change["path"]) for change in json.loads(capsysbinary.readouterr().out)] == [
        ("-", "/hooks/mount"),
        ("-", "/hooks/mount/10-x"),
    ]
    assert main(["initramfs", "build", "--dry-run", "--add", f"{hook}:hooks/mount/"]) == 0
    assert f"/hooks/mount/hook  <- {hook}" in capsysbinary.readouterr().out.decode()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["cat", "/none"], "/none"),
        (["cat", "/bin/sh"], "/bin/sh"),
        (["ls", "/none"], "/none"),
        (["build", "--add", "/none:x"], "/none"),
        (["build", "--add", "/bin/true:../x"], "../x"),
    ],
)
def test_mistakes_are_one_line_and_a_mend(arguments, named, capsys):
    assert main(["initramfs", *arguments]) == 1
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith(("orioncache: error", "  mend"))
    ]
    assert len(lines) == 2
    assert named in lines[0]
