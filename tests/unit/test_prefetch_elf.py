"""The ELF heuristic against pyelftools, against ldd, and against nonsense."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from orioncache.prefetch import elf_file
from orioncache.prefetch.heuristics.elf import Elf
from orioncache.prefetch.interface import Access
from tests.unit.prefetch_views import HostView, TreeView

SHELL = Path(os.path.realpath("/bin/sh"))


def objects(most):
    """Some of this machine's programs and libraries."""
    found = []
    for folder in ("/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/sbin"):
        if os.path.isdir(folder):
            files = [Path(folder, name) for name in sorted(os.listdir(folder))]
            good = [path for path in files if path.is_file() and path.open("rb").read(4) == b"\x7fELF"]
            found += good[:: max(1, len(good) // most)]
    return found


def ours(path):
    data = path.read_bytes()
    headers = elf_file.read_headers(data[:4096], len(data))
    if headers is None:
        return None
    interpreter, needed = None, []
    if headers.interpreter:
        at, length = headers.interpreter
        interpreter = elf_file.text_at(data[at : at + length], 0)
    if headers.dynamic:
        at, length = headers.dynamic
        dynamic = elf_file.read_dynamic(headers, data[at : at + length], len(data))
        at, length = dynamic.strings
        needed = [elf_file.text_at(data[at : at + length], each) for each in dynamic.needed]
    return interpreter, needed, [(offset, many) for _, offset, many, _ in headers.loads]


def theirs(path):
    with path.open("rb") as file:
        elf = ELFFile(file)
        if elf["e_type"] not in ("ET_EXEC", "ET_DYN"):
            return None
        interpreter, needed, loads = None, [], []
        for segment in elf.iter_segments():
            if segment["p_type"] == "PT_INTERP":
                interpreter = segment.get_interp_name()
            elif segment["p_type"] == "PT_LOAD" and segment["p_filesz"]:
                loads.append((segment["p_offset"], segment["p_filesz"]))
            elif segment["p_type"] == "PT_DYNAMIC":
                needed = [tag.needed for tag in segment.iter_tags() if tag.entry.d_tag == "DT_NEEDED"]
        return interpreter, needed, loads


def test_reads_what_pyelftools_reads():
    seen = 0
    for path in objects(40):
        assert ours(path) == theirs(path), path
        seen += 1
    assert seen >= 20


@pytest.mark.parametrize("name", ["python3", "git", "ssh", "sh", "perl", "qemu-system-x86_64"])
def test_finds_the_libraries_that_ldd_finds(name):
    program = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
    if program is None:
        pytest.skip(f"no program {name} here")
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    wanted = {
        os.path.realpath(word) for line in listed.splitlines() for word in line.split() if word[0] == "/"
    }

    view = HostView()
    inode = view.inode(program.lstrip("/"))
    candidates = list(Elf({}).on_access(Access(0.0, inode, 0, 4096), view))

    found = {view.real[each.block >> 16] for each in candidates}
    assert wanted <= found
    assert found - wanted <= {os.path.realpath(program), "/etc/ld.so.cache"}


def test_goes_on_when_blocks_land():
    """A program on a node: first its head is there, then what it needs comes, and what that needs."""
    data = SHELL.read_bytes()
    interpreter, needed, _ = ours(SHELL)
    library = os.path.realpath(f"/lib/x86_64-linux-gnu/{needed[0]}")
    if not os.path.exists(library):
        pytest.skip("libraries lie elsewhere here")
    loader = os.path.realpath(interpreter)
    files = {
        str(SHELL)[1:]: data,
        loader[1:]: Path(loader).read_bytes(),
        f"usr/lib/x86_64-linux-gnu/{needed[0]}": Path(library).read_bytes(),
    }
    view = TreeView(files, {interpreter[1:]: loader[1:]})
    elf = Elf({})
    view.cached.add(view.blocks(0)[0])
    found = list(elf.on_access(view.access(str(SHELL)[1:], 0, 4096), view))
    assert loader[1:] in view.paths(found)
    assert len({each.block for each in found}) > 2
    # Whatever is asked for lands, and brings more, until nothing is new.
    rounds = 0
    wanted = [each.block for each in found]
    while wanted and rounds < 1000:
        block = wanted.pop(0)
        if block not in view.cached:
            view.cached.add(block)
            more = elf.on_landed(block, view)
            found += more
            wanted += [each.block for each in more]
        rounds += 1
    assert f"usr/lib/x86_64-linux-gnu/{needed[0]}" in view.paths(found)
    assert not elf._waiting or rounds < 1000


def test_says_nothing_twice_and_nothing_of_other_files():
    view = TreeView({"text": b"hello " * 1000, "short": b"\x7fELF", "empty": b""})
    view.cached.update(range(view.block_count))
    elf = Elf({})
    for path in ("text", "short", "empty"):
        assert list(elf.on_access(view.access(path), view)) == []
        assert list(elf.on_access(view.access(path), view)) == []


def test_an_object_that_needs_itself_ends():
    view = HostView()
    inode = view.inode(str(SHELL)[1:])
    elf = Elf({})
    list(elf.on_access(Access(0.0, inode, 0, 4096), view))
    assert list(elf.on_access(Access(0.0, inode, 0, 4096), view)) == []


shell = SHELL.read_bytes()
changes = st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), max_size=40)


@settings(max_examples=300, deadline=None)
@given(changes, st.integers(0, len(shell)))
def test_survives_any_bytes(edits, length):
    data = bytearray(shell)
    for at, value in edits:
        data[at] = value
    view = TreeView({"x": bytes(data[:length])})
    view.cached.update(range(view.block_count))
    for each in Elf({}).on_access(view.access("x"), view):
        assert view.length(each.block)


@given(st.binary(max_size=600), st.integers(0, 1 << 32))
def test_survives_any_cache(data, count):
    elf_file.read_cache(b"glibc-ld.so.cache1.1" + (count & 0xFFFFFFFF).to_bytes(4, "little") + data)


def test_reads_this_machines_cache():
    path = Path("/etc/ld.so.cache")
    if not path.exists():
        pytest.skip("no ld.so.cache here")
    found = elf_file.read_cache(path.read_bytes())
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    pairs = [line.split() for line in listed.splitlines()[1:] if " => " in line]
    assert pairs
    for pair in pairs:
        if "hwcap:" not in " ".join(pair):
            assert pair[-1] in found[pair[0]]
