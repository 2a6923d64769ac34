"""What is taken from nodes, and what is refused."""

import dataclasses
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import trio

from orioncache.cli import main
from orioncache.fs import uploading
from orioncache.profile import receiving
from orioncache.profile.inbox import ROLES_MOST, Group, Inbox, Refused
from orioncache.profile.learning import learn
from orioncache.profile.receiving import LARGEST, Receiver, place
from orioncache.release.bundle import Bundle
from orioncache.release.bundle import place as bundle_place
from orioncache.release.content import open_manifest
from orioncache.release.packs import read_header
from orioncache.release.retire import collect
from orioncache.release.retire import remove as retire
from orioncache.release.sign import bundle_is_signed, read_key
from orioncache.release.store import Store
from orioncache.trace.format import encode
from tests.boots import PAGE, boot

GROUP = Group("t", "1", "kiosk")


@pytest.fixture
def store(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/file").write_bytes(b"content")
    assert (
        main(["release", "build", str(tmp_path / "root"), str(tmp_path / "store"), "--name=t", "--version=1"])
        == 0
    )
    return Store(tmp_path / "store")


@pytest.fixture
def trace(store):
    digest = read_header(store.release("t", "1").manifest).digest
    return boot([(1, "file", 0, PAGE)], manifest_digest=digest)


def name(number):
    return f"{number:08x}"


def test_the_last_ones_are_kept_and_one_that_comes_twice_counts_once(store, trace):
    inbox = Inbox(store, keep=2, margin=0)
    for number in range(4):
        changed = encode(dataclasses.replace(trace, started_ns=number))
        assert inbox.take("kiosk", name(number), changed) == (GROUP, True)
        assert inbox.take("kiosk", name(number), changed) == (GROUP, False)
    assert [path.stem for path in inbox.traces(GROUP)] == [name(2), name(3)]
    assert inbox.groups() == [GROUP]
    assert not inbox.is_learned(GROUP)


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"degraded": True}, 422, "degraded"),
        ({"lost": 1}, 422, "no room"),
        ({"first_touches": False}, 422, "first touches"),
        ({"files": {}, "digests": {}, "records": []}, 422, "which files"),
        ({"manifest_digest": bytes(16)}, 404, "not in this store"),
    ],
)
def test_what_nobody_shall_learn_from(store, trace, fields, status, said):
    inbox = Inbox(store, keep=2, margin=0)
    with pytest.raises(Refused, match=said) as refused:
        inbox.take("kiosk", name(1), encode(dataclasses.replace(trace, **fields)))
    assert refused.value.status == status
    assert not store.learned.exists()


def test_every_trace_that_is_cut_short_is_refused(store, trace):
    inbox = Inbox(store, keep=2, margin=0)
    data = encode(trace)
    for length in range(len(data)):
        with pytest.raises(Refused) as refused:
            inbox.take("kiosk", name(1), data[:length])
        assert refused.value.status in (400, 422)
    assert not store.learned.exists()


@pytest.mark.parametrize(
    ("role", "boot"), [("..", name(1)), ("", name(1)), ("A", name(1)), ("a", ".."), ("a", "x" * 8), ("a", "")]
)
def test_names_that_lead_elsewhere(store, trace, role, boot):
    with pytest.raises(Refused, match="ROLE/BOOT"):
        Inbox(store, keep=2, margin=0).take(role, boot, encode(trace))


def test_only_some_roles_and_not_too_many(store, trace):
    with pytest.raises(Refused, match="lobby"):
        Inbox(store, keep=2, roles=["kiosk"], margin=0).take("lobby", name(1), encode(trace))
    inbox = Inbox(store, keep=2, margin=0)
    for number in range(ROLES_MOST):
        inbox.take(f"r{number}", name(1), encode(trace))
    with pytest.raises(Refused, match="roles"):
        inbox.take("one-more", name(1), encode(trace))


def test_a_full_disk(store, trace):
    with pytest.raises(Refused, match="room") as refused:
        Inbox(store, keep=2, margin=1 << 62).take("kiosk", name(1), encode(trace))
    assert refused.value.status == 507


@contextmanager
def serving(inbox, told, learned):
    """A receiver on a loopback port, in a thread."""
    port, ends = [], []
    ready = threading.Event()

    def learn(group):
        learned.append(group)
        return "done"

    async def run():
        listeners = await receiving.listen("127.0.0.1", 0)
        port.append(listeners[0].socket.getsockname()[1])
        with trio.CancelScope() as scope:
            ends.append((trio.lowlevel.current_trio_token(), scope))
            ready.set()
            await Receiver(inbox, learn, lambda event, **facts: told.append((event, facts))).run(listeners)

    thread = threading.Thread(target=trio.run, args=[run])
    thread.start()
    assert ready.wait(20)
    yield port[0]
    token, scope = ends[0]
    token.run_sync_soon(scope.cancel)
    thread.join(20)
    assert not thread.is_alive()


def test_over_the_wire(store, trace, monkeypatch):
    monkeypatch.setattr(receiving, "QUIET", 0.1)
    told, learned = [], []
    with serving(Inbox(store, keep=2, margin=0), told, learned) as port:
        target = f"/any/prefix/kiosk/{name(1)}.trace"
        assert uploading.put("127.0.0.1", port, target, encode(trace)) == (201, "kept")
        assert uploading.put("127.0.0.1", port, target, encode(trace))[0] == 200
        assert uploading.put("127.0.0.1", port, "/kiosk/../x.trace", encode(trace))[0] == 400
        assert uploading.put("127.0.0.1", port, f"/kiosk/{name(2)}.trace", b"nothing")[0] == 400
        assert uploading.put("127.0.0.1", port, target, bytes(LARGEST + 1))[0] == 413
        for request, status in ((b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 405), (b"rubbish\r\n\r\n", 400)):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(request)
                assert connection.recv(100).startswith(b"HTTP/1.1 %d" % status)
        deadline = time.monotonic() + 20
        while not learned and time.monotonic() < deadline:
            time.sleep(0.02)
    assert learned == [GROUP]


def test_who_is_slow_loses_his_connection_and_holds_up_nobody(store, trace, monkeypatch):
    monkeypatch.setattr(receiving, "RECEIVE", 1.0)
    told = []
    with serving(Inbox(store, keep=2, margin=0), told, []) as port:
        slow = socket.create_connection(("127.0.0.1", port), timeout=20)
        slow.sendall(
            f"PUT /kiosk/{name(2)}.trace HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\nx".encode()
        )
        assert uploading.put("127.0.0.1", port, f"/kiosk/{name(1)}.trace", encode(trace))[0] == 201
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
        slow.close()


@contextmanager
def answering(answer):
    """A server that takes a request, and says this; None: nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        kept = []

        def run():
            connection, _ = server.accept()
            kept.append(connection)
            connection.recv(65536)
            if answer is not None:
                connection.sendall(answer)
                connection.close()

        thread = threading.Thread(target=run)
        thread.start()
        yield server.getsockname()[1]
        thread.join(20)
        for connection in kept:
            connection.close()


def test_a_server_that_never_answers(monkeypatch):
    monkeypatch.setattr(uploading, "ATTEMPT", 0.5)
    with answering(None) as port, pytest.raises(TimeoutError):
        uploading.put("127.0.0.1", port, "/x", b"data")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\n\r\n", (302, "Found")),
        (b"HTTP/1.1 503 \r\n\r\nnot now\nlater\n", (503, "not now")),
    ],
)
def test_what_a_server_answers_is_not_followed(answer, found):
    with answering(answer) as port:
        assert uploading.put("127.0.0.1", port, "/x", b"data") == found


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 abc\r\n\r\n"])
def test_what_is_no_http_is_an_error(answer):
    with answering(answer) as port, pytest.raises(OSError, match=r"HTTP|answer"):
        uploading.put("127.0.0.1", port, "/x", b"data")


def test_where_to_listen():
    assert place(":8465") == ("0.0.0.0", 8465)
    assert place("[::1]:1") == ("::1", 1)
    for wrong in ("8465", "a:b", "a:70000", ""):
        with pytest.raises(ValueError, match="listen"):
            place(wrong)


def real_boot(store):
    """A boot of the store's release, as the release has it."""
    manifest = open_manifest(store.release("t", "1").path)
    header = manifest.header
    found = manifest.block(manifest.lookup(0, b"file"), 0).digest
    return boot(
        [(1, "file", 0, PAGE)],
        {"file": 7},
        {("file", 0): found},
        manifest_digest=header.digest,
        digest_kind=header.digest_kind,
        block_size=header.block_size,
    )


def test_what_is_learned_becomes_a_bundle(store):
    inbox = Inbox(store, keep=2, margin=0)
    for number in range(2):
        inbox.take("kiosk", name(number), encode(dataclasses.replace(real_boot(store), started_ns=number)))
    assert "2 boots" in learn(inbox, GROUP, secret=None, share=0.5)
    assert Bundle(bundle_place(store.release("t", "1").path, "kiosk")).boots == 2
    assert inbox.is_learned(GROUP)


def test_a_signed_release_gets_a_signed_bundle_or_none(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/file").write_bytes(b"content")
    build = ["release", "build", str(tmp_path / "root"), str(tmp_path / "store"), "--name=t", "--version=1"]
    assert main([*build, "--digest=blake2b"]) == 0
    for key in ("ours", "theirs"):
        assert main(["release", "keygen", str(tmp_path / key)]) == 0
    assert main(["release", "sign", str(tmp_path / "store"), "t", "1", "--key", str(tmp_path / "ours")]) == 0
    store = Store(tmp_path / "store")
    bundle = bundle_place(store.release("t", "1").path, "kiosk")
    inbox = Inbox(store, keep=2, margin=0)
    inbox.take("kiosk", name(1), encode(real_boot(store)))
    for secret in (None, read_key(tmp_path / "theirs", "secret")):
        assert "no bundle" in learn(inbox, GROUP, secret=secret, share=0.5)
        assert not bundle.exists()
        assert inbox.profile(GROUP).is_file()
    learn(inbox, GROUP, secret=read_key(tmp_path / "ours", "secret"), share=0.5)
    assert bundle_is_signed(Bundle(bundle), read_key(tmp_path / "ours.pub", "public"))


def test_what_was_learned_of_a_release_that_is_gone_is_removed(store, trace):
    Inbox(store, keep=2, margin=0).take("kiosk", name(1), encode(trace))
    assert not collect(store).leftovers
    retire(store, store.release("t", "1"), force=True)
    assert "learned/t/1" in collect(store).leftovers
    assert not list(store.learned.glob("*/*"))
