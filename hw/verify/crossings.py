"""Clock domain crossings of an emitted design, from its netlist: each must be one of a two-clock FIFO or a synchronizer.

The design is flattened into word-level cells. From every register input, memory input and output port the combinational
fan-in is followed back to registers, memories and input ports; where it reaches the other clock domain, it is a crossing.
What is legal is exact: inside a two-clock FIFO, a Gray pointer straight into the first stage of its synchronizer, and stored
words into the output register; inside a synchronizer, a register or a pin straight into the first stage. The first
stage itself may feed nothing but the second.
"""

import json
import re
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from hw.emit import RtlBundle
from hw.errors import ModelError
from hw.tools import run_tool

_RUN = "import sys; from pyosys import libyosys; libyosys.run_pass('script ' + sys.argv[1], libyosys.Design())"
_REGISTERS = {"$dff", "$dffe", "$sdff", "$sdffe", "$sdffce"}
_OUTSIDE = "outside"
"""The domain of a port that may come from any clock."""


@dataclass(frozen=True, kw_only=True, order=True)
class Crossing:
    """Bits that go from one domain to another: from `source` to `target`, each a register, memory or port by its name in the flat design.

    `through` is the instance of the FIFO or synchronizer that holds the crossing, empty for an illegal one.
    """

    source_domain: str
    target_domain: str
    source: str
    target: str
    through: str


def crossings(bundle: RtlBundle) -> tuple[Crossing, ...]:
    """Every crossing of an emitted accelerator (not of a block by itself), sorted. Raises `ToolError` if Yosys cannot read it."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        script = [
            f"read_verilog -sv {bundle.verilog[0].resolve()}", f"read_verilog -lib {bundle.verilog[1].resolve()}", f"hierarchy -check -top {bundle.top}",
            "proc", "opt_expr", "opt_dff", "opt_clean", "flatten -noscopeinfo", "opt_clean", "write_json flat.json",
        ]  # fmt: skip
        (at / "flatten.ys").write_text("\n".join(script) + "\n", encoding="utf-8")
        run_tool([sys.executable, "-I", "-c", _RUN, "flatten.ys"], cwd=at, timeout_s=900.0)
        flat = json.loads((at / "flat.json").read_text(encoding="utf-8"))["modules"][bundle.top]
    assert bundle.interface is not None
    clocks = {port["name"]: port["clock"] for port in json.loads(bundle.interface.read_text(encoding="utf-8"))["ports"]}
    return tuple(sorted(_Design(flat, bundle, clocks).crossings()))


def check_crossings(bundle: RtlBundle) -> tuple[Crossing, ...]:
    """The crossings of a design; raises `ModelError` that names the first one that is neither in a FIFO nor in a synchronizer."""
    found = crossings(bundle)
    illegal = [crossing for crossing in found if not crossing.through]
    if illegal:
        first = illegal[0]
        raise ModelError(
            f"a crossing must be a two-clock FIFO or a synchronizer, not {first.source} ({first.source_domain}) to {first.target} ({first.target_domain})"
            f" ({len(illegal)} illegal of {len(found)}); put one between"
        )
    return found


class _Design:
    """A flattened netlist: what drives each net bit, and to which domain each register belongs."""

    def __init__(self, flat: dict, bundle: RtlBundle, port_clocks: dict[str, str | None]):
        self.cells, self.ports, self.port_clocks = flat["cells"], flat["ports"], port_clocks
        self.fifos = [instance for block in bundle.block("two_clock_fifo") for instance in block.instances]
        self.synchronizers = [instance for block in bundle.block("synchronizer") for instance in block.instances]
        self.domain_of_clock = {self.ports[name]["bits"][0]: name.removesuffix("_clk") for name in ("core_clk", "mem_clk")}
        self.domains: dict[str, str] = {}
        """Domain of each register and memory, by cell name."""
        for name, cell in self.cells.items():
            clock = "CLK" if cell["type"] in _REGISTERS else "clk" if cell["type"] in bundle.black_boxes else None
            if clock:
                self.domains[name] = self._clock_domain(name, cell["connections"][clock][0])
            elif not cell["type"].startswith("$") or re.search("latch|dff|mem", cell["type"]):
                raise ModelError(f"cells must be combinational, registers or memory macros, not {cell['type']} ({name})")
        self.driver: dict[int, str] = {}
        """Name of the cell, or `.port`, that drives a net bit."""
        self.readers: dict[int, list[str]] = defaultdict(list)
        for name, cell in self.cells.items():
            for port, bits in cell["connections"].items():
                for bit in bits:
                    if cell["port_directions"][port] == "output":
                        self.driver[bit] = name
                    else:
                        self.readers[bit].append(name)
        for port, entry in self.ports.items():
            for bit in entry["bits"]:
                if entry["direction"] == "input":
                    self.driver[bit] = f".{port}"
                else:
                    self.readers[bit].append(f".{port}")
        self.names = self._register_names(flat["netnames"])
        self._reached: dict[str, frozenset[str]] = {}

    def _clock_domain(self, cell: str, bit: int | str) -> str:
        if bit not in self.domain_of_clock:
            raise ModelError(f"a register's clock must be core_clk or mem_clk itself, not gated or made from others ({cell})")
        return self.domain_of_clock[bit]

    def _register_names(self, nets: dict) -> dict[str, str]:
        """What its own module calls each register's output."""
        names: dict[str, str] = {}
        for net, entry in sorted(nets.items()):
            if "$" in net.rsplit(".", 1)[-1] or re.search(r"(^|\.)_\d+_$", net):
                continue
            for bit in entry["bits"]:
                cell = self.driver.get(bit, "")
                if cell in self.domains and net.rpartition(".")[0] == _module_path(cell):
                    names.setdefault(cell, net)
        return names

    def _name(self, node: str) -> str:
        return node[1:] if node.startswith(".") else self.names.get(node, node)

    def _domain(self, node: str) -> str:
        """Of a register, memory or port."""
        if not node.startswith("."):
            return self.domains[node]
        clock = self.port_clocks[node[1:]]
        return clock.removesuffix("_clk") if clock else _OUTSIDE

    def _sources(self, bits: list) -> frozenset[str]:
        """Registers, memories and input ports from which logic leads to these bits; constants do not count."""
        return frozenset().union(*(self._reach(self.driver[bit]) for bit in bits if bit in self.driver))

    def _reach(self, node: str) -> frozenset[str]:
        """The sources that lead to a cell's outputs: itself, or those of its inputs. Without recursion, as fan-in is deep."""
        stack = [node]
        while stack:
            top = stack[-1]
            if top in self._reached:
                stack.pop()
            elif top.startswith(".") or top in self.domains:
                self._reached[stack.pop()] = frozenset([top])
            else:
                cell = self.cells[top]
                bits = (bit for port, bits in cell["connections"].items() if cell["port_directions"][port] == "input" for bit in bits)
                inputs = {self.driver[bit] for bit in bits if bit in self.driver}
                if missing := [n for n in inputs if n not in self._reached]:
                    stack.extend(missing)
                else:
                    self._reached[stack.pop()] = frozenset().union(*(self._reached[n] for n in inputs))
        return self._reached[node]

    def crossings(self) -> set[Crossing]:
        """Every pair of source and target in different domains."""
        found = set()
        for target, domain in self.domains.items():
            cell = self.cells[target]
            inputs = {port: bits for port, bits in cell["connections"].items() if cell["port_directions"][port] == "input" and port.lower() != "clk"}
            for port, bits in inputs.items():
                found |= self._into(target, domain, port, bits)
        for port, entry in self.ports.items():
            if entry["direction"] == "output":
                found |= self._into(f".{port}", self._domain(f".{port}"), "", entry["bits"])
        return found

    def _into(self, target: str, domain: str, port: str, bits: list) -> set[Crossing]:
        found = set()
        foreign = (source for source in self._sources(bits) if self._domain(source) != domain)
        for source in foreign:
            domains = {"source_domain": self._domain(source), "target_domain": domain}
            found.add(Crossing(**domains, source=self._name(source), target=self._name(target), through=self._holder(source, target, port, bits)))
        return found

    def _holder(self, source: str, target: str, port: str, bits: list) -> str:
        """The FIFO or synchronizer in which this crossing is legal, or nothing."""
        source_name, target_name = self._name(source), self._name(target)
        straight = port == "D" and all(self.driver.get(bit) == source for bit in bits)
        for fifo in self.fifos:
            inside = source_name.startswith(f"{fifo}.") and target_name.startswith(f"{fifo}.")
            if not inside or port != "D":
                continue
            came, went = source_name.removeprefix(f"{fifo}."), target_name.removeprefix(f"{fifo}.")
            pointer = straight and went == f"{came}_sync_0" and self._only_feeds_next(target, f"{fifo}.{came}_sync_1")
            word = re.fullmatch(r"word_\d+", came) and went in ("r_data", "r_data_held")
            if pointer or word:
                return fifo
        for synchronizer in self.synchronizers:
            if straight and target_name == f"{synchronizer}.first" and self._only_feeds_next(target, f"{synchronizer}.synchronized"):
                return synchronizer
        return ""

    def _only_feeds_next(self, first_stage: str, second: str) -> bool:
        """Whether all that a synchronizer's first stage drives is the second stage, straight."""
        cell = self.cells[first_stage]
        for bit in cell["connections"]["Q"]:
            for reader in self.readers[bit]:
                if reader.startswith(".") or self._name(reader) != second or bit not in self.cells[reader]["connections"]["D"]:
                    return False
        return True


def _module_path(cell: str) -> str:
    """The instance that a cell of the flat netlist came from, empty for the top's own."""
    return cell.removeprefix("$flatten").removeprefix("\\").partition(".$")[0] if cell.startswith("$flatten") else cell.rpartition(".")[0]
