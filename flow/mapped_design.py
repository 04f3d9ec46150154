"""A design mapped to a technology: each distinct module synthesized and placed once, its memories, and the timing of any part of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flow import netlist as netlist_module
from flow import placement, tech, timing_netlist
from flow.block_power import PortLoads, port_loads
from flow.cache import run_step, step
from flow.corner import Corner
from flow.flipflop_memory import FLIPFLOPS, with_memories
from flow.netlist import read_netlist
from flow.placement import Outline, PlacedModule, place_module, read_places
from flow.recording import Event
from flow.simulation import Rtl
from flow.sram import SramTechnology, Yardstick, area_um2, load_sram_technology, sram_figures, write_sram_liberty, yardstick
from flow.sram_macro import SramMacro
from flow.sta import TimingResult, time_design
from flow.synth import RECIPES, SynthResult, synthesize
from flow.tech import Technology, WireModel, liberty_files, read_libraries
from flow.timing_netlist import TimingModule, plain_pattern, write_spef, write_timing_verilog
from hw.config import AcceleratorConfig
from hw.emit import TOP, Block


@dataclass(frozen=True, kw_only=True)
class BlockKind:
    """What the table calls a block's work (`event`), and the ports that say in which cycles it does it."""

    event: str
    when: Event = ()


KINDS = {
    "pe": BlockKind(event="step", when=(("write_0",), ("write_1",))),
    "pe_row": BlockKind(event="step", when=(("mac_en",),)),
    "post": BlockKind(event="output", when=(("start",),)),
    "compute": BlockKind(event="step", when=(("step",),)),
    "load": BlockKind(event="word", when=(("act_write_a",), ("act_write_b",), ("weight_write",), ("param_write",))),
    "store": BlockKind(event="word", when=(("beat_valid", "beat_ready"),)),
    "sequencer": BlockKind(event="instruction", when=(("load_valid", "load_ready"), ("compute_valid", "compute_ready"), ("store_valid", "store_ready"))),
    "registers": BlockKind(event="cycle"),
    "memory_read": BlockKind(event="beat", when=(("rvalid", "rready"),)),
    "memory_write": BlockKind(event="beat", when=(("wvalid", "wready"),)),
    "axi_lite": BlockKind(event="access", when=(("access_valid", "access_ready"),)),
    "two_clock_fifo": BlockKind(event="word", when=(("w_valid", "w_ready"), ("r_valid", "r_ready"))),
    "synchronizer": BlockKind(event="cycle"),
    FLIPFLOPS: BlockKind(event="access", when=(("read_en",), ("write_en",))),
    "glue": BlockKind(event="cycle"),
}
ACCUMULATORS = "pe_accumulator"
"""Group of the registers that a PE's last stage ends in; its paths are the accumulation, those between its others the multiplication."""
TIMED_AT_ONCE = 2
"""Corners of a module that are timed at once, so that a design that is measured alone keeps more than one processor busy."""
GLUE = Block(name="glue", module=TOP, parameters={}, instances=("",), clocks={"core_clk": "core", "mem_clk": "mem"})
"""What lies between the blocks: multiplexers and wires of the top level, characterized with every block and memory as a black box."""


def characterized(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The blocks that are characterized apart: those not inside another block, and the PEs inside their rows."""
    paths = {path for block in blocks for path in block.instances}

    def inside(path: str) -> bool:
        parts = path.split(".")
        return any(".".join(parts[:i]) in paths for i in range(1, len(parts)))

    return tuple(block for block in blocks if block.name == "pe" or not any(inside(path) for path in block.instances))


def sampled_instances(block: Block, limit: int) -> tuple[str, ...]:
    """Instances to replay: evenly spaced, first and last among them; all if there are no more than `limit`."""
    paths = block.instances
    if len(paths) <= limit:
        return paths
    return tuple(paths[round(i * (len(paths) - 1) / (limit - 1))] for i in range(limit))


@dataclass(frozen=True, kw_only=True)
class MappedModule:
    """A module in one layout; `placed` is None before placement."""

    synthesized: SynthResult
    placed: PlacedModule | None

    @property
    def netlist(self) -> Path:
        return (self.placed or self.synthesized).netlist_json

    @property
    def places(self) -> Path | None:
        return None if self.placed is None else self.placed.places

    @property
    def area_um2(self) -> float:
        return (self.placed or self.synthesized).area_um2


class MappedDesign:
    """One design on one technology at its corners: its modules mapped, and its memories, which are flip-flops where the technology has no
    figures of macros (see `flow.flipflop_memory`)."""

    def __init__(self, *, config: AcceleratorConfig, rtl: Rtl, technology: Technology, corners: tuple[Corner, ...], cache: Path):
        rtl = with_memories(rtl, technology, cache=cache)
        self.config, self.rtl, self.technology, self.corners, self.cache = config, rtl, technology, corners, cache
        # Elements before the rows that hold them, the top last: what is inside must be known.
        blocks = sorted(characterized(rtl.blocks), key=lambda block: (block.name != "pe", block.name == "pe_row", block.module))
        self.blocks = (*blocks, GLUE)
        self.pes = tuple(block.module for block in blocks if block.name == "pe")
        self.macros = {memory.module: SramMacro(words=memory.words, bits=memory.bits) for memory in rtl.macros}
        # The inverter's law against the supply holds for one process, temperature and back bias.
        self.inverters = {condition(corner): yardstick(technology, corner) for corner in corners} if self.macros else {}
        self.liberty = tuple(liberty_files(technology, corner, cache=cache) for corner in corners)
        macros = tuple(self.macros.values())
        self.macro_liberty = {
            corner: [run_step(_macro_liberty, cache=cache, macros=macros, sram=technology.sram_file(), inverter=self.inverter(corner), corner=corner)]
            for corner in corners
        } if self.macros else {}
        self.synthesized: dict[str, SynthResult] = {}
        for block in self.blocks:
            self.synthesized[block.module] = self._synthesize(block)

    @cached_property
    def sram(self) -> SramTechnology:
        """The constants of the macros."""
        return load_sram_technology(self.technology.sram_file())

    def inverter(self, corner: Corner) -> Yardstick:
        return self.inverters[condition(corner)]

    def inside(self, block: Block) -> tuple[str, ...]:
        """Modules below a block that stay black boxes: the PEs of a row, memory macros, and everything at the top."""
        if block is GLUE:
            return (*(b.module for b in self.blocks if b.name not in ("pe", "glue")), *self.macros)
        first = f"{block.instances[0]}."
        macros = tuple(memory.module for memory in self.rtl.macros if any(path.startswith(first) for path in memory.instances))
        return macros + (self.pes if block.name == "pe_row" else ())

    def below(self, module: str) -> tuple[str, ...]:
        """The modules, memories apart, that a module is made of, itself first."""
        held = [kind for kind in self.synthesized[module].black_box_counts if kind not in self.macros]
        return (module, *dict.fromkeys(below for kind in held for below in self.below(kind)))

    def _synthesize(self, block: Block) -> SynthResult:
        boxes = self.inside(block)
        fanout = {kind: self.synthesized[kind].input_fanout for kind in boxes if kind not in self.macros}
        return synthesize(
            verilog=(self.rtl.modules, self.rtl.memories), module=block.module, clocks=tuple(block.clocks), technology=self.technology,
            corner=self.technology.nominal_corner(), black_boxes=boxes, box_fanout=fanout, recipe=RECIPES["balanced"],
            clock_gating=self.config.clock_gating, cache=self.cache,
        )  # fmt: skip

    def layout(self, layout: str) -> dict[str, MappedModule]:
        """Every module in a layout."""
        found: dict[str, MappedModule] = {}
        outlines = {name: macro_outline(macro, self) for name, macro in self.macros.items()}
        for block in self.blocks:
            placed = None
            if layout == "placed":
                boxes = {kind: outlines[kind] for kind in self.synthesized[block.module].black_box_counts}
                placed = place_module(
                    self.synthesized[block.module], clocks=tuple(block.clocks), technology=self.technology, corner=self.technology.nominal_corner(),
                    boxes=boxes, cache=self.cache,
                )  # fmt: skip
                outlines[block.module] = placed.outline
            found[block.module] = MappedModule(synthesized=self.synthesized[block.module], placed=placed)
        return found

    def loads(self, mapped: Mapping[str, MappedModule]) -> dict[str, tuple[PortLoads, ...]]:
        """What a driver of each input of each module sees, at each corner."""
        found = {
            block.module: run_step(
                port_loads, cache=self.cache, netlist=mapped[block.module].netlist, places=mapped[block.module].places, module=block.module,
                black_boxes=tuple(self.synthesized[block.module].black_box_counts), liberty=self.liberty, wire=self.technology.wire,
            )
            for block in self.blocks if block is not GLUE
        }  # fmt: skip
        outlines = {name: macro_outline(macro, self).input_load_f for name, macro in self.macros.items()}
        return found | {name: (loads,) * len(self.corners) for name, loads in outlines.items()}

    def time(self, module: str, clocks: Sequence[str], mapped: Mapping[str, MappedModule]) -> tuple[TimingResult, ...]:
        """Timing of a module with all below it, at each corner."""
        parts = self.below(module)
        spef, netlists = None, [mapped[part].synthesized.netlist for part in parts]
        groups = register_groups(self.rtl) if module == TOP else ()
        if mapped[module].placed:
            groups = tuple((plain_pattern(pattern), name) for pattern, name in groups)
            boxes = {part: tuple(self.synthesized[part].black_box_counts) for part in parts}
            verilog, spef = run_step(
                _timing_netlist, cache=self.cache, netlists={part: (mapped[part].netlist, mapped[part].places, boxes[part]) for part in parts}, top=module,
                liberty=self.liberty[0], wire=self.technology.wire,
            )  # fmt: skip
            netlists = [verilog]
        return time_design(
            netlists=netlists, module=module, technology=self.technology, corners=self.corners, clocks=clocks,
            macro_liberty=self.macro_liberty if any(set(self.macros) & set(self.synthesized[part].black_box_counts) for part in parts) else None,
            spef=spef, groups=groups, jobs=TIMED_AT_ONCE, cache=self.cache,
        )  # fmt: skip

    def names(self, module: str, mapped: Mapping[str, MappedModule]) -> dict[str, TimingModule]:
        """What turns the names of a placed design's timing back into its own."""
        library = read_libraries(self.liberty[0])
        return {
            part: TimingModule(netlist=read_netlist(mapped[part].netlist, library, top=part, black_boxes=self.synthesized[part].black_box_counts))
            for part in self.below(module)
        }


def condition(corner: Corner) -> tuple:
    return corner.process, corner.temperature_c, corner.back_bias_v


def macro_outline(macro: SramMacro, design: MappedDesign) -> Outline:
    """A square macro with its ports evenly along the bottom."""
    side_um = area_um2(macro, design.sram) ** 0.5
    widths = {
        "clk": 1, "read_en": 1, "read_addr": macro.address_bits, "read_data": macro.bits, "write_en": 1, "write_addr": macro.address_bits,
        "write_data": macro.bits,
    }  # fmt: skip
    pitch, ports, count = side_um / sum(widths.values()), {}, 0
    for name, width in widths.items():
        ports[name] = tuple((round((count + i + 0.5) * pitch, 3), 0.0) for i in range(width))
        count += width
    pin_f = design.sram.input_inverters.value * design.inverter(design.corners[0]).input_capacitance_f
    loads = {name: (pin_f,) * width for name, width in widths.items() if name != "read_data"}
    return Outline(width_um=side_um, height_um=side_um, ports=ports, input_load_f=loads)


@step(version=1, modules=(netlist_module, placement, tech, timing_netlist))
def _timing_netlist(
    folder: Path, *, netlists: dict[str, tuple[Path, Path, tuple[str, ...]]], top: str, liberty: tuple[Path, ...], wire: WireModel
) -> tuple[Path, Path]:
    """Verilog and SPEF of `top`; `netlists` gives the netlist, the places and the black boxes of each module."""
    library, modules = read_libraries(liberty), {}
    for name, (netlist, places, boxes) in netlists.items():
        mapped = read_netlist(netlist, library, top=name, black_boxes=boxes)
        modules[name] = TimingModule(netlist=mapped, places=read_places(places, mapped))
    write_timing_verilog(modules, folder / "design.v")
    write_spef(modules, top, wire, folder / "design.spef")
    return folder / "design.v", folder / "design.spef"


def register_groups(rtl: Rtl) -> tuple[tuple[str, str], ...]:
    """Patterns of pins of the whole netlist and the group of each, the inner ones first: kinds of blocks, FIFOs by name, banks, accumulators.

    Below an instance of a characterized block the netlist is hierarchical ('/'); everything above is flat, with '.' in its names.
    """
    blocks = characterized(rtl.blocks)
    outer = [path for block in blocks if block.name != "pe" for path in block.instances]

    def pins(path: str) -> str:
        inside = next((p for p in outer if path.startswith(f"{p}.")), None)
        return f"{path}/*" if inside is None else f"{inside}/{path.removeprefix(f'{inside}.')}/*"

    memories = [(pins(path), f"sram_{path.split('.')[-1].split('_')[0]}") for memory in rtl.macros for path in memory.instances]
    pes = [pins(path) for block in blocks if block.name == "pe" for path in block.instances]
    groups = [*memories, *((f"{pattern.removesuffix('*')}acc_*", ACCUMULATORS) for pattern in pes), *((pattern, "pe") for pattern in pes)]
    for block in blocks:
        if block.name != "pe":
            groups += [(pins(path), path.split(".")[-1] if block.name == "two_clock_fifo" else block.name) for path in block.instances]
    return tuple(groups)


@step(version=1)
def _macro_liberty(folder: Path, *, macros: tuple[SramMacro, ...], sram: Path, inverter: Yardstick, corner: Corner) -> Path:
    path = folder / "macros.lib"
    tech_constants = load_sram_technology(sram)
    write_sram_liberty([sram_figures(macro, tech=tech_constants, inverter=inverter, corner=corner) for macro in macros], path)
    return path
