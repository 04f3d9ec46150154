"""Placement of one mapped module with Coloquinte, and the wires that follow from it.

Cells stand in rows of a nearly square outline, ports on its edge, black boxes (memories, blocks that are placed apart) in a
floorplan (`flow.floorplan`) with rows for cells around them. Nothing is routed: a net is as long as half the perimeter of the box around its
pins, times the factor by which a Steiner tree of so many pins is longer. Clock nets get a tree of buffers (`flow.buffering`).
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flow import buffering, fanout, floorplan, tech
from flow import netlist as netlist_module
from flow.buffering import Buffering
from flow.cache import DEFAULT_CACHE, run_step, step
from flow.corner import Corner
from flow.floorplan import Floorplan, plan_boxes
from flow.liberty import Library
from flow.netlist import CONST1, Netlist, clock_network, read_netlist
from flow.synth import SynthResult, write_netlists
from flow.tech import CellRoles, PlacementRules, Technology, WireModel, liberty_files, read_libraries
from flow.tools import parse_metrics, run_tool
from hw.errors import ConfigError, ToolError

_UNIT_UM = 1e-3  # Coloquinte counts in integers
_EFFORT = 1
"""Measured on an element of 5,000 cells: effort 3 shortens the wires by 2.4 % and takes four times as long."""

STEINER_PINS = (3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 35, 40, 45, 50)
STEINER_FACTORS = (1.0, 1.0828, 1.1536, 1.2206, 1.2823, 1.3385, 1.3991, 1.4493, 1.6899, 1.8924, 2.0743, 2.2334, 2.3895, 2.5356, 2.6625, 2.7933)
"""Length of a Steiner tree over half the perimeter, by number of pins. Source: C.-L. E. Cheng, "RISA: accurate and efficient
placement routability modeling", ICCAD 1994, table 1; larger nets continue with the slope of the last two points."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """The outside of a placed module: its size, where its ports are, [width] of (x, y) each, um from its lower left corner, and what a
    driver of each input sees, F."""

    width_um: float
    height_um: float
    ports: dict[str, tuple[tuple[float, float], ...]]
    input_load_f: dict[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class PlacedModule:
    """A module with places, buffers and clock trees. `netlist` and `netlist_json` are as those of `SynthResult`.

    `places` (npz) holds the places of cells and ports in the order of the netlist read from `netlist_json`, see `read_places`.
    `wire_um` is the length of all nets but clocks, `clock_wire_um` that of the clock nets. `area_um2` is that of the cells with
    all buffers; `resized` counts cells that were replaced by stronger ones.
    """

    module: str
    netlist: Path
    netlist_json: Path
    places: Path
    outline: Outline
    area_um2: float
    resized: int
    signal_buffers: int
    clock_buffers: int
    wire_um: float
    clock_wire_um: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Where everything is, um: `cells` [cells, 2] (centres), `ports` by name as in `Netlist.ports`, [width, 2]."""

    cells: np.ndarray
    ports: Mapping[str, np.ndarray]


def place_module(
    synthesized: SynthResult, *, clocks: Sequence[str], technology: Technology, corner: Corner, boxes: Mapping[str, Outline], timeout_s: float = 1800.0,
    cache: Path = DEFAULT_CACHE,
) -> PlacedModule:  # fmt: skip
    """Place the cells of a synthesized module and give its clocks trees.

    `boxes` gives the outline of each module in it that is a black box. Raises `ConfigError` for a technology that does not
    say how cells are placed, and `ToolError` if the placer fails.
    """
    if technology.placement is None:
        raise ConfigError(f"technology {technology.name} must have its placement rules (placement:), not leave them out; add them")
    return run_step(
        _place, cache=cache, netlist=synthesized.netlist_json, module=synthesized.module, clocks=tuple(clocks), boxes=dict(boxes),
        liberty=liberty_files(technology, corner, cache=cache), cells=technology.cells, wire=technology.wire, rules=technology.placement,
        timeout_s=timeout_s,
    )  # fmt: skip


@step(version=1, modules=(buffering, fanout, floorplan, netlist_module, tech))
def _place(
    folder: Path, *, netlist: Path, module: str, clocks: tuple[str, ...], boxes: dict[str, Outline], liberty: tuple[Path, ...], cells: CellRoles,
    wire: WireModel, rules: PlacementRules, timeout_s: float,
) -> PlacedModule:  # fmt: skip
    library = read_libraries(liberty)
    mapped = read_netlist(netlist, library, top=module, black_boxes=boxes)
    plan = plan_boxes(
        mapped, {name: (boxes[kind].width_um, boxes[kind].height_um) for name, kind in mapped.black_boxes.items()},
        cells_um2=sum(library.cells[mapped.types[k].name].area_um2 for k in mapped.cell_type) / rules.utilization, row_um=rules.row_height_um,
        ignored=_ignored(mapped, clocks),
    )  # fmt: skip
    places = _run_placer(folder, mapped, library, plan, boxes, rules, clocks, timeout_s)
    design = json.loads(netlist.read_text(encoding="utf-8"))
    change = Buffering(
        module=design["modules"][module], liberty=library, inverter=cells.inverter,
        places=dict(zip(mapped.cell_names, map(tuple, places.cells.tolist()), strict=True)),
        port_places=places.ports, box_load_f={kind: box.input_load_f for kind, box in boxes.items()}, wire_f_per_um=wire.capacitance_per_um_f,
    )  # fmt: skip
    resized = change.strengthen_drivers(clocks=clocks, buffer=cells.buffer)
    signal_buffers = len(change.added)
    clock_buffers = change.grow_clock_trees(clocks=clocks, buffer=cells.clock_buffer or cells.buffer)
    verilog, netlist_json = write_netlists(folder, design, module, timeout_s)
    final = read_netlist(netlist_json, library, top=module, black_boxes=boxes)
    kept = Places(cells=np.array([change.places[name] for name in final.cell_names]).reshape(-1, 2), ports={name: places.ports[name] for name in final.ports})
    np.savez_compressed(folder / "places.npz", cells=kept.cells, ports=np.concatenate([np.zeros((0, 2)), *kept.ports.values()]))
    lengths = wire_lengths_um(final, kept)
    on_clock = clock_network(final, [c for c in clocks if c in final.ports]).nets
    return PlacedModule(
        module=module, netlist=verilog, netlist_json=netlist_json, places=folder / "places.npz",
        outline=Outline(
            width_um=plan.width_um, height_um=plan.height_um,
            ports={name: tuple((round(float(x), 3), round(float(y), 3)) for x, y in xy) for name, xy in kept.ports.items() if "/" not in name},
            input_load_f=_input_loads(final, library, lengths * wire.capacitance_per_um_f),
        ),
        area_um2=float(sum(library.cells[final.types[k].name].area_um2 for k in final.cell_type)), resized=resized, signal_buffers=signal_buffers,
        clock_buffers=clock_buffers, wire_um=float(lengths[~on_clock].sum()), clock_wire_um=float(lengths[on_clock].sum()),
    )  # fmt: skip


def _ignored(mapped: Netlist, clocks: Sequence[str]) -> np.ndarray:
    """[nets] clock nets, which get trees afterwards, and constants: they pull at nothing."""
    ignored = clock_network(mapped, [name for name in clocks if name in mapped.ports]).nets.copy()
    ignored[: CONST1 + 1] = True
    return ignored


def _input_loads(mapped: Netlist, library: Library, wire_f: np.ndarray) -> dict[str, tuple[float, ...]]:
    """Pins and wire behind each bit of each input port, F."""
    pins = [[library.cells[t.name].pins[p].capacitance_f for p in t.inputs] + [0.0] * len(t.outputs) for t in mapped.types]
    load_f = wire_f.copy()
    np.add.at(load_f, mapped.pin_net, np.concatenate([np.zeros(0), *(pins[k] for k in mapped.cell_type)]))
    return {name: tuple(load_f[port.nets].tolist()) for name, port in mapped.ports.items() if port.is_source and "/" not in name}


def read_places(path: Path, netlist: Netlist) -> Places:
    """The places stored by `place_module` for the netlist that belongs to them; raises `ToolError` if they do not fit it."""
    with np.load(path) as stored:
        cells, ports = stored["cells"], stored["ports"]
    widths = [len(port.nets) for port in netlist.ports.values()]
    if len(cells) != netlist.cells or len(ports) != sum(widths):
        raise ToolError(f"places must be of netlist {netlist.name} with {netlist.cells} cells, not of {len(cells)} ({path})")
    split = np.split(ports, np.cumsum(widths)[:-1]) if widths else []
    return Places(cells=cells, ports=dict(zip(netlist.ports, split, strict=True)))


def steiner_factor(pins: np.ndarray) -> np.ndarray:
    """Factor from half the perimeter to the length of a Steiner tree of `pins` pins."""
    pins = np.asarray(pins, dtype=float)
    slope = (STEINER_FACTORS[-1] - STEINER_FACTORS[-2]) / (STEINER_PINS[-1] - STEINER_PINS[-2])
    return np.interp(pins, STEINER_PINS, STEINER_FACTORS) + slope * np.maximum(pins - STEINER_PINS[-1], 0)


def wire_lengths_um(netlist: Netlist, places: Places) -> np.ndarray:
    """Estimated length of the wire of each net [nets]; 0 for constants and nets of one pin."""
    nets = np.concatenate([netlist.pin_net, *(port.nets for port in netlist.ports.values())])
    xy = np.concatenate([places.cells[netlist.pin_cell], *(places.ports[name] for name in netlist.ports)]).reshape(-1, 2)
    low, high = np.full((netlist.nets, 2), np.inf), np.full((netlist.nets, 2), -np.inf)
    np.minimum.at(low, nets, xy)
    np.maximum.at(high, nets, xy)
    pins = np.bincount(nets, minlength=netlist.nets)
    half_perimeter = np.where(pins > 1, (high - low).sum(axis=1), 0.0)
    half_perimeter[: CONST1 + 1] = 0.0
    return half_perimeter * steiner_factor(pins)


# --- Coloquinte ----------------------------------------------------------------------------------


def _run_placer(
    folder: Path, mapped: Netlist, library: Library, plan: Floorplan, boxes: Mapping[str, Outline], rules: PlacementRules, clocks: Sequence[str],
    timeout_s: float,
) -> Places:  # fmt: skip
    """Places of cells and ports. A first rough placement tells where each port wants to be on the edge; then they stay there."""
    own = {name: port for name, port in mapped.ports.items() if "/" not in name}
    split = np.cumsum([len(port.nets) for port in own.values()])[:-1]
    fixed = {name: _on_box(name, mapped, plan, boxes) for name in mapped.ports if "/" in name}
    spots = _edge(sum(len(port.nets) for port in own.values()), plan)
    circuit = _Circuit(mapped, library, plan, boxes, rules, clocks)

    def ports(at: np.ndarray) -> dict[str, np.ndarray]:
        found = (dict(zip(own, np.split(at, split), strict=True)) if own else {}) | fixed
        return {name: found[name] for name in mapped.ports}

    if not mapped.cells:
        return Places(cells=np.zeros((0, 2)), ports=ports(spots))
    rough = Places(cells=circuit.place(folder, ports(spots), detailed=False, timeout_s=timeout_s), ports=ports(spots))
    spots = spots[_order_of_spots(mapped, own, rough, spots, plan)]
    return Places(cells=circuit.place(folder, ports(spots), detailed=True, timeout_s=timeout_s), ports=ports(spots))


def _on_box(name: str, mapped: Netlist, plan: Floorplan, boxes: Mapping[str, Outline]) -> np.ndarray:
    instance, port = name.rsplit("/", 1)
    return np.array(boxes[mapped.black_boxes[instance]].ports[port]).reshape(-1, 2) + plan.boxes[instance]


def _edge(count: int, plan: Floorplan) -> np.ndarray:
    """`count` evenly spaced places on the edge, anticlockwise from the lower left corner, um."""
    sides = (plan.width_um, plan.height_um, plan.width_um, plan.height_um)
    corners = np.concatenate([[0.0], np.cumsum(sides)])
    along = (np.arange(count) + 0.5) / max(count, 1) * corners[-1]
    x = np.interp(along, corners, (0.0, plan.width_um, plan.width_um, 0.0, 0.0))
    y = np.interp(along, corners, (0.0, 0.0, plan.height_um, plan.height_um, 0.0))
    return np.stack([x, y], axis=1)


def _order_of_spots(mapped: Netlist, own: Mapping, rough: Places, spots: np.ndarray, plan: Floorplan) -> np.ndarray:
    """For each port bit the number of its spot: bits in the order in which the cells on their nets lie around the centre."""
    centre = np.array([plan.width_um / 2, plan.height_um / 2])
    total, count = np.zeros((mapped.nets, 2)), np.zeros(mapped.nets)
    np.add.at(total, mapped.pin_net, rough.cells[mapped.pin_cell] - centre)
    np.add.at(count, mapped.pin_net, 1)
    nets = np.concatenate([np.zeros(0, dtype=int), *(port.nets for port in own.values())]).astype(int)
    # A port without cells (it goes on to a black box or another port) stays where it is.
    wish = np.where(count[nets, None] > 0, total[nets] / np.maximum(count[nets, None], 1), spots - centre)

    def around(xy: np.ndarray) -> np.ndarray:
        return np.arctan2(xy[:, 1] / plan.height_um, xy[:, 0] / plan.width_um)

    order = np.empty(len(nets), dtype=int)
    order[np.argsort(around(wish), kind="stable")] = np.argsort(around(spots - centre), kind="stable")
    return order


class _Circuit:
    """What the placer is told, ports apart: cells, black boxes and nets. Clock nets get trees afterwards and pull at nothing."""

    def __init__(
        self, mapped: Netlist, library: Library, plan: Floorplan, boxes: Mapping[str, Outline], rules: PlacementRules, clocks: Sequence[str]
    ):
        self.mapped, self.plan = mapped, plan
        self.row = round(rules.row_height_um / _UNIT_UM)
        widths = [max(1, round(library.cells[t.name].area_um2 / rules.row_height_um / _UNIT_UM)) for t in mapped.types]
        self.widths = np.array(widths, dtype=int)[mapped.cell_type]
        obstacles = [(*plan.boxes[name], boxes[kind].width_um, boxes[kind].height_um) for name, kind in mapped.black_boxes.items()]
        self.obstacles = np.round(np.array(obstacles).reshape(-1, 4) / _UNIT_UM).astype(int)
        self.ignored = _ignored(mapped, clocks)

    def place(self, folder: Path, ports: Mapping[str, np.ndarray], *, detailed: bool, timeout_s: float) -> np.ndarray:
        """Centres of the cells [cells, 2], um."""
        mapped, cells = self.mapped, self.mapped.cells
        height = max(1, round(self.plan.height_um / _UNIT_UM / self.row)) * self.row
        area = (0, max(round(self.plan.width_um / _UNIT_UM), int(self.widths.max())), 0, height)
        at = np.round(np.concatenate([np.zeros((0, 2)), *ports.values()]) / _UNIT_UM).astype(int)
        table = np.zeros((cells + len(self.obstacles) + len(at), 5), dtype=int)
        table[:cells, 0], table[:cells, 1] = self.widths, self.row
        table[:cells, 3:] = (area[1] // 2, height // 2)
        boxes = slice(cells, cells + len(self.obstacles))
        table[boxes, 0], table[boxes, 1], table[boxes, 3:] = self.obstacles[:, 2], self.obstacles[:, 3], self.obstacles[:, :2]
        table[cells:, 2] = 1
        table[boxes.stop :, 3:] = at
        nets = np.concatenate([mapped.pin_net, *(port.nets for port in mapped.ports.values())])
        owners = np.concatenate([mapped.pin_cell, np.arange(boxes.stop, len(table))])
        offsets = np.zeros((len(nets), 2), dtype=int)
        offsets[: len(mapped.pin_net)] = np.stack([self.widths[mapped.pin_cell] // 2, np.full(len(mapped.pin_net), self.row // 2)], axis=1)
        used = ~self.ignored & (np.bincount(nets, minlength=mapped.nets) > 1)
        order = np.argsort(nets, kind="stable")
        order = order[used[nets[order]]]
        start = np.concatenate([[0], np.cumsum(np.bincount(nets[order], minlength=mapped.nets)[used])])
        pins = np.concatenate([owners[order, None], offsets[order]], axis=1)
        np.savez(folder / "circuit.npz", area=area, row=self.row, effort=_EFFORT, cells=table, start=start, pins=pins, detailed=detailed)
        program = Path(__file__).with_name("placer.py")
        run = run_tool([sys.executable, "-I", str(program)], cwd=folder, timeout_s=timeout_s, step="placer", environment={"OMP_NUM_THREADS": "1"})
        parse_metrics(run.output, ["hpwl"], step="placer")
        with np.load(folder / "placed.npz") as placed:
            found = np.stack([placed["x"], placed["y"]], axis=1)[:cells]
        for scratch in ("circuit.npz", "placed.npz", "placer.log"):
            (folder / scratch).unlink()
        return (found + np.stack([self.widths // 2, np.full(cells, self.row // 2)], axis=1)) * _UNIT_UM
