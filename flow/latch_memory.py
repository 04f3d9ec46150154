"""Memories made of latches, for small buffers: they work wherever the logic does, on its own supply.

Each word is a row of latches behind a clock gate; reading is a tree of two-input gates a bit. The figures are those of the library's
own cells at the corner, added up, so they carry neither placement nor wires beyond one fan-out each.
"""

import math
from dataclasses import dataclass

import numpy as np

from flow.corner import Corner
from flow.liberty import Cell, Library
from flow.liberty import fo4_s as library_fo4_s
from flow.sram_macro import SramMacro
from flow.tech import Technology, wire_capacitance_f
from hw.errors import ConfigError

_LATCH, _READ = "DLAT_X1", "NAND2_X1"
_LOGIC_DEPTH_FO4 = 1.5
"""Delay of one level of decoder or read tree, in FO4: a two-input gate with its share of fan-out."""


@dataclass(frozen=True, kw_only=True)
class LatchFigures:
    """A latch memory at a corner, as `flow.sram.SramFigures`; energies are for half of the bits changing."""

    macro: SramMacro
    corner: Corner
    access_s: float
    setup_s: float
    cycle_s: float
    read_energy_j: float
    write_energy_j: float
    leakage_w: float
    area_um2: float


def latch_figures(macro: SramMacro, *, library: Library, technology: Technology, corner: Corner) -> LatchFigures:
    """The figures of `macro` as latches, from `library`, which must be that of `technology` at `corner`."""
    gate = technology.cells.clock_gate
    missing = [str(name) for name in (_LATCH, _READ, gate) if name not in library.cells]
    if missing or gate is None:
        raise ConfigError(f"a latch memory needs the cells {_LATCH}, {_READ} and a clock gate, not a library without {missing[0]} ({library.source})")
    latch, read, gating = library.cells[_LATCH], library.cells[_READ], library.cells[gate]
    fo4_s = library_fo4_s(library, technology.cells.inverter)
    cells, levels = macro.words * macro.bits, math.ceil(math.log2(macro.words))
    # Each latch has one gate to read it and its share of the tree: as many gates again.
    reads, decoders = 2 * cells, 2 * macro.words * macro.ports
    net_f = wire_capacitance_f(1, technology)
    vdd_v = corner.vdd_v

    def switched_j(cell: Cell, pin: str) -> float:
        """Energy of a rise and a fall of `pin` and of the net that drives it."""
        return (cell.pins[pin].capacitance_f + net_f) * vdd_v**2 + _internal_j(cell, pin)

    moving = 0.5 * macro.bits
    gate_pin = next(name for name, pin in latch.pins.items() if pin.direction == "input" and name == latch.sequential[0].enable)
    data_pin = latch.sequential[0].data_in
    assert data_pin is not None, f"{_LATCH} is a latch"
    clock_pin = next(name for name, pin in gating.pins.items() if pin.clock_gate_role == "clock")
    # A write clocks one word, changes half of its latches and drives the data lines of all words.
    write_j = macro.bits * switched_j(latch, gate_pin) + moving * (macro.words * switched_j(latch, data_pin) / 2 + _internal_j(latch, "Q"))
    write_j += macro.words * switched_j(gating, clock_pin)
    # A read switches the select of two words and half of the bits through the tree.
    read_j = 2 * macro.bits * switched_j(read, "A") + moving * levels * switched_j(read, "B") / 2
    access_s = (levels * 2 * _LOGIC_DEPTH_FO4 + 3) * fo4_s
    return LatchFigures(
        macro=macro, corner=corner, access_s=access_s, setup_s=(levels * _LOGIC_DEPTH_FO4 + 3) * fo4_s, cycle_s=access_s, read_energy_j=read_j,
        write_energy_j=write_j, leakage_w=cells * latch.leakage_w + (reads + decoders) * read.leakage_w + macro.words * gating.leakage_w,
        area_um2=cells * latch.area_um2 + (reads + decoders) * read.area_um2 + macro.words * gating.area_um2,
    )  # fmt: skip


def _internal_j(cell: Cell, pin: str) -> float:
    """Energy inside `cell` of a rise and a fall of `pin`: the mean over the states, at the middle of the tables."""
    groups = cell.pins[pin].internal_power
    edges = [np.mean([np.median(getattr(g, edge).values) for g in groups if getattr(g, edge) is not None] or [0.0]) for edge in ("rise_j", "fall_j")]
    return float(sum(edges))
