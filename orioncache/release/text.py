"""Quantities and names for people."""

import os


def size(count: float) -> str:
    """Bytes, with the unit that fits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def age(seconds: float) -> str:
    """A time that has passed, with the unit that fits."""
    for length, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows in columns; the first row is the heading, and numbers go to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [all(not row[i] or row[i][0].isdigit() for row in rows[1:]) for i in range(len(widths))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    )


def printable(text: str) -> str:
    """A path that cannot steer a terminal."""
    return "".join(c if c.isprintable() else "".join(f"\\x{b:02x}" for b in os.fsencode(c)) for c in text)
