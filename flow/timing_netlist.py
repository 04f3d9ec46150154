"""A placed design as OpenSTA reads it: hierarchical Verilog with plain names, and the wires of all nets as one SPEF file.

Cells are called `c<number>` and black boxes `b<number>`, in the order of the module's `Netlist`, registers and black boxes with
their own name in front as far as Verilog allows (`acc_0_3_c17`); `original_name` goes back, `plain_pattern` finds them. Each net
becomes a tree along the hierarchy: from its driver to every pin a resistance in proportion to the distance; half of the wire's
capacitance at the driver, half at the pins.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from flow.netlist import CONST1, Netlist
from flow.placement import Places, wire_lengths_um
from flow.tech import WireModel
from hw.errors import ToolError

_SHORTEST_UM = 0.1
"""Pins closer to their driver than that are taken to be so far: OpenSTA wants resistances."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TimingModule:
    """One distinct module: its netlist and, for SPEF, its places. Black boxes that are no module of the design are macros."""

    netlist: Netlist
    places: Places | None = None

    def placed(self) -> Places:
        """The places; raises `ToolError` if there are none."""
        if self.places is None:
            raise ToolError(f"module {self.netlist.name} must be placed to have wires, not without places")
        return self.places
    @cached_property
    def boxes(self) -> dict[str, str]:
        """Plain name of each black box instance, by its own name."""
        return {name: f"{_plain(name)}_b{number}" for number, name in enumerate(self.netlist.black_boxes)}

    @cached_property
    def cells(self) -> list[str]:
        """Plain name of each cell."""
        kinds = [logic.kind for logic in self.netlist.types]
        named = [kinds[kind] == "flop" for kind in self.netlist.cell_type]
        return [f"{_plain(name)}_c{number}" if own else f"c{number}" for number, (name, own) in enumerate(zip(self.netlist.cell_names, named, strict=True))]

    @cached_property
    def net_names(self) -> list[str]:
        """Plain names of the nets: those on ports are called after the port."""
        names = [f"n{number}" for number in range(self.netlist.nets)]
        names[: CONST1 + 1] = ["1'b0", "1'b1"]
        for port in self.netlist.ports.values():
            if "/" not in port.name:
                for bit, net in enumerate(port.nets.tolist()):
                    names[net] = f"{port.name}[{bit}]" if len(port.nets) > 1 else port.name
        return names

    @cached_property
    def on_edge(self) -> np.ndarray:
        """Whether each net [nets] is on a port of the module."""
        found = np.zeros(self.netlist.nets, dtype=bool)
        for port in self.netlist.ports.values():
            if "/" not in port.name:
                found[port.nets] = True
        return found

    @cached_property
    def ends(self) -> list[list[tuple[str, str, int, float, float, bool]]]:
        """For each net (instance, pin or port, bit or -1, x, y, whether it drives); the module's own ports have an empty instance."""
        n, places = self.netlist, self.placed()
        found: list[list[tuple[str, str, int, float, float, bool]]] = [[] for _ in range(n.nets)]
        xy = places.cells.tolist()
        for cell in range(n.cells):
            logic, first = n.types[n.cell_type[cell]], n.pin_start[cell]
            for k, pin in enumerate((*logic.inputs, *logic.outputs)):
                found[n.pin_net[first + k]].append((self.cells[cell], pin, -1, *xy[cell], k >= len(logic.inputs)))
        for name, port in n.ports.items():
            instance, _, own = name.rpartition("/")
            wide = len(port.nets) > 1
            for bit, (net, (x, y)) in enumerate(zip(port.nets.tolist(), places.ports[name].tolist(), strict=True)):
                found[net].append((self.boxes.get(instance, ""), own, bit if wide else -1, x, y, port.is_source))
        return found


def write_timing_verilog(modules: Mapping[str, TimingModule], path: Path) -> None:
    """All `modules` (by name) as structural Verilog."""
    with path.open("w", encoding="utf-8") as file:
        for name, module in modules.items():
            file.writelines(_verilog(name, module))


def _verilog(name: str, module: TimingModule) -> Iterator[str]:
    netlist, names = module.netlist, module.net_names
    own = [port for port in netlist.ports.values() if "/" not in port.name]
    yield f"module {name} ({', '.join(port.name for port in own)});\n"
    for port in own:
        width = f"[{len(port.nets) - 1}:0] " if len(port.nets) > 1 else ""
        yield f"  {'input' if port.is_source else 'output'} {width}{port.name};\n"
    inner = [names[net] for net in np.flatnonzero(~module.on_edge).tolist() if net > CONST1]
    for first in range(0, len(inner), 20):
        yield f"  wire {', '.join(inner[first : first + 20])};\n"
    for cell in range(netlist.cells):
        logic, first = netlist.types[netlist.cell_type[cell]], netlist.pin_start[cell]
        pins = ", ".join(f".{pin}({names[netlist.pin_net[first + k]]})" for k, pin in enumerate((*logic.inputs, *logic.outputs)))
        yield f"  {logic.name} {module.cells[cell]} ({pins});\n"
    ports: dict[str, list[str]] = {instance: [] for instance in netlist.black_boxes}
    for port in netlist.ports.values():
        instance, _, own_name = port.name.rpartition("/")
        if instance:
            ports[instance].append(f".{own_name}({{{', '.join(names[net] for net in reversed(port.nets.tolist()))}}})")
    for instance, kind in netlist.black_boxes.items():
        yield f"  {kind} {module.boxes[instance]} ({', '.join(ports[instance])});\n"
    yield "endmodule\n\n"


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name)


def plain_pattern(pattern: str) -> str:
    """A pattern of hierarchical pin names (`datapath.pe_row_0/pe_1/acc_*`) as one of plain names. Its last part stays."""
    *path, last = pattern.split("/")
    return "/".join([*(f"{_plain(part)}_b[0-9]*" for part in path), last])


def original_name(modules: Mapping[str, TimingModule], top: str, pin: str) -> str:
    """The name that a pin of the plain names (`pe_3_b3/c12/D`) or a port has in the netlists it comes from."""
    parts, found, kind = pin.split("/"), [], top
    for part in parts[:-1]:
        netlist = modules[kind].netlist
        plain = re.search(r"([bc])(\d+)$", part)
        assert plain, part
        if plain[1] == "c":
            found.append(netlist.cell_names[int(plain[2])])
            break
        found.append(list(netlist.black_boxes)[int(plain[2])])
        kind = netlist.black_boxes[found[-1]]
        if kind not in modules:
            break
    return "/".join([*found, parts[-1]])


# --- SPEF ----------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Wire:
    """The tree of one net while it is collected: connections, (node, F) and (node, node, ohm)."""

    name: str
    connections: list[str] = field(default_factory=list)
    caps: list[tuple[str, float]] = field(default_factory=list)
    resistors: list[tuple[str, str, float]] = field(default_factory=list)
    joints: int = 0

    def joint(self) -> str:
        """A new node inside the net."""
        self.joints += 1
        return f"{self.name}:{self.joints}"


class _Spef:
    def __init__(self, modules: Mapping[str, TimingModule], wire: WireModel):
        self.modules, self.wire = modules, wire
        self.lengths = {name: wire_lengths_um(module.netlist, module.placed()) for name, module in modules.items()}

    def lines(self, kind: str, path: str = "") -> Iterator[str]:
        """The nets that reach no higher than this instance of module `kind`; those of the top with its ports."""
        module = self.modules[kind]
        for net in range(CONST1 + 1, module.netlist.nets):
            if (path and module.on_edge[net]) or len(module.ends[net]) < 2:
                continue
            built = _Wire(name=f"{path}{module.net_names[net]}")
            self._spread(built, kind, path, net, None)
            total_f = sum(cap for _, cap in built.caps)
            yield f"*D_NET {built.name} {total_f * 1e15:.4f}\n*CONN\n"
            yield from (f"{line}\n" for line in built.connections)
            yield "*CAP\n"
            yield from (f"{number} {node} {cap * 1e15:.4f}\n" for number, (node, cap) in enumerate(built.caps, 1))
            yield "*RES\n"
            yield from (f"{number} {a} {b} {ohm:.3f}\n" for number, (a, b, ohm) in enumerate(built.resistors, 1))
            yield "*END\n"
        boxes = module.boxes
        for instance, inner in module.netlist.black_boxes.items():
            if inner in self.modules:
                yield from self.lines(inner, f"{path}{boxes[instance]}/")

    def _spread(self, built: _Wire, kind: str, path: str, net: int, entry: tuple[str, str, int] | None) -> str | None:
        """Add the part of a net that lies in one module, and below it. `entry` is (node, port, bit) where the net comes in from above;
        returns the node at which it leaves through an output port, if it does."""
        module, ends = self.modules[kind], self.modules[kind].ends[net]
        inner = {plain: module.netlist.black_boxes[name] for name, plain in module.boxes.items()}
        root = next((end for end in ends if end[5]), None)
        if root is None:
            raise ToolError(f"net {built.name} must have a driver to have wires, not none")
        instance, pin, bit, x, y, _ = root
        if entry is not None:
            start = entry[0]
        elif instance in inner and inner[instance] in self.modules:
            start = self._leave(built, inner[instance], f"{path}{instance}/", pin, bit)
        else:
            start = self._pin(built, path, instance, pin, bit, drives=True)
        sinks = [end for end in ends if end is not root]
        distances = [max(abs(end[3] - x) + abs(end[4] - y), _SHORTEST_UM) for end in sinks]
        cap_f = self.wire.capacitance_per_um_f * float(self.lengths[kind][net])
        built.caps.append((start, cap_f / 2))
        leaving = None
        for (instance, pin, bit, _, _, _), distance in zip(sinks, distances, strict=True):
            below = instance in inner and inner[instance] in self.modules
            leaves = not instance and path
            node = built.joint() if below or leaves else self._pin(built, path, instance, pin, bit, drives=False)
            built.resistors.append((start, node, self.wire.resistance_per_um_ohm * distance))
            built.caps.append((node, cap_f / 2 * distance / sum(distances)))
            if below:
                child = self.modules[inner[instance]].netlist
                self._spread(built, inner[instance], f"{path}{instance}/", int(child.ports[pin].nets[max(bit, 0)]), (node, pin, bit))
            elif leaves:
                leaving = node
        return leaving

    def _leave(self, built: _Wire, kind: str, path: str, port: str, bit: int) -> str:
        """The node at an output port of an instance, with all of the net inside it."""
        net = int(self.modules[kind].netlist.ports[port].nets[max(bit, 0)])
        node = self._spread(built, kind, path, net, None)
        if node is None:
            raise ToolError(f"net {built.name} must leave {path}{port}, not end inside")
        return node

    def _pin(self, built: _Wire, path: str, instance: str, pin: str, bit: int, *, drives: bool) -> str:
        label = pin if bit < 0 else f"{pin}[{bit}]"
        if instance:
            node = f"{path}{instance}:{label}"
            built.connections.append(f"*I {node} {'O' if drives else 'I'}")
        else:
            node = label
            built.connections.append(f"*P {node} {'I' if drives else 'O'}")
        return node


_HEADER = """\
*SPEF "IEEE 1481-1998"
*DESIGN "{top}"
*DATE "-"
*VENDOR "voltfront"
*PROGRAM "placement estimate"
*VERSION "1"
*DESIGN_FLOW "NETLIST_TYPE_VERILOG"
*DIVIDER /
*DELIMITER :
*BUS_DELIMITER []
*T_UNIT 1 PS
*C_UNIT 1 FF
*R_UNIT 1 OHM
*L_UNIT 1 HENRY

"""


def write_spef(modules: Mapping[str, TimingModule], top: str, wire: WireModel, path: Path) -> None:
    """The wires of all nets of `top` and the instances below it."""
    with path.open("w", encoding="utf-8") as file:
        file.write(_HEADER.format(top=top))
        file.writelines(_Spef(modules, wire).lines(top))
