"""Files that are written whole or not at all, and read once for as long as they stay the same."""

import os
import tempfile
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file beside `path`, and put it in place: a kill or an error leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
    os.close(descriptor)
    try:
        write(Path(name))
        Path(name).chmod(0o644)  # a temporary file is its owner's alone
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        # The message names the file, not the temporary one, or none.
        raise OSError(error.errno or 0, error.strerror or str(error), str(path)) from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text_whole(path: Path, text: str) -> None:
    """`write_whole` of UTF-8 text."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_once(size: int) -> Callable[[Callable[[Path], Value]], Callable[[Path | str], Value]]:
    """A decorator for what reads one file: of the last `size` files the process keeps what was read, while the file stays the same.

    All callers get the same value: it must not be changed. What the reader raises is not kept.
    """

    def decorate(read: Callable[[Path], Value]) -> Callable[[Path | str], Value]:
        @lru_cache(maxsize=size)
        def kept(path: Path, _state: tuple[int, ...] | None) -> Value:
            return read(path)

        @wraps(read)
        def again(path: Path | str) -> Value:
            return kept(Path(path), _state(Path(path)))

        return again

    return decorate


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes when a file does; None if there is none, about which its reader knows what to say."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
