"""The options of a running cache, declared once.

From one declaration derive the flag (``--cache-size``), the key in a TOML file (``cache_size``), the
environment variable (``ORION_CACHE_SIZE``) and the kernel command line's word (``orion.cache_size=``). Later
ones win, in the order default, TOML, kernel command line, environment, flag.

A node's boot waits for this module: it is written without dataclasses, re, typing and pathlib, each of which
takes longer to import than all the rest of the daemon's start.
"""

from __future__ import annotations

import os

from orioncache.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

# Each is a thread, for which the server's NFS client wants a slot as well.
MAX_READERS = 256

# As orioncache.native.engine has them, which is not imported for a --help.
READ_AROUND_AUTO = -1
MAX_READ_AROUND = 8 << 20
# Seconds, as a time that does not come (JSON has no infinity).
NEVER = 0.0
# As native/bundle_file.h has it.
MAX_ROLE = 64
ROLE_LETTERS = set("abcdefghijklmnopqrstuvwxyz0123456789._-")

# As native/trace.h has it.
MAX_TRACE_RECORDS = 1 << 22

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size(text: str) -> int:
    """Bytes from ``64M``, ``1.5G``, ``4096``; K, M, G and T are powers of 1024."""
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = number[-1:] if number[-1:] in UNITS else ""
    try:
        value = float(number[: len(number) - len(unit)]) * UNITS[unit]
    except ValueError:
        raise ValueError(f"'{text}' is no size: write 64M, 1G or a number of bytes") from None
    if not 0 <= value < 1 << 63:
        raise ValueError(f"'{text}' is out of range")
    return int(value)


def seconds(text: str) -> float:
    """Seconds from ``2``, ``0.5``, ``2s`` or ``500ms``."""
    plain = text.strip().lower()
    scale = 1.0
    for suffix, factor in (("ms", 0.001), ("s", 1.0)):
        if plain.endswith(suffix):
            plain, scale = plain.removesuffix(suffix), factor
            break
    try:
        value = float(plain) * scale
    except ValueError:
        raise ValueError(f"'{text}' is no duration: write 2, 0.5s or 500ms") from None
    if not 0 <= value < float("inf"):
        raise ValueError(f"'{text}' is out of range")
    return value


def _power_of_two(text: str) -> int:
    value = size(text)
    if not 4096 <= value <= 1 << 20 or value & (value - 1):
        raise ValueError(f"'{text}' is no block size: a power of two from 4K to 1M")
    return value


def _read_around(text: str) -> int:
    if text.strip().lower() == "auto":
        return READ_AROUND_AUTO
    value = size(text)
    if value > MAX_READ_AROUND:
        raise ValueError(f"'{text}' is out of range: at most {MAX_READ_AROUND >> 20}M")
    return value


def _give_up(text: str) -> float:
    return NEVER if text.strip().lower() == "never" else seconds(text)


def _percent(text: str) -> float:
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        raise ValueError(f"'{text}' is no percentage: write 5 or 2.5%") from None
    if not 0 <= value <= 100:
        raise ValueError(f"'{text}' is out of range: 0 to 100")
    return value


def _heuristics(text: str) -> str:
    from orioncache.choices import parse  # noqa: PLC0415

    parse(text)
    return text


def is_role(text: str) -> bool:
    """Whether a text can be the role of a node, which names a bundle's file."""
    return 0 < len(text) < MAX_ROLE and not text.startswith(".") and set(text) <= ROLE_LETTERS


def _role(text: str) -> str:
    if not is_role(text):
        raise ValueError(f"'{text}' is no role: up to {MAX_ROLE - 1} of a-z 0-9 . _ -")
    return text


def upload_place(url: str) -> tuple[str, int, str]:
    """Address, port and path (without a slash at its end) of a URL such as ``http://10.0.0.1:8465/``.

    The host is an address: a node's daemon, whose root is the initramfs, asks no name server.

    Raises:
        ValueError: it is another kind of URL.
    """
    from _socket import AF_INET, AF_INET6, inet_pton  # noqa: PLC0415

    scheme, found, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    if scheme != "http" or not found:
        raise ValueError(f"'{url}' is no place to upload to: write http://ADDRESS[:PORT]/PATH")
    if any(not "!" <= character <= "~" or character in "?#%" for character in path):
        raise ValueError(f"'{url}' has a path that is not plain")
    if host.startswith("["):
        address, bracket, port = host[1:].partition("]")
        good = bracket and port[:1] in ("", ":")
        port = port[1:]
    else:
        address, _, port = host.partition(":")
        good = True
    try:
        # A scope (fe80::1%eth0) is connect()'s affair.
        inet_pton(AF_INET6 if host.startswith("[") else AF_INET, address.partition("%")[0])
    except OSError:
        good = False
    if not good:
        raise ValueError(f"'{url}' has no address as its host: write 10.0.0.1 or [2001:db8::1], not a name")
    if port and not (port.isdecimal() and port.isascii() and 1 <= int(port) < 1 << 16):
        raise ValueError(f"'{url}' has no good port")
    return address, int(port or 80), (slash + path).rstrip("/")


def _upload(text: str) -> str:
    if text:
        upload_place(text)
    return text


def metrics_place(text: str) -> tuple[str, int]:
    """Address and port of ``ADDRESS:PORT``, ``[ADDRESS]:PORT`` or ``PORT``, which is one of the loopback.

    The host is an address, for the same reason as in :func:`upload_place`.

    Raises:
        ValueError: it is something else.
    """
    from _socket import AF_INET, AF_INET6, inet_pton  # noqa: PLC0415

    host, _, port = text.strip().rpartition(":")
    if not (port.isdecimal() and port.isascii() and 1 <= int(port) < 1 << 16):
        raise ValueError(f"'{text}' is no port to listen on: write PORT or ADDRESS:PORT")
    in_brackets = host.startswith("[") and host.endswith("]")
    address = (host[1:-1] if in_brackets else host) or "127.0.0.1"
    try:
        inet_pton(AF_INET6 if in_brackets else AF_INET, address)
    except OSError:
        raise ValueError(
            f"'{text}' has no address to listen on: write 10.0.0.1:{port} or [::]:{port}, not a name"
        ) from None
    return address, int(port)


def _metrics_port(text: str) -> str:
    if text:
        metrics_place(text)
    return text


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"'{text}' is not known: one of {', '.join(words)}")
        return text

    return parse


def _count(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"'{text}' is no number") from None
        if not 1 <= value <= most:
            raise ValueError(f"'{text}' is out of range: 1 to {most}")
        return value

    return parse


class Option:
    """One option of a running cache.

    Attributes:
        field: the attribute of :class:`Options` that holds it; all other names derive from this one.
        parse: text to value; raises ValueError with a message for the user.
        metavar: what stands for the value in ``--help``.
        help: one line.
    """

    def __init__(self, field: str, parse: Callable[[str], Any], metavar: str, help: str) -> None:
        self.field = field
        self.parse = parse
        self.metavar = metavar
        self.help = help

    @property
    def flag(self) -> str:
        """The command line's name for it."""
        return "--" + self.field.replace("_", "-")


class Options:
    """Values of all options; the defaults are here.

    Attributes:
        block_size: bytes in one cache block, which is also one upstream read.
        cache_size: bytes of RAM for blocks as they are (the first level).
        compressed_size: bytes of RAM for lz4 blocks that fell out of the first level (the second level).
        attr_ttl: seconds for which attributes, names and missing names are believed without asking a server.
        read_timeout: seconds after which a thread that reads from a server is abandoned. Others are asked
            long before (docs/failover.md).
        hedge_floor: seconds that a read waits at least before the next server is asked as well.
        hedge_cap: seconds after which it is asked in any case, if the budget allows it.
        hedge_budget: such additional reads, in percent of all; 0: none.
        give_up: seconds that a read waits while no server answers, before it fails; NEVER: for ever.
        spread: ``on`` spreads reads over all servers that are good, instead of asking the best.
        readers: threads that read from one server at the same time.
        control: path of the control socket; empty: one derived from the mount point.
        engine: ``native`` (C answers the kernel) or ``python`` (pyfuse3 does).
        read_around: bytes of a release that are read around a missing block; READ_AROUND_AUTO: as many as the
            round trip is worth.
        key: path of the public key that a release must be signed with; empty: none.
        verify: ``off`` believes a release although it is not signed with the key.
        heuristics: what guesses which blocks of a release are wanted next, as docs/prefetch.md has it: names,
            with tunables.
        bundle: the role whose bundle of a release is streamed while a node boots; ``off``: none.
        trace: ``on`` records each request to a release; ``touch`` has the kernel ask for each page when it is
            first touched, as well.
        trace_records: how many are recorded.
        upload: where to send what a boot without a bundle read, so that one can be made; empty: nowhere.
        upload_after: seconds from the mount until then: what is read later is not recorded.
        metrics_port: where to answer ``GET /metrics``, as :func:`metrics_place` reads it; empty: nowhere.
    """

    block_size: int = 128 << 10
    cache_size: int = 64 << 20
    compressed_size: int = 64 << 20
    attr_ttl: float = 3.0
    read_timeout: float = 10.0
    hedge_floor: float = 0.02
    hedge_cap: float = 0.5
    hedge_budget: float = 5.0
    give_up: float = NEVER
    spread: str = "off"
    readers: int = 8
    control: str = ""
    engine: str = "native"
    read_around: int = READ_AROUND_AUTO
    key: str = ""
    verify: str = "on"
    heuristics: str = "none"
    bundle: str = "default"
    trace: str = "off"
    trace_records: int = 65536
    upload: str = ""
    upload_after: float = 60.0
    metrics_port: str = ""

    def __init__(self, **values: Any) -> None:  # noqa: ANN401
        for option in OPTIONS:
            setattr(self, option.field, values.pop(option.field, getattr(Options, option.field)))
        if values:
            raise TypeError(f"no such option: {', '.join(values)}")

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and vars(self) == vars(other)

    @property
    def speculates(self) -> bool:
        """Whether any heuristics are chosen."""
        return self.heuristics not in ("", "none")

    def replace(self, **changes: Any) -> Options:  # noqa: ANN401
        """The same options with other values for some."""
        return Options(**{**vars(self), **changes})


OPTIONS: Sequence[Option] = (
    Option("block_size", _power_of_two, "SIZE", "bytes in one cache block and one upstream read"),
    Option("cache_size", size, "SIZE", "RAM for blocks as they are"),
    Option(
        "compressed_size", size, "SIZE", "RAM for lz4 blocks that fell out of the first level; 0 for none"
    ),
    Option("attr_ttl", seconds, "TIME", "how long attributes and names are believed without asking a server"),
    Option("read_timeout", seconds, "TIME", "when a thread that reads from a server is abandoned"),
    Option(
        "hedge_floor", seconds, "TIME", "how long a read waits at least before another server is asked too"
    ),
    Option("hedge_cap", seconds, "TIME", "how long at most"),
    Option("hedge_budget", _percent, "PERCENT", "such additional reads, of all reads; 0 for none"),
    Option("give_up", _give_up, "TIME", "when a read fails that no server answers, or never"),
    Option(
        "spread", _one_of("off", "on"), "on|off", "on: read from all good servers, not from the best alone"
    ),
    Option("readers", _count(MAX_READERS), "N", "reads at the same time on one server"),
    Option("control", str, "PATH", "the control socket; derived from the mount point if not given"),
    Option("engine", _one_of("native", "python"), "NAME", "what answers the kernel: native or python"),
    Option("read_around", _read_around, "SIZE", "what is read around a missing block of a release, or auto"),
    Option("key", str, "FILE", "public key that a release must be signed with"),
    Option("verify", _one_of("on", "off"), "on|off", "off: take a release that is not signed with the key"),
    Option(
        "heuristics",
        _heuristics,
        "LIST",
        "what guesses the next blocks of a release, such as elf,script,sequential:window=4M; none",
    ),
    Option("bundle", _role, "ROLE", "role of the node, whose bundle of a release is streamed; off for none"),
    Option(
        "trace",
        _one_of("off", "on", "touch"),
        "MODE",
        "on: record what is asked of a release; touch: page by page, without any reading ahead",
    ),
    Option("trace_records", _count(MAX_TRACE_RECORDS), "N", "requests that are recorded, the first ones"),
    Option("upload", _upload, "URL", "where to send what a boot without a bundle read: http://ADDRESS:PORT/"),
    Option("upload_after", seconds, "TIME", "how long after the mount it is sent"),
    Option(
        "metrics_port",
        _metrics_port,
        "[ADDRESS:]PORT",
        "answer GET /metrics there, for Prometheus; without an address on 127.0.0.1 alone",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares a flag for each option, and ``--config``."""
    group = parser.add_argument_group(
        "cache options", "also as TOML key, ORION_… variable and orion.… kernel argument"
    )
    from pathlib import Path  # noqa: PLC0415

    group.add_argument("--config", metavar="FILE", type=Path, help="TOML file with these options")
    for option in OPTIONS:
        default = getattr(Options, option.field)
        shown = f" (default: {_shown(default)})" if default != "" else ""
        group.add_argument(option.flag, metavar=option.metavar, help=option.help + shown)


def _shown(default: object) -> str:
    if default is NEVER:
        return "never"
    return "auto" if default == READ_AROUND_AUTO else str(default)


def from_arguments(args: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Options:
    """Options from parsed flags, the environment and the file that ``--config`` names."""
    flags = {option.field: value for option in OPTIONS if (value := getattr(args, option.field)) is not None}
    return collect(toml=args.config, environment=environment, flags=flags)


def collect(
    *,
    toml: Path | None = None,
    command_line: str = "",
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Options:
    """Options from all sources, each checked under the name that the user gave it.

    Raises:
        UserError: a value does not parse, or a TOML file is broken or has an unknown key.
    """
    values: dict[str, Any] = {}
    known = {option.field: option for option in OPTIONS}

    def take(field: str, value: object, name: str) -> None:
        try:
            values[field] = known[field].parse(_as_text(field, value))
        except ValueError as error:
            raise UserError(
                f"{name}: {error}", f"see {known[field].flag} in orioncache mount --help"
            ) from None

    for key, value in _toml_items(toml):
        if key not in known:
            raise UserError(f"{toml}: unknown key '{key}'", f"known are {', '.join(known)}")
        take(key, value, f"{toml}: {key}")
    for word in _kernel_words(command_line):
        key, _, text = word.partition("=")
        # The kernel takes - and _ in a name for the same.
        field = key.removeprefix("orion.").replace("-", "_")
        if key.startswith("orion.") and field in known:
            take(field, text, key)
    for field in known:
        name = f"ORION_{field.upper()}"
        if environment is not None and name in environment:
            take(field, environment[name], name)
    for field, text in (flags or {}).items():
        take(field, text, known[field].flag)
    found = Options(**values)
    _check_upload(found)
    return found


def _check_upload(found: Options) -> None:
    if not found.upload:
        return
    if found.bundle == "off":
        raise UserError(
            "upload: what is sent is for the nodes of a role, and bundle is off", "name the role with bundle"
        )
    if found.speculates:
        raise UserError(
            "upload: heuristics live on the records, which end when a bundle is found or a boot is sent",
            "leave heuristics or upload out",
        )
    if found.trace == "on":
        raise UserError(
            "upload: with trace=on it would have what the kernel reads ahead as well",
            "say trace=touch, or nothing of trace",
        )


def _as_text(field: str, value: object) -> str:
    """A TOML value as a flag would have it: heuristics may be tables, the others are plain."""
    if field != "heuristics" or not isinstance(value, dict):
        return str(value)
    from orioncache.choices import from_toml  # noqa: PLC0415

    return ",".join(map(str, from_toml(value)))


def _kernel_words(line: str) -> Iterator[str]:
    """The kernel command line's words, without quotes: white space ends one, except between double quotes."""
    word, quoted = "", False
    for character in line + " ":
        if character == '"':
            quoted = not quoted
        elif quoted or not character.isspace():
            word += character
        elif word:
            yield word
            word = ""
    if word:
        yield word


def _toml_items(path: Path | None) -> Sequence[tuple[str, Any]]:
    if path is None:
        return ()
    import tomllib  # noqa: PLC0415

    try:
        return tuple(tomllib.loads(path.read_text(encoding="utf-8")).items())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid TOML: {error}", "mend the file, or leave --config out") from None
