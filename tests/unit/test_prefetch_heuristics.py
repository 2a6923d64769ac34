"""Each heuristic on small trees: what it says, and where it says nothing."""

import py_compile
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orioncache.errors import UserError
from orioncache.prefetch.heuristics.script import Script
from orioncache.prefetch.heuristics.sequential import Sequential
from orioncache.prefetch.heuristics.successor import Successor
from orioncache.prefetch.successor_model import Model, train
from tests.unit.prefetch_views import TreeView

K = 1024


def blocks(candidates):
    return [each.block for each in candidates]


class TestSequential:
    view = TreeView({"a": bytes(4 << 20), "b": bytes(4 << 20)})

    def make(self, **settings):
        return Sequential({"initial": 16 * K, "window": 64 * K, "trigger": 2, "skip": 4 * K, **settings})

    def ask(self, it, offset, length=4096, path="a"):
        return blocks(it.on_access(self.view.access(path, offset, length), self.view))

    def test_a_stream_is_seen_and_its_window_doubles(self):
        it = self.make()
        assert self.ask(it, 0) == self.ask(it, 4 * K) == []
        assert self.ask(it, 8 * K) == [3, 4, 5, 6]  # 16K ahead
        sizes = [len(self.ask(it, offset * K)) for offset in (12, 16, 20, 24)]
        # 32K, 64K, and from there on a block for each block.
        assert sizes == [5, 9, 1, 1]

    def test_random_access_is_left_alone(self):
        it = self.make()
        for offset in random.Random(1).sample(range(1024), 500):
            assert self.ask(it, offset * 4 * K) == []

    def test_a_jump_begins_anew(self):
        it = self.make()
        for offset in (0, 4, 8, 12, 16):
            self.ask(it, offset * K)
        assert self.ask(it, 2 << 20) == []
        assert self.ask(it, (2 << 20) + 4 * K) == []
        assert len(self.ask(it, (2 << 20) + 8 * K)) == 4

    def test_a_small_gap_is_still_a_stream(self):
        it = self.make()
        found = [self.ask(it, offset * K) for offset in (0, 8, 16, 24)]
        assert found[:2] == [[], []] and found[2] and found[3]

    def test_the_same_part_again_changes_nothing(self):
        it = self.make()
        for offset in (0, 4, 8):
            self.ask(it, offset * K)
        assert self.ask(it, 4 * K) == self.ask(it, 8 * K) == []
        assert len(self.ask(it, 12 * K)) == 5

    def test_files_do_not_disturb_each_other(self):
        it = self.make()
        for offset in (0, 4):
            assert self.ask(it, offset * K) == self.ask(it, offset * K, path="b") == []
        assert self.ask(it, 8 * K) and self.ask(it, 8 * K, path="b")

    def test_it_ends_with_the_file(self):
        it = self.make()
        size = 4 << 20
        for offset in (12, 8):
            self.ask(it, size - offset * K)
        assert self.ask(it, size - 4 * K) == []

    @given(st.lists(st.tuples(st.integers(0, 5 << 20), st.integers(0, 1 << 20)), max_size=50))
    def test_says_only_what_is_there_and_nothing_twice_in_a_call(self, accesses):
        it = self.make()
        for offset, length in accesses:
            found = self.ask(it, offset, length)
            assert len(found) == len(set(found)) <= 16 + 1
            assert all(self.view.length(block) for block in found)


class TestSuccessor:
    def model(self, tmp_path, *boots):
        path = tmp_path / "model"
        path.write_bytes(train([[(at, self.view.digest(block)) for at, block in boot] for boot in boots]))
        return Successor({"model": str(path)})

    view = TreeView({"a": bytes(400 * K)})

    def ask(self, it, block):
        return list(it.on_access(self.view.access("a", block * 4096, 4096), self.view))

    def test_what_followed_follows(self, tmp_path):
        boot = [(0.1 * number, number) for number in range(10)]
        it = self.model(tmp_path, boot, boot, boot)
        found = self.ask(it, 0)
        assert blocks(found)[:3] == [1, 2, 3]
        assert found[0].confidence == pytest.approx(3 / 3.5, abs=1e-4)
        assert found[0].deadline == pytest.approx(0.1, abs=0.002)
        assert self.ask(it, 0) == []  # once

    def test_what_followed_half_of_the_time_is_half_as_likely(self, tmp_path):
        it = self.model(tmp_path, [(0.0, 1), (0.1, 2)], [(0.0, 1), (0.1, 3)])
        found = {each.block: each.confidence for each in self.ask(it, 1)}
        assert found == {2: pytest.approx(0.4, abs=1e-4), 3: pytest.approx(0.4, abs=1e-4)}

    def test_a_chain_gets_less_likely(self, tmp_path):
        boot = [(0.01 * number, number) for number in range(60)]
        found = self.ask(self.model(tmp_path, boot), 0)
        likely = [each.confidence for each in found]
        assert likely == sorted(likely, reverse=True)
        assert 16 < len(found) <= 48 and min(likely) >= 0.3

    def test_of_an_unknown_block_nothing_is_said(self, tmp_path):
        assert self.ask(self.model(tmp_path, [(0.0, 1), (0.1, 2)]), 50) == []

    def test_without_a_model_it_is_an_error(self):
        with pytest.raises(UserError, match="no model"):
            Successor({})

    @given(st.data())
    def test_a_damaged_model_is_refused(self, data):
        good = train([[(0.1 * number, number.to_bytes(16, "big")) for number in range(20)]])
        assert Model(good).blocks == 20
        at = data.draw(st.integers(0, len(good) - 1))
        for bad in (good[:at], good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], good + b"x"):
            with pytest.raises(UserError):
                Model(bad)

    def test_training_is_the_same_each_time(self):
        boot = [(0.1 * number, bytes([number * 7 % 16]) * 16) for number in range(16)]
        assert train([boot, boot[::-1]]) == train([boot, boot[::-1]])


class TestScript:
    def tree(self, tmp_path):
        def compiled(name, text):
            source, target = tmp_path / "source.py", tmp_path / "compiled.pyc"
            source.write_text(text)
            py_compile.compile(str(source), str(target), doraise=True)
            return target.read_bytes()

        lib = "usr/lib/python3.11"
        return TreeView(
            {
                "usr/bin/python3.11": b"\x7fELF" + bytes(9000),
                "usr/bin/env": b"\x7fELF" + bytes(9000),
                "usr/bin/perl": b"\x7fELF" + bytes(9000),
                "srv/tool": b"#!/usr/bin/env python3.11\nimport socket, json\nfrom asyncio import events\n",
                "srv/plain": b"#!/usr/bin/python3.11 -I\nimport socket\n",
                "srv/report": b"#! /usr/bin/perl -w\nuse strict;\nuse File::Spec;\nuse 5.010;\n",
                "srv/broken": b"#!\n",
                "srv/data": b"import socket\n",
                f"{lib}/socket.py": b"import selectors\n",
                f"{lib}/__pycache__/socket.cpython-311.pyc": compiled("socket", "import selectors\nx = 1\n"),
                f"{lib}/__pycache__/selectors.cpython-311.pyc": compiled("selectors", "import math\n"),
                f"{lib}/__pycache__/unused.cpython-311.pyc": compiled("unused", "import math\n"),
                f"{lib}/json/__init__.py": b"",
                f"{lib}/json/__pycache__/__init__.cpython-311.pyc": compiled(
                    "json", "from . import decoder\n"
                ),
                f"{lib}/json/__pycache__/decoder.cpython-311.pyc": compiled("decoder", "import socket\n"),
                f"{lib}/asyncio/__init__.py": b"pass\n",
                f"{lib}/asyncio/events.py": b"import socket\n",
                f"{lib}/lib-dynload/math.cpython-311-x86_64-linux-gnu.so": b"\x7fELF" + bytes(100),
                "usr/share/perl/5.36/strict.pm": b"1;\n",
                "usr/share/perl/5.36/File/Spec.pm": b"require Cwd;\n",
                "usr/lib/x86_64-linux-gnu/perl/5.36/Cwd.pm": b"1;\n",
            }
        )

    def ask(self, view, it, path):
        view.fetch(path)
        return view.paths(it.on_access(view.access(path), view))

    def test_env_and_what_it_starts_and_what_that_imports(self, tmp_path):
        view = self.tree(tmp_path)
        assert self.ask(view, Script({}), "srv/tool") == [
            "usr/bin/env",
            "usr/bin/python3.11",
            "usr/lib/python3.11/__pycache__/socket.cpython-311.pyc",
            "usr/lib/python3.11/json/__pycache__/__init__.cpython-311.pyc",
            "usr/lib/python3.11/asyncio/__init__.py",
            "usr/lib/python3.11/asyncio/events.py",
        ]

    def test_compiled_files_are_followed_when_they_land(self, tmp_path):
        view = self.tree(tmp_path)
        it = Script({})
        first = it.on_access(view.access("srv/plain"), view)
        assert list(first) == []  # its content is not here
        found = self.ask(view, it, "srv/plain")
        assert found[-1].endswith("socket.cpython-311.pyc")
        view.fetch(found[-1])
        block = view.blocks(view.inode(found[-1]))[0]
        second = list(it.on_landed(block, view))
        assert view.paths(second) == ["usr/lib/python3.11/__pycache__/selectors.cpython-311.pyc"]
        # What is two steps away is less likely.
        assert second[0].confidence == pytest.approx(0.36)

    def test_perl(self, tmp_path):
        view = self.tree(tmp_path)
        it = Script({})
        assert self.ask(view, it, "srv/report") == [
            "usr/bin/perl",
            "usr/share/perl/5.36/strict.pm",
            "usr/share/perl/5.36/File/Spec.pm",
        ]
        assert self.ask(view, it, "usr/share/perl/5.36/File/Spec.pm") == [
            "usr/lib/x86_64-linux-gnu/perl/5.36/Cwd.pm"
        ]

    @pytest.mark.parametrize("path", ["srv/broken", "srv/data", "usr/bin/env"])
    def test_of_other_files_nothing_is_said(self, tmp_path, path):
        assert self.ask(self.tree(tmp_path), Script({}), path) == []

    @given(st.binary(max_size=300))
    def test_survives_any_bytes(self, data):
        names = ("x", "usr/lib/python3.11/__pycache__/x.cpython-311.pyc", "a.py", "a.pl")
        for name in names:
            for start in (b"", b"#!", b"#!/usr/bin/env ", b"use ", b"import "):
                view = TreeView({name: start + data, "usr/lib/python3.11/os.py": b"x"})
                self.ask(view, Script({}), name)


def test_this_machines_python_is_followed():
    """The real library: what json imports is among what is predicted for it."""
    from tests.unit.prefetch_views import HostView

    view = HostView()
    roots = sorted(Path("/usr/lib").glob("python3.*/json/__pycache__/__init__.cpython-3*[0-9].pyc"))
    if not roots:
        pytest.skip("no compiled Python library in /usr/lib here")
    inode = view.inode(str(roots[-1])[1:])
    from orioncache.prefetch.interface import Access

    found = {view.real[each.block >> 16] for each in Script({}).on_access(Access(0.0, inode, 0, 4096), view)}
    assert any("/json/__pycache__/decoder." in path for path in found)
    assert any("/json/__pycache__/encoder." in path for path in found)
    assert len(found) < 12
