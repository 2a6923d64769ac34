"""The kernel command line's grammar, as a table, under both shells that may run it."""

import shutil
import subprocess
from pathlib import Path

import pytest

import orioncache.initramfs

LIBRARY = Path(orioncache.initramfs.__file__).parent / "lib/cmdline.sh"
SHELLS = [["dash"], ["busybox", "sh"]]

CMDLINE = ["ROOT_KIND", "SERVERS", "ROOT_DIR", "NFS_OPTIONS", "IPS", "INIT", "OVERLAY_SIZE", "SHELL_AT"]
CMDLINE += ["ON_FAILURE", "MOUNT_TIMEOUT", "UNKNOWN", "NAMESERVERS", "IPS_OURS", "WRONG", "MEND"]
IP = [
    "IP_METHOD",
    "IP_CLIENT",
    "IP_PREFIX",
    "IP_PEER",
    "IP_GATEWAY",
    "IP_HOST",
    "IP_IFACE",
    "IP_MTU",
    "IP_MAC",
]
IP += ["IP_DNS", "WRONG", "MEND"]


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def shell(request):
    if shutil.which(request.param[0]) is None:
        pytest.skip(f"{request.param[0]} is not installed")
    return request.param


def call(shell, function, word, names):
    """Runs one function of the library as init does; returns its exit code and the variables."""
    shown = "; ".join(f'printf "%s\\0" "${{{name}-}}"' for name in names)
    script = f'set -eu; . {LIBRARY}; ORION_OPTIONS="cache_size readers"; code=0; {function} "$1" || code=$?'
    command = [*shell, "-c", f'{script}; printf "%s\\0" $code; {shown}', "sh", word]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    code, *values = done.stdout.split("\0")[:-1]
    return int(code), {
        name: " ".join(value.split()) for name, value in zip(names, values, strict=True) if value
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("root=nfs4:192.0.2.1:/srv/root", {"ROOT_KIND": "nfs", "SERVERS": "192.0.2.1:/srv/root"}),
        (
            "root=nfs4:192.0.2.1:/srv/root:nconnect=4,ro",
            {"ROOT_KIND": "nfs", "SERVERS": "192.0.2.1:/srv/root", "NFS_OPTIONS": ",nconnect=4,ro"},
        ),
        (
            "root=nfs:server.example:/srv,proto=tcp",
            {"ROOT_KIND": "nfs", "SERVERS": "server.example:/srv", "NFS_OPTIONS": ",proto=tcp"},
        ),
        (
            "root=nfs4:[2001:db8::1]:/srv:rsize=65536",
            {"ROOT_KIND": "nfs", "SERVERS": "[2001:db8::1]:/srv", "NFS_OPTIONS": ",rsize=65536"},
        ),
        ("root=nfs4:/srv", {"ROOT_KIND": "nfs", "SERVERS": ":/srv"}),
        (
            "root=/dev/nfs nfsroot=192.0.2.1:/srv,vers=4.2",
            {"ROOT_KIND": "nfs", "SERVERS": "192.0.2.1:/srv", "NFS_OPTIONS": ",vers=4.2"},
        ),
        ("root=orion:a:/x,b:/y", {"ROOT_KIND": "orion", "SERVERS": "a:/x b:/y"}),
        ("root=orion:[fe80::1%eth0]:/x,b:/y", {"ROOT_KIND": "orion", "SERVERS": "[fe80::1%eth0]:/x b:/y"}),
        ("root=orion: orion.servers=a:/x,[::1]:/y", {"ROOT_KIND": "orion", "SERVERS": "a:/x [::1]:/y"}),
        ("root=orion orion.servers=a:/x", {"ROOT_KIND": "orion", "SERVERS": "a:/x"}),
        ("root=orion:a:/x orion.nfsopts=port=20049", {"SERVERS": "a:/x", "NFS_OPTIONS": ",port=20049"}),
        (
            "root=dir:/some/where init=/bin/own",
            {"ROOT_KIND": "dir", "ROOT_DIR": "/some/where", "INIT": "/bin/own"},
        ),
        ('quiet root=dir:/a "init=/a b/init" ro', {"INIT": "/a b/init"}),
        ("root=dir:/a init=/* ip=*", {"INIT": "/*", "IPS": "*"}),
        ('root=dir:/a init="/a b c/init" single', {"INIT": "/a b c/init"}),
        ("root=dir:/a -- root=dir:/b", {"ROOT_DIR": "/a"}),
        ("root=dir:/a root=dir:/b", {"ROOT_DIR": "/b"}),
        ("root=dir:/a ip=dhcp ip=eth1:auto6", {"IPS": "dhcp eth1:auto6"}),
        ("root=dir:/a ip=dhcp orion.ip=eth1:auto6 ip=off", {"IPS": "eth1:auto6", "IPS_OURS": "yes"}),
        ("root=dir:/a nameserver=192.0.2.1 nameserver=2001:db8::1", {"NAMESERVERS": "192.0.2.1 2001:db8::1"}),
        (
            "root=dir:/a orion.overlay_size=2G orion.shell=mount orion.on_failure=reboot "
            "orion.mount_timeout=3",
            {"OVERLAY_SIZE": "2G", "SHELL_AT": "mount", "ON_FAILURE": "reboot", "MOUNT_TIMEOUT": "3"},
        ),
        ("root=dir:/a orion.cache_size=1G orion.cash=1 orion.readers", {"UNKNOWN": "orion.cash=1"}),
        ("BOOT_IMAGE=/vmlinuz root=dir:/a quiet panic=-1 mitigations=off", {"ROOT_DIR": "/a"}),
    ],
)
def test_words(shell, line, expected):
    code, found = call(shell, "parse_cmdline", line, CMDLINE)
    assert code == 0, found
    defaults = {"OVERLAY_SIZE": "50%", "ON_FAILURE": "shell", "MOUNT_TIMEOUT": "15"}
    # Where the root comes from stands in every line, and is only compared where it is the point.
    told = {name: value for name, value in found.items() if name in expected or value != defaults.get(name)}
    assert set(told) - set(expected) <= {"ROOT_KIND", "SERVERS", "ROOT_DIR"}
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("quiet", "root="),
        ("root=", "root="),
        ("root=/dev/sda1", "root=/dev/sda1"),
        ("root=nfs3:a:/x", "root=nfs3:a:/x"),
        ("root=nfs4:server", "root=nfs4:server"),
        ("root=nfs4:2001:db8::1:/srv", "root=nfs4:2001:db8::1:/srv"),
        ("root=nfs4:[2001:db8::1:/srv", "root=nfs4:[2001:db8::1:/srv"),
        ("root=nfs4:[server]:/srv", "root=nfs4:[server]:/srv"),
        ("root=nfs4:a b:/srv", "root=nfs4:a"),
        ("root=/dev/nfs", "nfsroot="),
        ("root=orion:", "root=orion:"),
        ("root=orion:a:/x,b", "'b'"),
        ("root=orion:a:/x,,b:/y", "''"),
        ("root=dir:relative", "root=dir:relative"),
        ("root=dir:/a init=sbin/init", "init=sbin/init"),
        ("root=dir:/a orion.overlay_size=lots", "orion.overlay_size=lots"),
        ("root=dir:/a orion.overlay_size=0", "orion.overlay_size=0"),
        ("root=dir:/a orion.mount_timeout=soon", "orion.mount_timeout=soon"),
        ("root=dir:/a orion.mount_timeout=9999999", "orion.mount_timeout=9999999"),
        ("root=dir:/a orion.shell=here", "orion.shell=here"),
        ("root=dir:/a orion.on_failure=cry", "orion.on_failure=cry"),
    ],
)
def test_wrong_words_are_named(shell, line, named):
    code, found = call(shell, "parse_cmdline", line, CMDLINE)
    assert code == 1
    assert named in found["WRONG"]
    assert found["MEND"]


def test_what_to_do_on_failure_is_known_even_if_an_earlier_word_is_wrong(shell):
    code, found = call(shell, "parse_cmdline", "orion.shell=x root=y orion.on_failure=poweroff", CMDLINE)
    assert code == 1
    assert (found["ON_FAILURE"], "orion.shell=x" in found["WRONG"]) == ("poweroff", True)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("dhcp", "METHOD=dhcp"),
        ("on", "METHOD=dhcp"),
        ("any", "METHOD=dhcp"),
        ("dhcp6", "METHOD=dhcp6"),
        ("auto6", "METHOD=auto6"),
        ("either6", "METHOD=either6"),
        ("off", "METHOD=none"),
        ("eth0:dhcp", "METHOD=dhcp IFACE=eth0"),
        ("enp1s0:auto6:9000", "METHOD=auto6 IFACE=enp1s0 MTU=9000"),
        ("eth0:on::52:54:00:12:34:56", "METHOD=dhcp IFACE=eth0 MAC=52:54:00:12:34:56"),
        ("eth0:dhcp:1400:52:54:00:12:34:56", "METHOD=dhcp IFACE=eth0 MTU=1400 MAC=52:54:00:12:34:56"),
        ("192.0.2.7", "METHOD=static CLIENT=192.0.2.7 PREFIX=24"),
        ("10.0.0.7", "METHOD=static CLIENT=10.0.0.7 PREFIX=8"),
        ("172.16.0.7::172.16.0.1", "METHOD=static CLIENT=172.16.0.7 PREFIX=16 GATEWAY=172.16.0.1"),
        (
            "192.0.2.7:192.0.2.9:192.0.2.1:255.255.255.128:node7:eth0:none",
            "METHOD=static CLIENT=192.0.2.7 PREFIX=25 PEER=192.0.2.9 GATEWAY=192.0.2.1 HOST=node7 IFACE=eth0",
        ),
        ("192.0.2.7:::24:::off", "METHOD=static CLIENT=192.0.2.7 PREFIX=24"),
        (
            "192.0.2.7:::24:node:eth0:none:1400",
            "METHOD=static CLIENT=192.0.2.7 PREFIX=24 HOST=node IFACE=eth0 MTU=1400",
        ),
        (
            "192.0.2.7:::24:node:eth0:none:1400:52:54:00:12:34:56",
            "METHOD=static CLIENT=192.0.2.7 PREFIX=24 HOST=node IFACE=eth0 MTU=1400 MAC=52:54:00:12:34:56",
        ),
        (
            "192.0.2.7:::24:node:eth0:off:198.51.100.1:198.51.100.2",
            "METHOD=static CLIENT=192.0.2.7 PREFIX=24 HOST=node IFACE=eth0 DNS=198.51.100.1 198.51.100.2",
        ),
        (
            "[2001:db8::7]::[2001:db8::1]:64:node:eth0:none",
            "METHOD=static CLIENT=2001:db8::7 PREFIX=64 GATEWAY=2001:db8::1 HOST=node IFACE=eth0",
        ),
        ("[2001:db8::7]", "METHOD=static CLIENT=2001:db8::7 PREFIX=64"),
        (
            "[2001:db8::7]:::56::eth0:none:[2001:db8::53]",
            "METHOD=static CLIENT=2001:db8::7 PREFIX=56 IFACE=eth0 DNS=2001:db8::53",
        ),
        ("::::node:eth0:dhcp", "METHOD=dhcp HOST=node IFACE=eth0"),
        (":::::eth0:auto6", "METHOD=auto6 IFACE=eth0"),
    ],
)
def test_ip(shell, word, expected):
    code, found = call(shell, "parse_ip", word, IP)
    assert code == 0, found
    # A value may hold a blank (two name servers), a name never does.
    assert " ".join(f"{name.removeprefix('IP_')}={value}" for name, value in found.items()) == expected


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("wlan", "'wlan'"),
        ("eth0:wlan", "'wlan'"),
        ("eth0:dhcp:big", "'big'"),
        ("192.0.2.300", "'192.0.2.300'"),
        ("192.0.2", "'192.0.2'"),
        ("192.0.2.7:::255.0.255.0", "'255.0.255.0'"),
        ("192.0.2.7:::33", "'33'"),
        ("192.0.2.7::nowhere:24", "'nowhere'"),
        ("192.0.2.7:::24:n:eth0:ibft", "'ibft'"),
        ("[2001:db8::7", "]"),
        ("[2001:db8::7]:::129", "'129'"),
        ("[wlan]:::64", "'wlan'"),
    ],
)
def test_wrong_ip_is_named(shell, word, named):
    code, found = call(shell, "parse_ip", word, IP)
    assert code == 1
    assert f"ip={word}" in found["WRONG"]
    assert named in found["WRONG"]
    assert found["MEND"]
