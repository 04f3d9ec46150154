"""Files that are there whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


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
