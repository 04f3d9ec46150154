"""Buffers for a placed module: stronger gates and buffers where wires load a driver too much, and trees for its clocks.

Sinks of a heavy net are divided by place into groups that a buffer can drive with sharp edges; buffers stand in the middle of
their group, and are the sinks of the next level. One buffer alone stands at the driver. It is an estimate of cells and wire, not
a legal layout: buffers overlap cells, and the branches of clock trees are not balanced.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from flow.fanout import net_sinks
from flow.liberty import Cell, Library
from hw.errors import ToolError

UNIT_INVERTERS = 12
"""Load that a net may have, in inverters, where the inverter itself drives it; stronger cells may drive more in proportion to the largest loads that
the library states. Edges stay about as sharp as in logic of average load."""

REPEATER_UM = 150.0
"""Longest wire without a repeater: two to three times the length of least delay, sqrt(2 R C / (r c)) with the R C of a buffer and the r c of the
wire (H. B. Bakoglu, Circuits, Interconnections, and Packaging for VLSI, 1990), as is usual where energy counts too. Own choice."""

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class _Sink:
    """A pin on a net: where it is, what it loads the net with, and where it is connected in the module."""

    at: Point
    load_f: float
    cell: str
    pin: str
    position: int


@dataclass(kw_only=True)
class Buffering:
    """A Yosys JSON `module` under change. `places` (x, y) of cells by name and of `instance/port` bits and port bits, um.

    `inverter` is the unit of loads. `box_load_f` gives by module and port what each bit of an input of a black box loads its net with.
    """

    module: dict
    liberty: Library
    inverter: str
    places: dict[str, Point]
    port_places: Mapping[str, np.ndarray]
    box_load_f: Mapping[str, Mapping[str, Sequence[float]]]
    wire_f_per_um: float
    added: dict[str, str] = field(default_factory=dict)
    """The cell type of each buffer that was added."""

    def __post_init__(self) -> None:
        bits = [bit for entry in self.module["netnames"].values() for bit in entry["bits"] if isinstance(bit, int)]
        self._next_bit = max(bits, default=1) + 1
        unit = self.liberty.cells[self.inverter]
        input_f = next(pin.capacitance_f for pin in unit.pins.values() if pin.direction == "input")
        self.sharp = UNIT_INVERTERS * input_f / _max_load_f(unit)

    def strengthen_drivers(self, *, clocks: Sequence[str], buffer: str) -> int:
        """Give every signal net a driver that is strong enough; returns how many cells were replaced by stronger ones.

        The weakest cell of the same footprint that can drive the net takes the place of its driver; where none can, buffers of the
        strongest relative of `buffer` divide the net.
        """
        families = _families(self.liberty)
        strongest = families[buffer][-1]
        replaced = 0
        drivers = self._drivers()
        for net, found in sorted(net_sinks(self.module, self.liberty, clocks).items()):
            if net not in drivers or not (sinks := self._sinks(found)):
                continue
            cell, pin, at = drivers[net]
            wire = [sink.at for sink in sinks] + [at]
            load_f = sum(sink.load_f for sink in sinks) + self.wire_f_per_um * _wire_um(wire)
            limit_f = self.sharp * _max_load_f(strongest)
            if cell and (kind := self.liberty.cells.get(self.module["cells"][cell]["type"])):
                able = [one for one in families[kind.name] if one.area_um2 >= kind.area_um2 and self.sharp * _max_load_f(one, pin) >= load_f]
                best = able[0] if able else families[kind.name][-1]
                if best.name != kind.name and best.area_um2 > kind.area_um2:
                    self.module["cells"][cell]["type"] = best.name
                    replaced += 1
                limit_f = self.sharp * (best.pins[pin].max_capacitance_f or np.inf)
            movable = [sink for sink in sinks if sink.cell]
            if movable and (load_f > limit_f or _farthest_um(movable, at) > REPEATER_UM):
                self._grow(net, movable, limit_f, strongest, at, [sink.at for sink in sinks if not sink.cell])
        return replaced

    def grow_clock_trees(self, *, clocks: Sequence[str], buffer: str) -> int:
        """Give every clock port and clock gate a tree of `buffer` as far as its sinks need one; returns how many buffers were added."""
        kind, before = self.liberty.cells[buffer], len(self.added)
        own_f = next(pin.capacitance_f for pin in kind.pins.values() if pin.direction == "input")
        limits: dict[int, tuple[float, Point]] = {}
        for name in clocks:
            for position, bit in enumerate(self.module["ports"][name]["bits"] if name in self.module["ports"] else ()):
                limits[bit] = (self.sharp * _max_load_f(kind), tuple(self.port_places[name][position]))
        sinks: dict[int, list[_Sink]] = {}
        for name, cell in self.module["cells"].items():
            known = self.liberty.cells.get(cell["type"])
            for pin, bits in cell["connections"].items():
                if known is not None and known.clock_gate is not None and known.pins[pin].direction == "output":
                    limits[bits[0]] = (self.sharp * (known.pins[pin].max_capacitance_f or _max_load_f(kind)), self.places[name])
        for name, cell in self.module["cells"].items():
            known = self.liberty.cells.get(cell["type"])
            for pin, bits in cell["connections"].items():
                if known is not None and known.pins[pin].direction != "input":
                    continue
                for position, bit in enumerate(bits):
                    if bit in limits:
                        at = self.places[name] if known is not None else tuple(self.port_places[f"{name}/{pin}"][position])
                        # Behind the clock port of a block stands the root of its own tree.
                        load_f = known.pins[pin].capacitance_f if known is not None else own_f
                        sinks.setdefault(bit, []).append(_Sink(at=at, load_f=load_f, cell=name, pin=pin, position=position))
        for bit, found in sorted(sinks.items()):
            limit_f, at = limits[bit]
            if self._load_f(found, [at]) > limit_f or _farthest_um(found, at) > REPEATER_UM:
                self._grow(bit, found, limit_f, kind, at, [])
        return len(self.added) - before

    def _drivers(self) -> dict[int, tuple[str, str, Point]]:
        """Cell (empty for ports and black boxes), output pin and place of the driver of each net."""
        found: dict[int, tuple[str, str, Point]] = {}
        for name, port in self.module["ports"].items():
            if port["direction"] == "input":
                found |= {bit: ("", name, tuple(at)) for bit, at in zip(port["bits"], self.port_places[name], strict=True)}
        for name, cell in self.module["cells"].items():
            known = self.liberty.cells.get(cell["type"])
            for pin, bits in cell["connections"].items():
                if known is not None and known.pins[pin].direction == "output":
                    found[bits[0]] = (name, pin, self.places[name])
                elif known is None and cell["port_directions"][pin] == "output":
                    found |= {bit: ("", pin, tuple(at)) for bit, at in zip(bits, self.port_places[f"{name}/{pin}"], strict=True)}
        return found

    def _sinks(self, pins: Sequence[tuple[str, str, int]]) -> list[_Sink]:
        """The sinks of a net; output ports of the module have an empty cell."""
        found = []
        for cell, pin, position in pins:
            if not cell:
                found.append(_Sink(at=tuple(self.port_places[pin][position]), load_f=0.0, cell="", pin=pin, position=position))
                continue
            kind = self.module["cells"][cell]["type"]
            if kind in self.liberty.cells:
                load_f, at = self.liberty.cells[kind].pins[pin].capacitance_f, self.places[cell]
            else:
                load_f, at = self.box_load_f[kind][pin][position], tuple(self.port_places[f"{cell}/{pin}"][position])
            found.append(_Sink(at=at, load_f=load_f, cell=cell, pin=pin, position=position))
        return found

    def _grow(self, net: int, sinks: list[_Sink], limit_f: float, buffer: Cell, driver: Point, others: list[Point]) -> None:
        """Put levels of `buffer` between `net` and `sinks` until what hangs on the net itself is near and light enough for its driver."""
        pin_in, pin_out = (next(pin for pin in buffer.pins.values() if pin.direction == way) for way in ("input", "output"))
        level = sinks
        while True:
            above = []
            for group in self._divide(level, self.sharp * _max_load_f(buffer)):
                name = f"placed_buffer_{len(self.added)}"
                at = _towards(group[0].at, driver) if len(group) == 1 else tuple(np.mean([sink.at for sink in group], axis=0).tolist())
                self.module["cells"][name] = {
                    "hide_name": 0, "type": buffer.name, "parameters": {}, "attributes": {},
                    "port_directions": {pin_in.name: "input", pin_out.name: "output"},
                    "connections": {pin_in.name: [net], pin_out.name: [self._next_bit]},
                }  # fmt: skip
                for sink in group:
                    self.module["cells"][sink.cell]["connections"][sink.pin][sink.position] = self._next_bit
                self.module["netnames"][f"placed_net_{len(self.added)}"] = {"hide_name": 0, "bits": [self._next_bit], "attributes": {}}
                self.places[name], self.added[name] = at, buffer.name
                above.append(_Sink(at=at, load_f=pin_in.capacitance_f, cell=name, pin=pin_in.name, position=0))
                self._next_bit += 1
            alone = len(above) == 1 and above[0].at == driver
            if alone or (self._load_f(above, [*others, driver]) <= limit_f and _farthest_um(above, driver) <= REPEATER_UM):
                return
            level = above

    def _load_f(self, sinks: Sequence[_Sink], others: Sequence[Point] = ()) -> float:
        return sum(sink.load_f for sink in sinks) + self.wire_f_per_um * _wire_um([sink.at for sink in sinks] + list(others))

    def _divide(self, sinks: list[_Sink], limit_f: float) -> list[list[_Sink]]:
        """Halved along the longer side until each group is light enough."""
        if len(sinks) == 1 or self._load_f(sinks) <= limit_f:
            return [sinks]
        xy = np.array([sink.at for sink in sinks])
        along = int(np.argmax(np.ptp(xy, axis=0)))
        ordered = sorted(sinks, key=lambda sink: (sink.at[along], sink.cell, sink.pin, sink.position))
        half = len(ordered) // 2
        return self._divide(ordered[:half], limit_f) + self._divide(ordered[half:], limit_f)


def _farthest_um(sinks: Sequence[_Sink], driver: Point) -> float:
    return max(abs(sink.at[0] - driver[0]) + abs(sink.at[1] - driver[1]) for sink in sinks)


def _towards(sink: Point, driver: Point) -> Point:
    """Where the buffer in front of one sink stands: at the driver, or on the way there as far as one wire may go."""
    distance = abs(sink[0] - driver[0]) + abs(sink[1] - driver[1])
    share = 1.0 if distance <= REPEATER_UM else REPEATER_UM / distance
    return (sink[0] + share * (driver[0] - sink[0]), sink[1] + share * (driver[1] - sink[1])) if share < 1 else driver


def _wire_um(points: Sequence[Point]) -> float:
    """A tour through n random points in an area A is 0.7124 sqrt(n A) long (Beardwood, Halton and Hammersley 1959); the wire is at least
    half the perimeter around the pins."""
    if len(points) < 2:
        return 0.0
    width, height = (max(axis) - min(axis) for axis in zip(*points, strict=True))
    return max(width + height, 0.7124 * (width * height * len(points)) ** 0.5)


def _max_load_f(cell: Cell, output: str | None = None) -> float:
    """What an output of a cell can drive, by default its first."""
    limit_f = next(pin.max_capacitance_f for pin in cell.pins.values() if pin.direction == "output" and output in (None, pin.name))
    if limit_f is None:
        raise ToolError(f"cell {cell.name} must state its max_capacitance in its library; name another cell")
    return limit_f


def _families(library: Library) -> dict[str, list[Cell]]:
    """For each cell with one driven pin the cells of its footprint with the same pins, smallest first; itself alone without a footprint."""
    families: dict[tuple, list[Cell]] = {}
    for cell in sorted(library.cells.values(), key=lambda cell: (cell.area_um2, cell.name)):
        bounded = all(pin.max_capacitance_f for pin in cell.pins.values() if pin.direction == "output")
        key = (cell.footprint or cell.name, tuple(sorted(cell.pins)), bounded)
        families.setdefault(key if bounded else (cell.name,), []).append(cell)
    return {cell.name: family for family in families.values() for cell in family}
