"""Configurations inside images, and what a kernel of another maker is refused for."""

import bz2
import gzip
import lzma
import struct

import pytest
import zstandard

from orioncache.errors import UserError
from orioncache.kernel.check import BARS, bar, check_image, describe_size
from orioncache.kernel.fragments import load, merge
from orioncache.kernel.image import image_config

PACKERS = {
    "zstd": zstandard.compress,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
}


def make_image(config, pack=zstandard.compress):
    """A bzImage with nothing in it but what boot.rst's offsets lead to."""
    marked = b"IKCFG_ST" + gzip.compress(config.encode()) + b"IKCFG_ED" if config is not None else b""
    kernel = b"\x7fELF" + bytes(5000) + marked + bytes(3000)
    payload = pack(kernel) + struct.pack("<I", len(kernel))
    setup_sectors, before = 3, 40
    image = bytearray((setup_sectors + 1) * 512)
    image[0x1F1] = setup_sectors
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, before, len(payload))
    return bytes(image) + bytes(before) + payload + b"trailer"


def whole(fragments=(), without=(), modules=()):
    lines = []
    for each in merge(load(fragments)).values():
        if each.symbol in without:
            continue
        lines.append(f"CONFIG_{each.symbol}=m" if each.symbol in modules else each.line)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("packer", PACKERS)
def test_configuration_is_found_in_the_image(tmp_path, packer):
    path = tmp_path / "bzImage"
    path.write_bytes(make_image("CONFIG_A=y\n", PACKERS[packer]))
    assert image_config(path) == "CONFIG_A=y\n"


def test_image_without_configuration(tmp_path):
    path = tmp_path / "vmlinuz-6"
    path.write_bytes(make_image(None))
    assert image_config(path) is None
    with pytest.raises(UserError, match="CONFIG_IKCONFIG is off"):
        check_image(path)
    (tmp_path / "config-6").write_text(whole())
    check_image(path)


@pytest.mark.parametrize("cut", [300, 2120])
def test_damaged_image(tmp_path, cut):
    path = tmp_path / "bzImage"
    path.write_bytes(make_image("CONFIG_A=y\n")[:cut])
    with pytest.raises(UserError, match=r"no x86 kernel image|cannot be unpacked"):
        image_config(path)


def test_image_with_all_options_passes(tmp_path):
    path = tmp_path / "bzImage"
    path.write_bytes(make_image(whole(["bench"])))
    assert check_image(path, ["bench"])["NFSD"] == "y"


def test_missing_options_are_named_with_their_fragment(tmp_path):
    path = tmp_path / "theirs.config"
    path.write_text(whole(without={"FUSE_FS", "NFS_V4_1"}, modules={"OVERLAY_FS"}))
    with pytest.raises(UserError) as error:
        check_image(path)
    assert "lacks 3 options" in error.value.message
    assert "CONFIG_FUSE_FS=y, for fuse" in error.value.message
    assert "CONFIG_NFS_V4_1=y, for nfs-root" in error.value.message
    assert "CONFIG_OVERLAY_FS=y, for overlay (it is a module" in error.value.message
    assert "orioncache kernel build" in error.value.mend


def test_a_node_kernel_is_no_bench_kernel(tmp_path):
    path = tmp_path / "node.config"
    path.write_text(whole())
    with pytest.raises(UserError, match="CONFIG_VETH=y, for bench"):
        check_image(path, ["bench"])


def test_what_is_good_to_have_is_not_demanded(tmp_path):
    path = tmp_path / "plain.config"
    path.write_text(whole(without={"STACKPROTECTOR", "IKCONFIG", "ROOT_NFS", "KVM_GUEST"}))
    check_image(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"\x7fELF\0\0", "neither"), (b"", "neither"), (None, "no kernel")]
)
def test_something_that_is_no_kernel(tmp_path, content, message):
    path = tmp_path / "x"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        check_image(path)


def test_bars():
    assert bar([]) == ("virt", BARS["virt"]) == ("virt", 4_000_000)
    assert bar(["hardware"]) == ("hardware", 7_000_000)
    assert bar(["bench"]) is None
    assert "within" in describe_size(4_000_000, [])
    assert "OVER" in describe_size(4_000_001, [])
