"""The part of a Verilog design that one module needs, as text."""

import re
from collections.abc import Sequence
from pathlib import Path

from hw.errors import ConfigError

_COMMENT = re.compile(r'("(?:[^"\\\n]|\\.)*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_MODULE = re.compile(r"(?:\(\*.*?\*\)\s*)*\bmodule\s+(\\\S+|\w+).*?\bendmodule\b", re.DOTALL)
_WORD = re.compile(r"\\\S+|\b[A-Za-z_]\w*")
_FUNCTION = re.compile(r"\b(function|task)\b.*?\bend\1\b", re.DOTALL)
_PORT = re.compile(r"^\s*(?:\(\*.*?\*\)\s*)?(?:input|output|inout|parameter|localparam)\b[^;]*;", re.MULTILINE)


def module_source(verilog: Sequence[Path], module: str, black_boxes: Sequence[str] = ()) -> str:
    """The Verilog text of `module` and of all below it, black boxes reduced to their ports.

    Raises `ConfigError` for a file that cannot be read, a module defined twice, or one that is missing.
    """
    texts: dict[str, str] = {}
    for path in verilog:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"Verilog file must be readable text, not {path} ({getattr(error, 'strerror', None) or 'not UTF-8'})") from None
        for found in _MODULE.finditer(_COMMENT.sub(lambda match: match[1] or " ", text)):
            name = found[1].removeprefix("\\")
            if name in texts:
                raise ConfigError(f"module {name} must be defined once, not again in {path}")
            texts[name] = found[0].strip()
    for name in (module, *black_boxes):
        if name not in texts:
            raise ConfigError(f"module must be one of those in {', '.join(str(path) for path in verilog)}, not {name!r}")
    taken: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in taken:
            continue
        taken[name] = _ports_only(texts[name]) if name in black_boxes else texts[name]
        waiting += [word for word in (word.removeprefix("\\") for word in _WORD.findall(taken[name])) if word in texts]
    return "\n\n".join(taken[name] for name in sorted(taken)) + "\n"


def _ports_only(text: str) -> str:
    """A module with its header and declarations of ports and parameters only."""
    text = _FUNCTION.sub("", text)
    end = text.index(";") + 1
    return "\n".join(["(* blackbox *)", text[:end], *(found[0].strip() for found in _PORT.finditer(text, end)), "endmodule"])
