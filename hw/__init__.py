"""The accelerator: configuration, RTL, programs for it, and the memory it talks to."""

import hashlib as _hashlib
import os as _os
from pathlib import Path as _Path

_CONSTANTS = ("config", "dram", "isa", "lowering")
"""Modules without compiled functions whose constants and types are compiled into others'."""


def _compiled_code() -> str:
    """Where numba keeps what it compiled: a folder for this state of the sources.

    Numba asks only whether the file of a function has changed, not those of the functions and constants that it compiled into it.
    """
    root, digest = _Path(__file__).parent.parent, _hashlib.sha256()
    for room in ("hw", "fit", "explore"):
        for path in sorted((root / room).glob("*.py")):
            if path.stem not in _CONSTANTS and "njit" not in path.read_text(encoding="utf-8"):
                continue
            state = path.stat()
            digest.update(f"{path} {state.st_size} {state.st_mtime_ns}\n".encode())
    return str(_Path.cwd() / "build" / "numba" / digest.hexdigest()[:16])


_os.environ.setdefault("NUMBA_CACHE_DIR", _compiled_code())
