"""From a waveform of an RTL simulation to the recorded boundary of one block instance."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
import pywellen

from flow.replay import Recording
from hw.errors import ToolError

Event = tuple[tuple[str, ...], ...]
"""When a block works: any of these groups of ports, all ports of the group nonzero, e.g. ((valid, ready),)."""


class Waveform:
    """The signals of a VCD or FST file by hierarchical name."""

    def __init__(self, path: Path):
        try:
            self._variables = {variable.full_name: variable for variable in pywellen.Waveform(str(path)).all_vars()}
        except Exception as error:  # the library raises plain RuntimeError and others for broken files
            raise ToolError(f"waveform must be readable VCD or FST, not {path} ({error})") from None
        self.path = path

    def below(self, scope: str) -> dict[str, "pywellen.Var"]:
        """The variables in `scope` and deeper, by their name relative to it. Raises `ToolError` if there are none."""
        found = {name.removeprefix(f"{scope}."): variable for name, variable in self._variables.items() if name.startswith(f"{scope}.")}
        if not found:
            raise ToolError(f"scope {scope} must be in the waveform, not absent ({self.path}); record it")
        return found


def record(
    waveform: Waveform, *, scope: str, clocks: Sequence[str], ports: Mapping[str, int], event: Event, cycles: int, first: int = 0
) -> Recording:
    """The boundary of the instance at `scope`: its `ports` (name to width; `instance/port` for those of black boxes below it),
    for `cycles` cycles of the waveform from cycle `first` on.

    A cycle ends with a rising edge of any of `clocks`; values are those just before it. Cycles in which `event` holds are
    the phase `active`, the others `idle`. Raises `ToolError` if the waveform is shorter or a port is missing or unknown (x).
    """
    variables = waveform.below(scope)
    missing = sorted({name.replace("/", ".") for name in (*ports, *clocks)} - set(variables))
    if missing:
        raise ToolError(f"ports must be in the waveform, not missing as {', '.join(missing)} ({scope})")
    rising = [_rising_edges(variables[clock].tv) for clock in clocks]
    edges = np.unique(np.concatenate(rising))[first : first + cycles]
    if len(edges) < cycles:
        raise ToolError(f"waveform must hold {first + cycles} cycles, not {first + len(edges)} ({scope}); record a longer window")
    values = {name: _sample(variables[name.replace("/", ".")], edges, width, f"{scope}.{name}") for name, width in ports.items()}
    active = np.zeros(cycles, dtype=bool)
    for group in event:
        active |= np.all([values[name].any(axis=1) for name in group], axis=0)
    phases = {name: mask for name, mask in (("active", active), ("idle", ~active)) if mask.any()}
    return Recording(
        name=scope, cycles=cycles, values=values, phases=phases, registers=_first_values(variables, edges[0]),
        rises=np.stack([np.isin(edges, times) for times in rising], axis=1),
    )  # fmt: skip


def _rising_edges(changes: Sequence[tuple[int, int]]) -> np.ndarray:
    values = [value for _, value in changes]
    return np.array([time for (time, value), before in zip(changes[1:], values, strict=False) if value == 1 and before == 0], dtype=np.int64)


def _sample(variable: "pywellen.Var", edges: np.ndarray, width: int, name: str) -> np.ndarray:
    """Bits [edges, width], least significant first, just before each edge."""
    changes = variable.tv
    times = np.array([time for time, _ in changes], dtype=np.int64)
    places = np.searchsorted(times, edges, side="left") - 1
    shown = [changes[place][1] if place >= 0 else None for place in np.unique(places)]
    held = [value for value in shown if isinstance(value, int)]
    if len(held) < len(shown):
        raise ToolError(f"signal must be known before every edge, not unknown ({name}); record from a later cycle")
    size = (width + 7) // 8
    table = np.frombuffer(b"".join(value.to_bytes(size, "little") for value in held), dtype=np.uint8).reshape(len(held), size)
    bits = np.unpackbits(table, axis=1, count=width, bitorder="little")
    return bits[np.unique(places, return_inverse=True)[1]]


def _first_values(variables: Mapping[str, "pywellen.Var"], edge: int) -> dict[str, int]:
    """The bits of every variable just before the first edge, named as in netlists: `name` (of a single bit) and `name[bit]`."""
    found = {}
    for name, variable in variables.items():
        before = [value for time, value in takewhile(lambda change: change[0] < edge, variable.tv)]
        if not before or not isinstance(before[-1], int):
            continue
        if variable.bitwidth == 1:
            found[name] = before[-1]
            found[f"{name}[0]"] = before[-1]
        else:
            found |= {f"{name}[{bit}]": before[-1] >> bit & 1 for bit in range(variable.bitwidth)}
    return found
