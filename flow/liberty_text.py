"""Liberty text as a tree of groups and attributes: parser and printer. `flow.liberty` gives the tree its meaning.

Source of the grammar: Liberty User Guide, volumes 1 and 2 (open-source Liberty).
"""

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from hw.errors import ConfigError

# --- the tree -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """`name : value ;` (one value), or `name (a, b, ...) ;` when `is_complex`."""

    name: str
    values: tuple[str, ...]
    is_complex: bool = False
    line: int = 0


@dataclass(frozen=True, kw_only=True)
class Group:
    """`kind (args) { body }`; the body keeps the order of attributes and groups, which some tools depend on."""

    kind: str
    args: tuple[str, ...] = ()
    body: list["Attribute | Group"] = field(default_factory=list)
    line: int = 0

    @overload
    def get(self, name: str, default: str) -> str: ...

    @overload
    def get(self, name: str, default: None = None) -> str | None: ...

    def get(self, name: str, default: str | None = None) -> str | None:
        """First value of the last attribute called `name` (a later one replaces an earlier one)."""
        found = default
        for item in self.body:
            if type(item) is Attribute and item.name == name and item.values:
                found = item.values[0]
        return found

    def complex(self, name: str) -> tuple[str, ...] | None:
        """All values of the last attribute called `name`, or None."""
        found = None
        for item in self.body:
            if type(item) is Attribute and item.name == name:
                found = item.values
        return found

    def groups(self, *kinds: str) -> Iterator["Group"]:
        """The groups directly inside, of the given kinds, in order."""
        for item in self.body:
            if type(item) is Group and item.kind in kinds:
                yield item


# --- text to tree -------------------------------------------------------------------------------

# Possessive quantifiers (++ *+) keep the match linear on broken text.
_SKIP = r"(?:[\s;\\]++|/\*.*?\*/|//[^\n]*+)*+"
_STATEMENT = re.compile(
    _SKIP + r'(?:(?P<close>\})|(?P<name>"[^"]*+"|[\w.\[\]-]++)\s*+(?:'
    r'\((?P<args>(?:[^()"{};]++|"[^"]*+"|\([^()]*+\))*+)\)(?P<open>' + _SKIP + r"\{)?"
    r'|:\s*+(?P<value>(?:"(?:[^"\\]++|\\.)*+"|[^;"\n{}]++)++)))',
    re.DOTALL,
)
_REST = re.compile(_SKIP, re.DOTALL)
_ARGUMENT = re.compile(r'"([^"]*)"|([^\s,"]+)')


def _arguments(text: str) -> tuple[str, ...]:
    """Comma-separated arguments; a quoted one keeps its commas (tables hold one row in each)."""
    return tuple(m[1] if m[1] is not None else m[2] for m in _ARGUMENT.finditer(text.replace("\\\n", " ").replace("\\\r\n", " ")))


def parse_text(text: str, where: str) -> Group:
    """The single `library` group in `text`; raises `ConfigError` with `where` and the line for anything broken or cut short."""

    def fail(position: int, rule: str) -> ConfigError:
        line = text.count("\n", 0, position) + 1
        found = text[position : position + 40].split("\n")[0].strip() or "the end of the file"
        return ConfigError(f"Liberty text must be {rule}, not {found!r} ({where}, line {line}); check that the file is complete")

    def skip(text: str, position: int) -> int:
        """Behind what may stand between statements."""
        found = _REST.match(text, position)
        return found.end() if found else position

    match = _STATEMENT.match
    open_groups: list[Group] = []
    position, line, counted_to, size = 0, 1, 0, len(text)
    while True:
        found = match(text, position)
        if found is None:
            position = skip(text, position)
            if position >= size:
                rule = f"closed with '}}' ({open_groups[-1].kind} of line {open_groups[-1].line} is open)" if open_groups else "a library group"
                raise fail(size, rule)
            raise fail(position, "an attribute, a group or '}'")
        position = found.end()
        close, name, args, opens, value = found.groups()
        if close:
            if not open_groups:
                raise fail(found.start("close"), "a library group")
            group = open_groups.pop()
            if not open_groups:
                break
            continue
        start = found.start("name")
        line += text.count("\n", counted_to, start)
        counted_to = start
        if opens:
            group = Group(kind=name.strip('"'), args=_arguments(args), line=line)
            if open_groups:
                open_groups[-1].body.append(group)
            elif name != "library":
                raise fail(start, "a library group")
            open_groups.append(group)
        elif not open_groups:
            raise fail(start, "a library group")
        elif value is not None:
            open_groups[-1].body.append(Attribute(name=name, values=(value.strip().strip('"').strip(),), line=line))
        else:
            open_groups[-1].body.append(Attribute(name=name, values=_arguments(args), is_complex=True, line=line))
    position = skip(text, position)
    if position < size:
        raise fail(position, "at its end after the library group")
    return group


def read_text(path: Path | str) -> str:
    """The text of a Liberty file, plain or gzip-compressed; raises `ConfigError` if it cannot be read whole."""
    path = Path(path)
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"Liberty file must be readable and complete, not {path} ({reason}); fetch it again") from None


# --- tree to text -------------------------------------------------------------------------------

_BARE = re.compile(r"[\w.+-]+\Z")
# Names whose values tools expect in quotes even when they are bare words.
_QUOTED = {"function", "when", "related_pin", "next_state", "clocked_on", "clear", "preset", "data_in", "enable", "state_function", "values"}
_QUOTED |= {"index_1", "index_2", "time_unit", "voltage_unit", "current_unit", "leakage_power_unit", "pulling_resistance_unit", "comment", "date"}


def _print(group: Group, depth: int, lines: list[str]) -> None:
    pad = "  " * depth
    lines.append(f"{pad}{group.kind} ({', '.join(a if _BARE.match(a) else f'{chr(34)}{a}{chr(34)}' for a in group.args)}) {{")
    for item in group.body:
        if isinstance(item, Group):
            _print(item, depth + 1, lines)
            continue
        quote = [f'"{v}"' if item.name in _QUOTED or not _BARE.match(v) else v for v in item.values]
        if item.name == "values" and len(quote) > 1:
            lines.append(f"{pad}  values ( \\\n{pad}    " + f", \\\n{pad}    ".join(quote) + ");")
        elif item.is_complex:
            lines.append(f"{pad}  {item.name} ({', '.join(quote)});")
        else:
            lines.append(f"{pad}  {item.name} : {quote[0]};")
    lines.append(f"{pad}}}")


def library_text(library: Group, header: str = "") -> str:
    """`library` as Liberty text, after `header` as a comment."""
    lines = [f"/* {header} */"] if header else []
    _print(library, 0, lines)
    return "\n".join(lines) + "\n"


def write_library(library: Group, path: Path | str, header: str = "") -> None:
    """Write `library` to `path` in one step; a name ending in .gz is compressed, the same bytes every time."""
    path = Path(path)
    data = library_text(library, header).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, compresslevel=9, mtime=0)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(data)
        scratch.replace(path)
    except OSError as error:
        if path.parent.is_dir():
            scratch.unlink(missing_ok=True)
        raise ConfigError(f"output folder must be writable, not {path.parent} ({error.strerror})") from None
