"""A mapped netlist as compact arrays, checked and levelized, read from Yosys `write_json`.

The netlist is one module of library cells. Instances of other modules (SRAM macros, blocks that are
characterized apart) may be named as black boxes: their outputs are then driven from outside, like inputs.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flow.liberty import Library
from flow.logic import CellLogic, cell_logic
from hw.errors import ToolError

CONST0, CONST1 = 0, 1
_SHOWN = 8  # names listed in a message before "and N more"


@dataclass(frozen=True, kw_only=True, eq=False)
class Port:
    """A port of the module, or `instance/port` of a black box. `nets` [width] is least significant bit first.

    `is_source` tells that the port drives its nets: inputs of the module and outputs of black boxes.
    """

    name: str
    is_source: bool
    nets: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Netlist:
    """Cells and nets by number. Nets 0 and 1 are the constants.

    `types` lists the distinct cell types; `cell_type` [cells] points into it. The nets of cell `c` are
    `pin_net[pin_start[c]:pin_start[c + 1]]`: its inputs, then its outputs, in the order of its type;
    `pin_cell` is the cell of each position in `pin_net`.
    `driver` [nets] is the driving cell, or -1 for constants and source ports. `order` [cells] is a levelized
    order: every cell comes after the cells that its outputs follow without a clock edge. `level` [cells].
    `readers` of net `n` are the positions in `pin_net` `reader_pin[reader_start[n]:reader_start[n + 1]]`.
    """

    name: str
    net_names: tuple[str, ...]
    cell_names: tuple[str, ...]
    types: tuple[CellLogic, ...]
    cell_type: np.ndarray
    pin_start: np.ndarray
    pin_net: np.ndarray
    pin_cell: np.ndarray
    driver: np.ndarray
    order: np.ndarray
    level: np.ndarray
    reader_start: np.ndarray
    reader_pin: np.ndarray
    ports: Mapping[str, Port]
    black_boxes: Mapping[str, str]

    @property
    def cells(self) -> int:
        return len(self.cell_names)

    @property
    def nets(self) -> int:
        return len(self.net_names)

    def cells_of(self, kind: str) -> np.ndarray:
        """The numbers of the cells of one `CellLogic.kind`."""
        return np.flatnonzero(np.array([t.kind == kind for t in self.types])[self.cell_type]) if self.cells else np.zeros(0, dtype=int)

    def net_index(self) -> dict[str, int]:
        """Net number by name."""
        return {name: number for number, name in enumerate(self.net_names)}


def _some(names: Collection[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def read_netlist(path: Path | str, library: Library, *, top: str | None = None, black_boxes: Collection[str] = ()) -> Netlist:
    """The module `top` (by default the only one that is no black box) of a Yosys JSON file, mapped to the cells of `library`.

    `black_boxes` names the modules whose instances are driven from outside. Raises `ToolError` for a file that is
    not such a netlist, unmapped cells, undriven or multiply driven nets and combinational loops, each by name.
    """
    try:
        modules = json.loads(Path(path).read_text(encoding="utf-8"))["modules"]
        own = [name for name, module in modules.items() if "blackbox" not in module.get("attributes", {})]
        name = top or (own[0] if len(own) == 1 else "")
        module = modules[name]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ToolError(f"netlist must be Yosys JSON with module {top or 'given or only one'}, not {path} ({type(error).__name__}: {error})") from None
    return build_netlist(module, library, name=name, black_boxes=black_boxes)


def build_netlist(module: Mapping, library: Library, *, name: str, black_boxes: Collection[str] = ()) -> Netlist:
    """The netlist of one module of Yosys JSON, as `read_netlist`."""
    where = f"netlist {name}"
    bit_names = _names_of_bits(module)
    numbers: dict[int, int] = {}
    net_names = ["1'b0", "1'b1"]

    def net(bit: int | str, user: str) -> int:
        if bit in ("0", "1"):
            return CONST1 if bit == "1" else CONST0
        if not isinstance(bit, int):
            raise ToolError(f"{user} must be driven, not {bit!r} ({where}); connect it or tie it in the RTL")
        if bit not in numbers:
            numbers[bit] = len(net_names)
            net_names.append(bit_names.get(bit, f"net{bit}"))
        return numbers[bit]

    ports: dict[str, Port] = {}
    for port, entry in module["ports"].items():
        if entry["direction"] not in ("input", "output"):
            raise ToolError(f"port {port} must be an input or an output, not {entry['direction']} ({where})")
        nets = [net(bit, f"port {port}[{i}]") for i, bit in enumerate(entry["bits"])]
        ports[port] = Port(name=port, is_source=entry["direction"] == "input", nets=np.array(nets, dtype=np.int32))

    unknown = {cell["type"] for cell in module["cells"].values()} - set(library.cells) - set(black_boxes)
    if unknown:
        raise ToolError(f"cell types must be in library {library.name} or stated black boxes, not {_some(unknown)} ({where})")
    type_names = sorted({cell["type"] for cell in module["cells"].values()} & set(library.cells) - set(black_boxes))
    types = tuple(cell_logic(library.cells[t]) for t in type_names)
    type_number = {t: i for i, t in enumerate(type_names)}

    cell_names: list[str] = []
    cell_types: list[int] = []
    pin_nets, starts = [], [0]
    boxes: dict[str, str] = {}
    for instance, cell in module["cells"].items():
        connections = cell["connections"]
        if cell["type"] not in type_number:
            boxes[instance] = cell["type"]
            for port, bits in connections.items():
                driven = cell["port_directions"][port] == "output"
                nets = [net(bit, f"{instance}/{port}[{i}]") for i, bit in enumerate(bits)]
                ports[f"{instance}/{port}"] = Port(name=f"{instance}/{port}", is_source=driven, nets=np.array(nets, dtype=np.int32))
            continue
        logic = types[type_number[cell["type"]]]
        for pin in logic.inputs:
            pin_nets.append(net((connections.get(pin) or ["nothing"])[0], f"{instance}/{pin}"))
        for pin in logic.outputs:
            bits = connections.get(pin)
            if bits and isinstance(bits[0], int):
                pin_nets.append(net(bits[0], f"{instance}/{pin}"))
            else:  # an unused output still moves and costs energy
                pin_nets.append(len(net_names))
                net_names.append(f"{instance}/{pin}")
        cell_names.append(instance)
        cell_types.append(type_number[cell["type"]])
        starts.append(len(pin_nets))

    cell_type, pin_start, pin_net = (np.array(a, dtype=np.int32) for a in (cell_types, starts, pin_nets))
    pin_cell = np.repeat(np.arange(len(cell_names), dtype=np.int32), np.diff(pin_start))
    inputs_of = np.array([len(t.inputs) for t in types], dtype=np.int32)[cell_type] if types else np.zeros(0, dtype=np.int32)
    is_input = np.arange(len(pin_net)) - pin_start[pin_cell] < inputs_of[pin_cell]
    driver = _drivers(net_names, pin_net, pin_cell, is_input, ports, where)
    reading = np.flatnonzero(is_input)
    reading = reading[np.argsort(pin_net[reading], kind="stable")]
    reader_start = np.searchsorted(pin_net[reading], np.arange(len(net_names) + 1)).astype(np.int32)
    level = _levels(types, cell_names, cell_type, pin_start, pin_net, driver, where)
    return Netlist(
        name=name, net_names=tuple(net_names), cell_names=tuple(cell_names), types=types, cell_type=cell_type, pin_start=pin_start,
        pin_net=pin_net, pin_cell=pin_cell, driver=driver, order=np.argsort(level, kind="stable").astype(np.int32), level=level,
        reader_start=reader_start, reader_pin=reading.astype(np.int32), ports=ports, black_boxes=boxes,
    )


def _names_of_bits(module: Mapping) -> dict[int, str]:
    """One name for each bit: a public one before a generated one, then the shortest."""
    best: dict[int, tuple[bool, int, str]] = {}
    for name, entry in module["netnames"].items():
        wide = len(entry["bits"]) > 1
        for i, bit in enumerate(entry["bits"]):
            if isinstance(bit, int):
                label = f"{name}[{i + entry.get('offset', 0)}]" if wide else name
                best[bit] = min(best.get(bit, (True, 1 << 30, "")), (bool(entry.get("hide_name")), len(label), label))
    return {bit: label for bit, (_, _, label) in best.items()}


def _drivers(
    net_names: list[str], pin_net: np.ndarray, pin_cell: np.ndarray, is_input: np.ndarray, ports: Mapping[str, Port], where: str
) -> np.ndarray:  # fmt: skip
    """The driving cell of each net; -1 for constants and source ports."""
    count = np.zeros(len(net_names), dtype=np.int32)
    driver = np.full(len(net_names), -1, dtype=np.int32)
    used = np.zeros(len(net_names), dtype=bool)
    driver[pin_net[~is_input]] = pin_cell[~is_input]
    np.add.at(count, pin_net[~is_input], 1)
    used[pin_net[is_input]] = True
    for port in ports.values():
        if port.is_source:
            np.add.at(count, port.nets, 1)
        else:
            used[port.nets] = True
    count[[CONST0, CONST1]] += 1
    for rule, wrong in (("one driver, not several", count > 1), ("a driver, not none", used & (count == 0))):
        if np.any(wrong):
            raise ToolError(f"each net must have {rule}: {_some([net_names[i] for i in np.flatnonzero(wrong)])} ({where})")
    return driver


def _levels(
    types: Sequence[CellLogic], cell_names: Sequence[str], cell_type: np.ndarray, pin_start: np.ndarray, pin_net: np.ndarray, driver: np.ndarray, where: str
) -> np.ndarray:  # fmt: skip
    """Level of each cell: 0 where the outputs follow no other cell. Raises `ToolError` naming the cells of a loop."""
    followed = [np.any(t.depends, axis=0) for t in types]
    before: list[list[int]] = []
    for cell, kind in enumerate(cell_type):
        pins = pin_net[pin_start[cell] :][: len(followed[kind])]
        before.append([d for d in driver[pins[followed[kind]]].tolist() if d >= 0])
    after: list[list[int]] = [[] for _ in before]
    waiting = [len(b) for b in before]
    for cell, drivers in enumerate(before):
        for d in drivers:
            after[d].append(cell)
    level = np.zeros(len(before), dtype=np.int32)
    ready = [cell for cell, count in enumerate(waiting) if not count]
    for cell in ready:  # grows while it is walked
        for reader in after[cell]:
            level[reader] = max(level[reader], level[cell] + 1)
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    if len(ready) < len(before):
        left = {cell for cell, count in enumerate(waiting) if count}
        walk = [min(left)]
        while walk[-1] not in walk[:-1]:  # walking backwards inside the rest must come round
            walk.append(next(d for d in before[walk[-1]] if d in left))
        loop = walk[walk.index(walk[-1]) :][::-1]
        raise ToolError(f"combinational logic must have no loop, not {' -> '.join(cell_names[c] for c in loop[:_SHOWN])} ({where})")
    return level


@dataclass(frozen=True, kw_only=True, eq=False)
class ClockNetwork:
    """What the clocks reach without passing a flop.

    `cells` [n] are those cells in levelized order (buffers, gates, clock gates, latches and logic that follows a clock);
    `nets` [netlist.nets] marks the nets on the way from a clock port to a flop, latch, clock gate or black box.
    """

    ports: tuple[str, ...]
    cells: np.ndarray
    nets: np.ndarray


def clock_network(netlist: Netlist, clocks: Collection[str]) -> ClockNetwork:
    """The network of the input ports `clocks`; raises `ToolError` for a flop that none of them reaches, by name."""
    where = f"netlist {netlist.name}"
    for name in clocks:
        if name not in netlist.ports or not netlist.ports[name].is_source:
            raise ToolError(f"clock must be one of the input ports {_some([p.name for p in netlist.ports.values() if p.is_source])}, not {name} ({where})")
    reached = np.zeros(netlist.nets, dtype=bool)
    for name in clocks:
        reached[netlist.ports[name].nets] = True

    def inputs_and_outputs(cell: int) -> tuple[CellLogic, np.ndarray, np.ndarray]:
        logic = netlist.types[netlist.cell_type[cell]]
        pins = netlist.pin_net[netlist.pin_start[cell] : netlist.pin_start[cell + 1]]
        return logic, pins[: len(logic.inputs)], pins[len(logic.inputs) :]

    cells = []
    for cell in netlist.order:
        logic, inputs, outputs = inputs_and_outputs(cell)
        if logic.kind != "flop" and np.any(reached[inputs]):
            cells.append(cell)
            reached[outputs[np.any(logic.depends[:, reached[inputs]], axis=1)]] = True
    clocking = np.zeros(netlist.nets, dtype=bool)
    for cell in netlist.cells_of("flop"):
        logic, inputs, _ = inputs_and_outputs(cell)
        if not np.all(reached[inputs[list(logic.clock_inputs)]]):
            raise ToolError(f"every flop must be clocked from {', '.join(clocks)}, not {netlist.cell_names[cell]} from elsewhere ({where}); state every clock")
        clocking[inputs[list(logic.clock_inputs)]] = True
    for port in netlist.ports.values():
        if not port.is_source and "/" in port.name:  # what follows a clock into a black box clocks what is inside
            clocking[port.nets] |= reached[port.nets]
    for cell in reversed(cells):
        logic, inputs, outputs = inputs_and_outputs(cell)
        if logic.kind in ("latch", "clock_gate") or np.any(clocking[outputs]):
            clocking[inputs] = True
            clocking[outputs] |= logic.kind == "clock_gate"
    return ClockNetwork(ports=tuple(clocks), cells=np.array(cells, dtype=np.int32), nets=clocking & reached)
