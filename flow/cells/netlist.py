"""Standard cells at transistor level, from one readable description (`flow/tech/<name>/cells.yaml`).

A cell is a list of static CMOS stages. Each stage pulls its node to ground through an nMOS network and to
the supply through a pMOS network; both are series-parallel expressions such as `A * B + C` (`*` series,
`+` parallel) over the gates' names. The pMOS network is the dual of the nMOS network unless it is given,
which makes tri-state stages (flops, latches) and mirror stages (full adder) possible. From this follow the
transistors and their widths, the layout area, and the logic values that a simulation starts from.
"""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from flow.corner import Corner
from hw.errors import ConfigError
from hw.settings import Settings, load

Network = tuple  # ("gate", name), ("series", network, ...) or ("parallel", network, ...)
Positive = Annotated[float, Field(gt=0)]


class Geometry(Settings):
    """Layout rule and transistor widths. `stack_width[k-1]` multiplies the width of each of k transistors in series."""

    source: str
    length_um: Positive
    n_width_um: Positive
    p_width_um: Positive
    stack_width: Annotated[tuple[Positive, ...], Field(strict=False)]
    n_finger_max_um: Positive
    p_finger_max_um: Positive
    width_min_um: Positive
    diffusion_um: Positive
    pitch_um: Positive
    track_um: Positive
    tracks: Annotated[int, Field(gt=0)]


class CellWires(Settings):
    """Capacitance of the wires inside a cell, at each input pin, output pin and internal gate node."""

    source: str
    input_f: Positive
    output_f: Positive
    internal_f: Positive


class Stage(Settings):
    """One stage. Its size, in units of X1, is the cell's drive, or `size`, or drive / `taper` (at least 0.5)."""

    node: str
    pull_down: str
    pull_up: str | None = None
    size: Positive | None = None
    taper: Positive | None = None


class CellDescription(Settings):
    """One cell in all its drive strengths. `outputs` maps each output to its Liberty function over inputs (or the stored bit IQ)."""

    kind: Literal["combinational", "flop", "latch", "clock_gate", "tie"]
    inputs: Annotated[tuple[str, ...], Field(strict=False)] = ()
    outputs: dict[str, str]
    clock: str | None = None
    data: str | None = None
    clear: str | None = None
    drives: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = (1,)
    stages: Annotated[tuple[Stage, ...], Field(strict=False, min_length=1)]


class Characterization(Settings):
    """Axes of the tables: slews as multiples of the corner's FO4 delay, loads as multiples of `load_unit_f` x drive."""

    slews_fo4: Annotated[tuple[Positive, ...], Field(strict=False, min_length=2)]
    loads: Annotated[tuple[Positive, ...], Field(strict=False, min_length=2)]
    load_unit_f: Positive
    constraint_slews_fo4: Annotated[tuple[Positive, ...], Field(strict=False, min_length=2)]


class Grid(Settings):
    """Corners to characterize: every combination of the four, the supply running fastest."""

    process: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    temperature_c: Annotated[tuple[float, ...], Field(strict=False, min_length=1)]
    back_bias_v: Annotated[tuple[float, ...], Field(strict=False, min_length=1)]
    vdd_v: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]

    def corners(self) -> tuple[Corner, ...]:
        every = product(self.process, self.temperature_c, self.back_bias_v, self.vdd_v)
        return tuple(Corner(process=p, vdd_v=v, temperature_c=t, back_bias_v=b, sram_vdd_v=v) for p, t, b, v in every)


class ProcessShift(Settings):
    """A process corner: what is added to the magnitude of the thresholds, and what the mobilities are multiplied by."""

    threshold_v: float = Field(ge=-0.2, le=0.2)
    mobility: float = Field(gt=0.5, lt=2)
    source: str

    def parameters(self) -> str:
        """The SPICE line that a deck with cells needs. A p transistor's threshold is negative."""
        return f".param n_threshold={self.threshold_v:.6g} p_threshold={-self.threshold_v:.6g} n_mobility={self.mobility:.6g} p_mobility={self.mobility:.6g}"


class Transistors(Settings):
    """The file of transistor cards, beside `cells.yaml`, and the names of its n and p model."""

    source: str
    cards: str
    n_model: str
    p_model: str


class CellLibrary(Settings):
    """All of `cells.yaml`."""

    description: str
    transistors: Transistors
    geometry: Geometry
    wires: CellWires
    characterization: Characterization
    processes: dict[str, ProcessShift]
    grid: Annotated[tuple[Grid, ...], Field(strict=False, min_length=1)]
    """What `voltfront cells` characterizes, in this order."""
    cells: dict[str, CellDescription]

    def corners(self) -> tuple[Corner, ...]:
        """All corners of the grid, each once, in its order."""
        return tuple(dict.fromkeys(corner for grid in self.grid for corner in grid.corners()))


def load_cell_library(tech_dir: Path) -> CellLibrary:
    """The cell descriptions of the technology in the folder `tech_dir`."""
    return load(CellLibrary, tech_dir / "cells.yaml")


@lru_cache(maxsize=1024)
def parse_network(text: str) -> Network:
    """The series-parallel network that `text` describes; raises `ConfigError` if it is not one."""

    def walk(node: ast.expr) -> Network:
        if isinstance(node, ast.Name):
            return ("gate", node.id)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Add)):
            kind = "series" if isinstance(node.op, ast.Mult) else "parallel"
            parts: list[Network] = []
            for side in (walk(node.left), walk(node.right)):
                parts.extend(side[1:] if side[0] == kind else [side])
            return (kind, *parts)
        raise ValueError

    try:
        return walk(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError):
        raise ConfigError(f"a transistor network must be names joined by *, + and brackets, not {text!r}") from None


def dual(network: Network) -> Network:
    """The network that conducts exactly when `network` does not, made of the other kind of transistor."""
    if network[0] == "gate":
        return network
    return ({"series": "parallel", "parallel": "series"}[network[0]], *(dual(part) for part in network[1:]))


def _depth(network: Network) -> int:
    if network[0] == "gate":
        return 1
    depths = [_depth(part) for part in network[1:]]
    return sum(depths) if network[0] == "series" else max(depths)


def _conducts(network: Network, values: Mapping[str, int | None], on: int) -> bool | None:
    """Whether the network conducts when a gate at `on` closes a transistor; None if that depends on an unknown."""
    if network[0] == "gate":
        value = values.get(network[1])
        return None if value is None else value == on
    parts = [_conducts(part, values, on) for part in network[1:]]
    decisive = network[0] == "parallel"
    if decisive in parts:
        return decisive
    return None if None in parts else not decisive


@dataclass(frozen=True, kw_only=True)
class Transistor:
    """`kind` is n or p; width in um; `gate`, `drain` and `source` are node names."""

    kind: str
    gate: str
    drain: str
    source: str
    width_um: float


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell in one drive strength."""

    name: str
    drive: int
    description: CellDescription
    geometry: Geometry
    wires: CellWires
    models: Transistors

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.description.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.description.outputs)

    def _networks(self, stage: Stage) -> tuple[Network, Network]:
        down = parse_network(stage.pull_down)
        return down, parse_network(stage.pull_up) if stage.pull_up else dual(down)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that stages drive, in order."""
        return tuple(dict.fromkeys(stage.node for stage in self.description.stages))

    @cached_property
    def transistors(self) -> tuple[Transistor, ...]:
        """All transistors; series ones are wider by the rule of `Geometry.stack_width`."""
        devices: list[Transistor] = []
        g = self.geometry

        def place(kind: str, network: Network, top: str, bottom: str, size: float, above: int) -> None:
            if network[0] == "gate":
                unit = g.n_width_um if kind == "n" else g.p_width_um
                depth = above + 1
                if depth > len(g.stack_width):
                    raise ConfigError(f"a stack must have at most {len(g.stack_width)} transistors, not {depth} (cell {self.name})")
                width = max(g.width_min_um, round(unit * size * g.stack_width[depth - 1], 4))
                devices.append(Transistor(kind=kind, gate=network[1], drain=top, source=bottom, width_um=width))
                return
            if network[0] == "parallel":
                for part in network[1:]:
                    place(kind, part, top, bottom, size, above)
                return
            depths = [_depth(part) for part in network[1:]]
            ends = [top, *(f"x{len(devices)}_{i}{kind}" for i in range(len(depths) - 1)), bottom]
            for i, part in enumerate(network[1:]):
                place(kind, part, ends[i], ends[i + 1], size, above + sum(depths) - depths[i])

        for stage in self.description.stages:
            size = stage.size or (max(0.5, self.drive / stage.taper) if stage.taper else float(self.drive))
            down, up = self._networks(stage)
            place("n", down, stage.node, "VSS", size, 0)
            place("p", up, stage.node, "VDD", size, 0)
        return tuple(devices)

    @cached_property
    def area_um2(self) -> float:
        """Height x (gate columns + 1 + one diffusion break for each tri-state stage) x contacted pitch."""
        g = self.geometry
        columns = {"n": 0, "p": 0}
        for device in self.transistors:
            limit = g.n_finger_max_um if device.kind == "n" else g.p_finger_max_um
            columns[device.kind] += math.ceil(device.width_um / limit - 1e-9)
        clocked = sum(1 for s in self.description.stages if s.pull_up is not None) if self.description.kind in ("flop", "latch", "clock_gate") else 0
        return round((max(columns.values()) + 1 + clocked) * g.pitch_um * g.track_um * g.tracks, 4)

    def subcircuit(self) -> str:
        """The cell as a SPICE subcircuit with ports inputs, outputs, VDD and the back gates VBN and VBP.

        The deck must define the parameters of the process, `ProcessShift.parameters`.
        """
        g, w = self.geometry, self.wires
        names = [name.lower() for name in (*self.inputs, *self.nodes, "VDD", "VSS", "VBN", "VBP")]
        if len(set(names)) < len(names):
            raise ConfigError(f"nodes must have names that differ when case is ignored, as SPICE does, not {sorted(names)} (cell {self.name})")
        lines = [f".subckt {self.name} {' '.join((*self.inputs, *self.outputs))} VDD VBN VBP"]
        for i, t in enumerate(self.transistors):
            model, body = (self.models.n_model, "VBN") if t.kind == "n" else (self.models.p_model, "VBP")
            area, edge = t.width_um * g.diffusion_um, 2 * (t.width_um + g.diffusion_um)
            drain, gate, source = ("0" if node == "VSS" else node for node in (t.drain, t.gate, t.source))
            lines.append(
                f"M{t.kind}{i} {drain} {gate} {source} {body} {model} w={t.width_um:.4g}u l={g.length_um:.4g}u "
                f"ad={area:.4g}p as={area:.4g}p pd={edge:.4g}u ps={edge:.4g}u delvto={{{t.kind}_threshold}} mulu0={{{t.kind}_mobility}}"
            )
        for node in (*self.inputs, *self.nodes):
            farad = w.input_f if node in self.inputs else w.output_f if node in self.outputs else w.internal_f
            lines.append(f"C{node} {node} 0 {farad:.4g}")
        return "\n".join([*lines, ".ends"])

    def settle(self, inputs: Mapping[str, int], before: Mapping[str, int | None] | None = None) -> dict[str, int | None]:
        """The logic value of every node once `inputs` have acted on the state `before`; None where it stays unknown.

        Raises `ConfigError` if a node is pulled both ways or never settles.
        """
        values: dict[str, int | None] = dict.fromkeys(self.nodes) | dict(before or {}) | dict(inputs) | {"VDD": 1, "VSS": 0}
        stages = [(stage.node, *self._networks(stage)) for stage in self.description.stages]
        for _ in range(4 * len(stages) + 4):
            old = dict(values)
            for node in self.nodes:
                down = [_conducts(d, values, 1) for n, d, _ in stages if n == node]
                up = [_conducts(u, values, 0) for n, _, u in stages if n == node]
                if True in down and not any(u is not False for u in up):
                    values[node] = 0
                elif True in up and not any(d is not False for d in down):
                    values[node] = 1
            if values == old:
                for node in self.nodes:
                    if any(_conducts(d, values, 1) for n, d, _ in stages if n == node) and any(_conducts(u, values, 0) for n, _, u in stages if n == node):
                        raise ConfigError(f"node {node} must be pulled one way, not both (cell {self.name}, inputs {dict(inputs)})")
                return values
        raise ConfigError(f"the nodes of a cell must settle, not oscillate (cell {self.name}, inputs {dict(inputs)})")

    def after(self, steps: Sequence[Mapping[str, int]]) -> dict[str, int | None]:
        """The value of every node after applying the input changes `steps` one after the other."""
        inputs: dict[str, int] = {}
        values: dict[str, int | None] = {}
        for step in steps:
            inputs |= step
            values = self.settle(inputs, values)
        return values


def known(values: Mapping[str, int | None], names: Sequence[str]) -> dict[str, int]:
    """Those of the nodes `names`, none of which may be unknown."""
    found = {name: value for name in names if (value := values[name]) is not None}
    assert len(found) == len(names), f"{set(names) - set(found)} must be known"
    return found


def all_cells(library: CellLibrary) -> tuple[Cell, ...]:
    """Every cell of `library` in every drive strength, named like NAND2_X1."""
    return tuple(
        Cell(name=f"{name}_X{drive}", drive=drive, description=description, geometry=library.geometry, wires=library.wires, models=library.transistors)
        for name, description in library.cells.items()
        for drive in description.drives
    )
