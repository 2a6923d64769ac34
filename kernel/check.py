"""Checking a kernel, built here or elsewhere: has it what a node or the bench needs, and how large is it?"""

from collections.abc import Sequence
from pathlib import Path

from orioncache.errors import UserError
from orioncache.kernel.config import read_config
from orioncache.kernel.fragments import BASE, Assignment, load, merge
from orioncache.kernel.image import image_config, is_image

# The most that nodes should have to download, in bytes: the base alone, and with the hardware fragment.
BARS = {"virt": 4_000_000, "hardware": 7_000_000}

# How many missing options are named; the rest is counted.
_NAMED = 12


def check_image(path: Path, fragments: Sequence[str] = ()) -> dict[str, str]:
    """Makes sure that a kernel has all options that the base and these fragments need, built in.

    Args:
        path: a bzImage, or a ``.config``.
        fragments: as for :func:`orioncache.kernel.build.build_kernel`.

    Returns:
        The kernel's configuration: value by symbol, without ``CONFIG_``.

    Raises:
        UserError: an option is missing; its message names them and the fragments that want them.
    """
    values = read_config(config_text(path))
    missing = [each for each in merge(load(fragments)).values() if each.needed and not _has(each, values)]
    if not missing:
        return values
    named = "".join(f"\n  {_describe(each, values)}" for each in missing[:_NAMED])
    if len(missing) > _NAMED:
        named += f"\n  and {len(missing) - _NAMED} more"
    options = "".join(f" --fragment {name}" for name in fragments)
    plural = "s" if len(missing) > 1 else ""
    raise UserError(
        f"{path} lacks {len(missing)} option{plural}:{named}",
        f"build one that has them: orioncache kernel build{options}, or drop --kernel",
    )


def config_text(path: Path) -> str:
    """The configuration of a kernel: in the image, beside it (``X.config``, ``config-VERSION``), or itself.

    Raises:
        UserError: there is none, or ``path`` is something else.
    """
    if not path.is_file():
        raise UserError(f"there is no kernel {path}", "check the path, or build one: orioncache kernel build")
    with path.open("rb") as file:
        start = file.read(4096)
    if not is_image(start):
        text = path.read_text(errors="replace")
        if "CONFIG_" not in text or "\0" in text:
            raise UserError(
                f"{path} is neither a bzImage nor a .config", "give a bzImage, vmlinuz or .config file"
            )
        return text
    inside = image_config(path)
    if inside is not None:
        return inside
    for beside in (
        path.with_name(f"{path.name}.config"),
        path.with_name(path.name.replace("vmlinuz", "config")),
        path.with_name("config"),
    ):
        if beside != path and beside.is_file():
            return beside.read_text(errors="replace")
    raise UserError(
        f"{path} does not say how it was configured (CONFIG_IKCONFIG is off)",
        f"put its configuration beside it as {path.name}.config, or build with CONFIG_IKCONFIG=y",
    )


def bar(fragments: Sequence[str]) -> tuple[str, int] | None:
    """Name and bytes of the bar for the base with these fragments; None if there is none for them."""
    extra = set(fragments) - set(BASE)
    if not extra:
        return "virt", BARS["virt"]
    return ("hardware", BARS["hardware"]) if extra == {"hardware"} else None


def describe_size(size: int, fragments: Sequence[str]) -> str:
    """The image's size, beside the bar if there is one."""
    limit = bar(fragments)
    if limit is None:
        return f"{size:,} bytes"
    verdict = "within" if size <= limit[1] else "OVER"
    return f"{size:,} bytes, {verdict} the bar of {limit[1]:,} bytes ({limit[0]})"


def _has(asked: Assignment, values: dict[str, str]) -> bool:
    # Only what must be on is demanded: an option that is on and could be off does no harm.
    return asked.value not in ("y", "m") or values.get(asked.symbol) == "y"


def _describe(asked: Assignment, values: dict[str, str]) -> str:
    module = " (it is a module, and a node loads none)" if values.get(asked.symbol) == "m" else ""
    return f"CONFIG_{asked.symbol}=y, for {asked.where.rpartition(':')[0]}{module}"
