"""Each option under each of its names, and what a wrong value says."""

import argparse
from pathlib import Path

import pytest

from orioncache import options
from orioncache.errors import UserError
from orioncache.options import OPTIONS, Options

# One text for each option, with the value that it means; none is the default.
SAMPLES = {
    "block_size": ("64K", 64 << 10),
    "cache_size": ("1.5G", 3 << 29),
    "compressed_size": ("0", 0),
    "attr_ttl": ("500ms", 0.5),
    "read_timeout": ("2s", 2.0),
    "hedge_floor": ("5ms", 0.005),
    "hedge_cap": ("1", 1.0),
    "hedge_budget": ("2.5%", 2.5),
    "give_up": ("30s", 30.0),
    "spread": ("on", "on"),
    "readers": ("3", 3),
    "control": ("/tmp/x.sock", "/tmp/x.sock"),
    "engine": ("python", "python"),
    "read_around": ("256K", 256 << 10),
    "key": ("/etc/release.pub", "/etc/release.pub"),
    "verify": ("off", "off"),
    "heuristics": ("elf,script:scan=64K", "elf,script:scan=64K"),
    "bundle": ("kiosk", "kiosk"),
    "trace": ("touch", "touch"),
    "trace_records": ("1000", 1000),
    "upload": ("http://10.0.0.1:8465/", "http://10.0.0.1:8465/"),
    "upload_after": ("90s", 90.0),
    "metrics_port": ("10.0.0.1:9469", "10.0.0.1:9469"),
}


def _flags(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return parser.parse_args(words)


def test_every_option_is_sampled_and_declared() -> None:
    fields = list(vars(Options()))
    assert fields == [option.field for option in OPTIONS] == list(SAMPLES)
    assert all(getattr(Options(), field) != value for field, (_, value) in SAMPLES.items())


@pytest.mark.parametrize("field", SAMPLES)
def test_each_form_of_the_name(field: str, tmp_path: Path) -> None:
    text, value = SAMPLES[field]
    toml = tmp_path / "cache.toml"
    toml.write_text(f'{field} = "{text}"\n')
    expected = Options().replace(**{field: value})
    flag = "--" + field.replace("_", "-")
    assert options.from_arguments(_flags([flag, text]), {}) == expected
    assert options.from_arguments(_flags([]), {f"ORION_{field.upper()}": text}) == expected
    assert options.from_arguments(_flags(["--config", str(toml)]), {}) == expected
    assert options.collect(command_line=f"quiet root=x orion.{field}={text} ro") == expected
    assert options.collect(command_line=f'orion.{field.replace("_", "-")}="{text}"') == expected


def test_later_sources_win(tmp_path: Path) -> None:
    toml = tmp_path / "cache.toml"
    toml.write_text("readers = 2\n")
    sources = {
        "toml": toml,
        "command_line": "orion.readers=3",
        "environment": {"ORION_READERS": "4"},
        "flags": {"readers": "5"},
    }
    found = []
    for count in range(1, 5):
        found.append(options.collect(**dict(list(sources.items())[:count])).readers)
    assert found == [2, 3, 4, 5]


def test_numbers_in_toml_need_no_quotes(tmp_path: Path) -> None:
    toml = tmp_path / "cache.toml"
    toml.write_text("cache_size = 1048576\nattr_ttl = 1.5\n")
    found = options.collect(toml=toml)
    assert (found.cache_size, found.attr_ttl) == (1 << 20, 1.5)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("block_size", "3K"),
        ("block_size", "2048"),
        ("block_size", "2M"),
        ("cache_size", "much"),
        ("cache_size", "-1"),
        ("cache_size", "9999999T"),
        ("cache_size", ""),
        ("attr_ttl", "soon"),
        ("attr_ttl", "-1s"),
        ("attr_ttl", "inf"),
        ("attr_ttl", "nan"),
        ("trace", "yes"),
        ("trace_records", "0"),
        ("trace_records", "4194305"),
        ("readers", "0"),
        ("readers", "257"),
        ("readers", "2.5"),
    ],
)
def test_wrong_values_are_named_as_the_user_gave_them(field: str, text: str) -> None:
    for arguments, name in (
        ({"flags": {field: text}}, "--" + field.replace("_", "-")),
        ({"environment": {f"ORION_{field.upper()}": text}}, f"ORION_{field.upper()}"),
        ({"command_line": f"orion.{field}={text}"}, f"orion.{field}"),
    ):
        with pytest.raises(UserError) as caught:
            options.collect(**arguments)
        assert caught.value.message.startswith(f"{name}: '{text}' ")


def test_other_words_of_the_kernels_command_line_are_left_alone() -> None:
    line = (
        'root=orion:a:/x orion.servers=a:/x,b:/x orion.shell=mount orion.cache_size "unclosed orion.readers=9'
    )
    with pytest.raises(UserError, match=r"orion\.cache_size"):
        options.collect(command_line=line)
    assert options.collect(command_line=line.replace("orion.cache_size ", "")) == Options()


def test_toml_that_is_wrong(tmp_path: Path) -> None:
    toml = tmp_path / "cache.toml"
    toml.write_text("readrs = 2\n")
    with pytest.raises(UserError, match="unknown key 'readrs'"):
        options.collect(toml=toml)
    toml.write_text("= 2\n")
    with pytest.raises(UserError, match="no valid TOML"):
        options.collect(toml=toml)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://10.0.0.1", ("10.0.0.1", 80, "")),
        ("http://10.0.0.1:8465/", ("10.0.0.1", 8465, "")),
        ("http://10.0.0.1/a/b/", ("10.0.0.1", 80, "/a/b")),
        ("http://[2001:db8::1]:81/x", ("2001:db8::1", 81, "/x")),
        ("http://[fe80::1%eth0]", ("fe80::1%eth0", 80, "")),
    ],
)
def test_a_place_to_upload_to(url: str, place: tuple[str, int, str]) -> None:
    assert options.upload_place(url) == place


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("10.0.0.1:80", "no place"),
        ("https://10.0.0.1/", "no place"),
        ("http://server/", "not a name"),
        ("http://10.0.0.1.evil/", "not a name"),
        ("http://[10.0.0.1]/", "not a name"),
        ("http://[::1/", "not a name"),
        ("http://[::1]80/", "not a name"),
        ("http://10.0.0.1:0/", "port"),
        ("http://10.0.0.1:70000/", "port"),
        ("http://10.0.0.1/a b", "plain"),
        ("http://10.0.0.1/?role=x", "plain"),
    ],
)
def test_what_is_no_place_to_upload_to_gets_one_line(url: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        options.collect(environment={"ORION_UPLOAD": url})
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(("name", "value"), [("BUNDLE", "off"), ("TRACE", "on"), ("HEURISTICS", "elf")])
def test_what_does_not_go_with_uploads_is_said(name: str, value: str) -> None:
    with pytest.raises(UserError, match="upload"):
        options.collect(environment={"ORION_UPLOAD": "http://10.0.0.1/", f"ORION_{name}": value})
