"""The cycle-level DRAM model by itself, driven by a list of requests."""

import ctypes
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hw.dram import DramController, DramPart, model_settings
from hw.errors import ConfigError, ToolError
from hw.tools import BUILD_DIR, content_key, keep, run_tool

_SOURCES = [Path(__file__).with_name(name) for name in ("dram_model.cpp", "dram_model.h", "key_value.h")]


@dataclass(frozen=True, kw_only=True)
class DramCounters:
    """What the model counted, as `DramCounters` of dram_model.h: DRAM commands, changes of direction, clock cycles."""

    activates: int
    read_bursts: int
    write_bursts: int
    refreshes: int
    turnarounds: int
    busy_cycles: int
    cycles: int


class DramCommand(IntEnum):
    ACTIVATE = 0
    PRECHARGE = 1
    PRECHARGE_ALL = 2
    READ = 3
    WRITE = 4
    REFRESH = 5


@dataclass(frozen=True, kw_only=True)
class TraceRun:
    """What became of a trace.

    completion_s: shape (requests,), when the last data of each request had passed.
    commands: shape (commands, 4): cycle, `DramCommand`, bank and row (-1 for commands to all banks), in the order issued;
        the first `record_commands` of them.
    """

    completion_s: NDArray[np.float64]
    counters: DramCounters
    commands: NDArray[np.int64]


def run_trace(
    part: DramPart,
    *,
    time_s: ArrayLike,
    address: ArrayLike,
    size_bytes: ArrayLike,
    write: ArrayLike,
    controller: DramController | None = None,
    record_commands: int = 0,
) -> TraceRun:
    """Serve requests by the cycle-level model; each array has shape (requests,) or broadcasts to it.

    time_s must not fall. Reads and writes enter by a port each, in order, as soon as their time has come and the
    controller's queue has room; so equal times mean "as fast as possible".
    """
    time_ps, addresses, sizes, writes = (np.ascontiguousarray(a) for a in np.broadcast_arrays(
        np.round(np.asarray(time_s, float) * 1e12).astype(np.int64), np.asarray(address, np.int64), np.asarray(size_bytes, np.int64),
        np.asarray(write, np.uint8),
    ))  # fmt: skip
    if time_ps.ndim != 1 or np.any(np.diff(time_ps) < 0) or np.any(time_ps < 0):
        raise ConfigError("trace times must be one ascending list, none below 0; sort the requests")
    if np.any(sizes <= 0) or np.any(addresses < 0) or np.any(addresses + sizes > part.capacity_bytes):
        raise ConfigError(f"trace requests must lie in the {part.capacity_bytes} bytes of {part.name} and not be empty; move or drop them")
    completion_ps = np.zeros(time_ps.shape, np.int64)
    counters = np.zeros(len(fields(DramCounters)), np.int64)
    message = ctypes.create_string_buffer(256)
    settings = model_settings(part, controller or DramController()).encode()
    log = np.zeros((record_commands, 4), np.int64)
    inputs = [_pointer(array) for array in (time_ps, addresses, sizes, writes, completion_ps, counters, log)]
    issued = _library().dram_run_trace(settings, ctypes.c_int64(time_ps.size), *inputs, ctypes.c_int64(record_commands), message, ctypes.c_int64(len(message)))
    if issued < 0:
        raise ToolError(f"DRAM model must accept its settings, and did not: {message.value.decode()}")
    return TraceRun(completion_s=completion_ps.astype(np.float64) * 1e-12, counters=_named(counters), commands=log[:issued])


def _pointer(array: NDArray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def _named(counters: NDArray[np.int64]) -> DramCounters:
    return DramCounters(**{field.name: int(value) for field, value in zip(fields(DramCounters), counters, strict=True)})


@cache
def _library() -> ctypes.CDLL:
    """The model compiled as a shared library, once for the same sources."""
    command: list[str | Path] = ["g++", "-std=c++17", "-O2", "-shared", "-fPIC", _SOURCES[0], "-o", "libdram_model.so"]
    folder = BUILD_DIR / "sim" / f"model-{content_key(map(str, command), _SOURCES)}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with keep(folder) as temporary:
            run_tool(command, cwd=temporary, timeout_s=300)
    library = ctypes.CDLL(str(folder / "libdram_model.so"))
    library.dram_run_trace.restype = ctypes.c_int64
    return library
