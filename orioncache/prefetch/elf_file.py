"""As much of an ELF file as its start-up needs: interpreter, segments, needed libraries (elf(5)).

And of ld.so.cache, glibc's index of libraries (sysdeps/generic/dl-cache.h). Every length and offset comes
from a file that may be broken or hostile: what is wrong gives None or less, never an error.
"""

from __future__ import annotations

import struct

# More of any table than a sane file has; what is beyond is left out.
SEGMENTS_MOST = 64
DYNAMIC_MOST = 64 << 10
NEEDED_MOST = 256
NAME_MOST = 4096

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_STRSZ = 1, 2, 5, 6, 7, 8, 10
_DT_RPATH, _DT_REL, _DT_RELSZ, _DT_JMPREL, _DT_RUNPATH = 15, 17, 18, 23, 29

_CACHE_MAGIC = b"glibc-ld.so.cache1.1"
_CACHE_HEADER = 48
CACHE_MOST = 8 << 20
CACHE_ENTRIES_MOST = 1 << 16


class Elf:
    """A file's headers.

    Attributes:
        wide: 64-bit.
        order: ``<`` or ``>``, as struct has it.
        machine: e_machine.
        loads: PT_LOADs: (address, offset, bytes in the file, writable).
        dynamic: (offset, bytes) of the dynamic section; None for a static file.
        interpreter: (offset, bytes) of the interpreter's path; None.
        entry: address where it starts; 0 for most libraries.
    """

    __slots__ = ("dynamic", "entry", "interpreter", "loads", "machine", "order", "wide")

    def __init__(self, *, wide: bool, order: str, machine: int, entry: int) -> None:
        self.wide = wide
        self.order = order
        self.machine = machine
        self.entry = entry
        self.loads: list[tuple[int, int, int, bool]] = []
        self.dynamic: tuple[int, int] | None = None
        self.interpreter: tuple[int, int] | None = None

    def offset(self, address: int) -> int | None:
        """Where in the file an address lies."""
        for begin, offset, length, _ in self.loads:
            if begin <= address < begin + length:
                return address - begin + offset
        return None


class Dynamic:
    """A dynamic section.

    Attributes:
        needed: where the needed libraries' names begin in the string table.
        rpath, runpath: the same for the search paths; None.
        strings: (offset, bytes) in the file of the string table.
        tables: (offset, bytes) of what start-up reads: relocations and symbols.
    """

    __slots__ = ("needed", "rpath", "runpath", "strings", "tables")

    def __init__(self) -> None:
        self.needed: list[int] = []
        self.rpath: int | None = None
        self.runpath: int | None = None
        self.strings = (0, 0)
        self.tables: list[tuple[int, int]] = []


def read_headers(head: bytes, size: int) -> Elf | None:
    """The headers of a file; None if it is no ELF file that could be run.

    Args:
        head: its first bytes, as many as are there.
        size: of the whole file, in bytes.
    """
    if len(head) < 52 or head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
    layout = struct.Struct(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"))
    if len(head) < 16 + layout.size:
        return None
    fields = layout.unpack_from(head, 16)
    kind, machine, _, entry, table = fields[:5]
    step, count = fields[8:10]
    record = struct.Struct(order + ("IIQQQQQQ" if wide else "IIIIIIII"))
    if kind not in (2, 3) or step < record.size:
        return None
    found = Elf(wide=wide, order=order, machine=machine, entry=entry)
    for number in range(min(count, SEGMENTS_MOST)):
        at = table + number * step
        if at + record.size > len(head):
            break
        values = record.unpack_from(head, at)
        if wide:
            segment, flags, offset, address, _, length = values[:6]
        else:
            segment, offset, address, _, length, _, flags = values[:7]
        if offset >= size:
            continue
        length = min(length, size - offset)
        if segment == _PT_LOAD and length:
            found.loads.append((address, offset, length, bool(flags & 2)))
        elif segment == _PT_DYNAMIC:
            found.dynamic = (offset, min(length, DYNAMIC_MOST))
        elif segment == _PT_INTERP:
            found.interpreter = (offset, min(length, NAME_MOST))
    return found


def read_dynamic(elf: Elf, section: bytes, size: int) -> Dynamic:
    """The dynamic section whose bytes these are, of a file of ``size`` bytes."""
    record = struct.Struct(elf.order + ("qQ" if elf.wide else "iI"))
    values: dict[int, int] = {}
    found = Dynamic()
    for at in range(0, len(section) - record.size + 1, record.size):
        tag, value = record.unpack_from(section, at)
        if tag == 0:
            break
        if tag == _DT_NEEDED:
            if len(found.needed) < NEEDED_MOST:
                found.needed.append(value)
        else:
            values[tag] = value

    def table(start: int, length: int) -> tuple[int, int]:
        offset = elf.offset(values.get(start, -1))
        if offset is None:
            return 0, 0
        return offset, max(0, min(length, size - offset))

    found.rpath = values.get(_DT_RPATH)
    found.runpath = values.get(_DT_RUNPATH)
    found.strings = table(_DT_STRTAB, values.get(_DT_STRSZ, 0))
    for start, length in ((_DT_RELA, _DT_RELASZ), (_DT_REL, _DT_RELSZ), (_DT_JMPREL, _DT_PLTRELSZ)):
        place = table(start, values.get(length, 0))
        if place[1]:
            found.tables.append(place)
    symbols, _ = table(_DT_SYMTAB, 0)
    strings, length = found.strings
    # The symbols' own length stands nowhere; their names follow them in all files that are linked today.
    if 0 < symbols < strings:
        found.tables.append((symbols, strings + length - symbols))
    return found


def text_at(data: bytes, at: int) -> str | None:
    """The text that begins there and ends with NUL; None if it does not end, or is no path."""
    end = data.find(b"\0", at, at + NAME_MOST)
    return data[at:end].decode(errors="surrogateescape") if 0 <= at < end else None


def read_cache(data: bytes) -> dict[str, list[str]]:
    """ld.so.cache: paths by library name, in the loader's order, without those for special processors."""
    # An old header may stand before the new one.
    start = data.find(_CACHE_MAGIC)
    if start < 0 or len(data) - start < _CACHE_HEADER:
        return {}
    data = data[start:]
    order = ">" if data[28] & 3 == 3 else "<"
    (count,) = struct.unpack_from(order + "I", data, 20)
    entry = struct.Struct(order + "iIIIQ")
    found: dict[str, list[str]] = {}
    for number in range(min(count, CACHE_ENTRIES_MOST, (len(data) - _CACHE_HEADER) // entry.size)):
        _, key, value, _, capabilities = entry.unpack_from(data, _CACHE_HEADER + number * entry.size)
        name, path = text_at(data, key), text_at(data, value)
        if name and path and not capabilities:
            found.setdefault(name, []).append(path)
    return found
