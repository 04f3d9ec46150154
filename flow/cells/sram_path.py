"""The critical path of a memory array in ngspice: one row's decoder and word line, one column's bit lines, cell and sense amplifier.

What a macro of any size needs follows from few such paths (`flow.sram`). A read is simulated twice: first to find when the bit
lines have split far enough, then with the sense amplifier fired at that time, which also closes the word line, and the bit lines restored.
The other rows of the column are one cell that is switched off, multiplied; the other columns of the row are the load of the word
line. Charges are drawn from three supplies: of the row, of a column and of a sense amplifier with its output.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from flow.cells.netlist import Cell, ProcessShift
from flow.cells.spice import LOOSE, TIGHT, printed_values
from flow.corner import Corner
from flow.tools import find_tool, run_tool
from hw.errors import ToolError
from hw.settings import Settings

Positive = Annotated[float, Field(gt=0)]
Ports = Literal[1, 2]
PATH_CELLS = ("BUF_X4", "NAND3_X1", "NAND2_X1", "INV_X1", "INV_X4", "INV_X8")


class BitCell(Settings):
    """Transistor widths of the cell and its neighbours, its size, and the wires over it. A cell with two ports reads through two more
    transistors in series, from a bit line of its own."""

    source: str
    pull_down_um: Positive
    access_um: Positive
    pull_up_um: Positive
    read_um: Positive
    precharge_um: Positive
    column_switch_um: Positive
    sense_um: Positive
    write_driver_um: Positive
    width_um: Positive
    height_um: Positive
    wire_f_per_um: Positive
    word_line_ohm_per_um: Positive
    threshold_v: Annotated[float, Field(ge=0, le=0.3)]
    """What the thresholds of the cell's own transistors are above those of the logic."""
    split_v: Positive
    """Difference of the bit lines at which the sense amplifier fires; a single bit line is compared with a reference and falls twice as far."""


@dataclass(frozen=True, kw_only=True)
class ArrayPath:
    """One simulated path. Charges in C an access: of the row, of one column that is read, of one that is written, of one sense amplifier."""

    rows: int
    columns: int
    access_s: float
    cycle_s: float
    write_s: float
    row_c: float
    column_c: float
    written_c: float
    sense_c: float
    cell_leakage_a: float


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is common to the decks of one corner."""

    cells: dict[str, Cell]
    cards: Path
    process: ProcessShift
    corner: Corner
    bit_cell: BitCell
    ports: Ports
    fo4_s: float
    folder: Path


def simulate_path(setup: Setup, *, rows: int, columns: int) -> ArrayPath:
    """Read, write and leakage of an array of `rows` x `columns`; raises `ToolError` where the cell does not work."""
    vdd, fo4 = setup.corner.vdd_v, setup.fo4_s
    name = f"{setup.ports}p_{rows}x{columns}"
    split_v = setup.bit_cell.split_v * setup.ports
    split_name = "split" if setup.ports == 1 else "fall"
    begin = 4 * fo4
    for reach in (60, 240, 1000):
        found = _run(
            setup, rows, columns, f"{name}_split{reach}", window_s=reach * fo4, closes_s=reach * fo4, fires_s=None, restores_s=None,
            measures={"word": f"when v(wl)={vdd / 2:.6g} rise=1", "split": f"when v({split_name})={split_v:.6g} rise=1"},
        )  # fmt: skip
        if found.keys() >= {"word", "split"}:
            break
    else:
        raise ToolError(f"bit lines must split by {split_v:g} V within {reach} FO4 delays, not later ({name} at {setup.corner}, {setup.folder})")
    word_s, fires = found["word"] - begin, found["split"]
    # The amplifier's signal also closes the word line, which follows `word_s` later.
    closes = max(begin + 6 * fo4, fires)
    restores = max(fires, closes + word_s) + 3 * fo4
    end = restores + max(40 * fo4, 0.7 * (fires - begin))
    read = _run(
        setup, rows, columns, f"{name}_read", window_s=end, closes_s=closes, fires_s=fires, restores_s=restores,
        measures={
            "out": f"when v(out)={vdd / 2:.6g} rise=1", "back": f"when v(bl)={0.97 * vdd:.6g} rise=last",
            "row": "integ i(vrow)", "column": "integ i(vcolumn)", "sense": "integ i(vsense)",
        },
    )  # fmt: skip
    _need(read, ("out", "back", "row", "column", "sense"), setup, f"{name}_read")
    write = _run(
        setup, rows, columns, f"{name}_write", window_s=end, closes_s=max(closes, begin + 12 * fo4), fires_s=None, restores_s=restores + 12 * fo4, writes=True,
        measures={"flip": f"when v(qb)={0.9 * vdd:.6g} rise=1", "written": "integ i(vcolumn)", "end": f"find v(qb) at={end * 0.999:.6g}"},
    )  # fmt: skip
    _need(write, ("flip", "written", "end"), setup, f"{name}_write")
    if write["end"] < 0.9 * vdd:
        raise ToolError(f"a write must turn the cell, not leave it ({name} at {setup.corner}, {setup.folder})")
    leak = _leakage(setup)
    return ArrayPath(
        rows=rows, columns=columns, access_s=read["out"] - begin, cycle_s=read["back"] - begin, write_s=write["flip"] - begin,
        row_c=-read["row"], column_c=-read["column"], written_c=-write["written"], sense_c=-read["sense"], cell_leakage_a=leak,
    )  # fmt: skip


def _need(found: dict[str, float], names: tuple[str, ...], setup: Setup, label: str) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise ToolError(f"{', '.join(missing)} of a memory path must be measurable, not missing ({setup.folder / label} at {setup.corner})")


def _mos(setup: Setup, name: str, kind: str, drain: str, gate: str, source: str, width_um: float, *, times: int = 1, threshold_v: float = 0.0) -> str:
    cell = setup.cells["INV_X1"]
    g, body = cell.geometry, {"n": "vbn", "p": "vbp"}[kind]
    model = cell.models.n_model if kind == "n" else cell.models.p_model
    area, edge = width_um * g.diffusion_um, 2 * (width_um + g.diffusion_um)
    shift = f"{{{kind}_threshold{'+' if kind == 'n' else '-'}{threshold_v:g}}}"
    return (
        f"M{name} {drain} {gate} {source} {body} {model} w={width_um:.4g}u l={g.length_um:.4g}u ad={area:.4g}p as={area:.4g}p "
        f"pd={edge:.4g}u ps={edge:.4g}u m={times} delvto={shift} mulu0={{{kind}_mobility}}"
    )


def _bit_cell(setup: Setup, tag: str, word: str, read_word: str, *, times: int = 1) -> list[str]:
    """Transistors of `times` cells between the bit lines; q is the bit."""
    b = setup.bit_cell
    q, qb = f"q{tag}", f"qb{tag}"
    made = [
        ("da", "n", q, qb, "0", b.pull_down_um), ("db", "n", qb, q, "0", b.pull_down_um),
        ("ua", "p", q, qb, "cell", b.pull_up_um), ("ub", "p", qb, q, "cell", b.pull_up_um),
        ("aa", "n", "wbl" if setup.ports == 2 else "bl", word, q, b.access_um),
        ("ab", "n", "wblb" if setup.ports == 2 else "blb", word, qb, b.access_um),
    ]  # fmt: skip
    if setup.ports == 2:
        made += [("ra", "n", "bl", read_word, f"r{tag}", b.read_um), ("rb", "n", f"r{tag}", qb, "0", b.read_um)]
    return [_mos(setup, f"{name}{tag}", kind, d, g, s, w, times=times, threshold_v=b.threshold_v) for name, kind, d, g, s, w in made]


def _deck(
    setup: Setup, rows: int, columns: int, closes_s: float, fires_s: float | None, restores_s: float | None, window_s: float, writes: bool, options: str
) -> list[str]:
    vdd, fo4, b = setup.corner.vdd_v, setup.fo4_s, setup.bit_cell
    wire_row, wire_column = columns * b.width_um, rows * b.height_um
    begin, edge = 4 * fo4, fo4
    fire = window_s if fires_s is None else fires_s
    restore = window_s if restores_s is None else restores_s

    def step(name: str, first: float, times: tuple[float, ...]) -> str:
        level, course = first, f"0 {first * vdd:.6g}"
        for at in times:
            course += f" {at:.6g} {level * vdd:.6g} {at + edge:.6g} {(1 - level) * vdd:.6g}"
            level = 1 - level
        return f"V{name} {name} 0 pwl({course})"

    selected, idle = ("wl", "0") if not writes or setup.ports == 1 else ("0", "wl")
    word, read_word = (idle, selected) if setup.ports == 2 else (selected, "0")
    lines = [
        f"* memory path of {rows} rows and {columns} columns with {setup.ports} ports at {setup.corner}",
        f".include {setup.cards.absolute()}",
        setup.process.parameters(),
        f".options {options}",
        f".temp {setup.corner.temperature_c:g}",
        *(setup.cells[name].subcircuit() for name in PATH_CELLS),
        *(f"V{name} {name} 0 {vdd:.6g}" for name in ("row", "column", "sense", "cell")),
        f"Vvbn vbn 0 {setup.corner.back_bias_v:.6g}",
        f"Vvbp vbp 0 {-setup.corner.back_bias_v:.6g}",
        step("clk", 0, (begin, closes_s)),
        # Clock, predecoder, the predecoded line to all rows, the row's gate and driver.
        "Xclk clk c row vbn vbp BUF_X4",
        "Xpre c row row p row vbn vbp NAND3_X1",
        "Xprei p pl row vbn vbp INV_X4",
        f"Cpl pl 0 {rows / 8 * 1.0e-15 + wire_column * b.wire_f_per_um:.6g}",
        "Xrow pl row r0 row vbn vbp NAND2_X1",
        "Xdrv0 r0 r1 row vbn vbp INV_X1",
        "Xdrv1 r1 r2 row vbn vbp INV_X4",
        *(f"Xdrv2_{i} r2 w0 row vbn vbp INV_X8" for i in range(max(1, round(columns / 64)))),
    ]
    # The word line in four pieces, each with its share of wire and of the columns' access transistors.
    gates = [("access_um", 2)] if setup.ports == 1 or writes else [("read_um", 1)]
    for i in range(4):
        near, far = f"w{i}", "wl" if i == 3 else f"w{i + 1}"
        lines += [f"Rw{i} {near} {far} {max(0.1, wire_row * b.word_line_ohm_per_um / 4):.6g}", f"Cw{i} {far} 0 {wire_row * b.wire_f_per_um / 4:.6g}"]
        for kind, each in gates:
            lines.append(_mos(setup, f"w{i}", "n", "0", far, "0", getattr(b, kind), times=max(1, round(each * columns / 4)), threshold_v=b.threshold_v))
    lines += [f"Cbl bl 0 {wire_column * b.wire_f_per_um:.6g}", f"Cblb blb 0 {wire_column * b.wire_f_per_um:.6g}"]
    lines += _bit_cell(setup, "", word, read_word)
    if rows > 1:
        lines += _bit_cell(setup, "off", "0", "0", times=rows - 1)
    if setup.ports == 2:
        lines += [f"Cwbl wbl 0 {wire_column * b.wire_f_per_um:.6g}", f"Cwblb wblb 0 {wire_column * b.wire_f_per_um:.6g}"]
    # Precharge, driven within the column.
    lines += [step("rest", 0, (begin, restore)), "Xpreb rest preb column vbn vbp INV_X1", "Xpreg preb pre column vbn vbp INV_X1"]
    pairs = (("bl", "blb"), ("wbl", "wblb")) if setup.ports == 2 else (("bl", "blb"),)
    for i, (left, right) in enumerate(pairs):
        lines += [_mos(setup, f"pa{i}", "p", left, "pre", "column", b.precharge_um), _mos(setup, f"pb{i}", "p", right, "pre", "column", b.precharge_um)]
        lines += [_mos(setup, f"pe{i}", "p", left, "pre", right, b.precharge_um)]
    # Column switch and sense amplifier; a single bit line is sensed against a reference that falls half as far.
    lines += [step("iso", 0, (fire,)), step("fire", 0, (fire,))]
    against = "blb" if setup.ports == 1 else "ref"
    if setup.ports == 2:
        lines += [f"Vref ref 0 {vdd - b.split_v:.6g}"]
    lines += [_mos(setup, "ma", "p", "bl", "iso", "sa", b.column_switch_um), _mos(setup, "mb", "p", against, "iso", "sb", b.column_switch_um)]
    for kind, rail, names in (("n", "tail", ("na", "nb")), ("p", "sense", ("ya", "yb"))):
        lines += [_mos(setup, names[0], kind, "sa", "sb", rail, b.sense_um), _mos(setup, names[1], kind, "sb", "sa", rail, b.sense_um)]
    lines += [
        _mos(setup, "tail", "n", "tail", "fire", "0", 2 * b.sense_um),
        "Xout0 sa o0 sense vbn vbp INV_X1",
        "Xout1 sb o1 sense vbn vbp INV_X1",
        "Xout o0 o2 sense vbn vbp INV_X4",
        "Xout2 o2 out sense vbn vbp INV_X4",
        "Cout out 0 5f",
        "Bsplit split 0 v=v(blb)-v(bl)",
        f"Bfall fall 0 v={vdd:.6g}-v(bl)",
    ]
    if writes:
        # The cell holds a zero at q and one at qb is to be turned: q high is driven low through the other bit line.
        low = "wbl" if setup.ports == 2 else "bl"
        lines += [step("wen", 0, (begin, restore - 2 * fo4)), _mos(setup, "wd", "n", low, "wen", "0", b.write_driver_um)]
    bits = {"q": int(writes), "qb": 1 - int(writes), "qoff": 1, "qboff": 0}
    if rows == 1:
        bits = {name: bit for name, bit in bits.items() if not name.endswith("off")}
    high = ("bl", "blb", "sa", "sb", *(("wbl", "wblb") if setup.ports == 2 else ()))
    for name, value in {**bits, **dict.fromkeys(high, 1)}.items():
        lines += [f".nodeset v({name})={value * vdd:.6g}", f".ic v({name})={value * vdd:.6g}"]
    return lines


def _run(
    setup: Setup, rows: int, columns: int, label: str, *, window_s: float, closes_s: float, fires_s: float | None, restores_s: float | None,
    measures: dict[str, str], writes: bool = False,
) -> dict[str, float]:  # fmt: skip
    found: dict[str, float] = {}
    # The time step can become too small with the tighter options.
    for attempt, options in enumerate((TIGHT, LOOSE)):
        lines = _deck(setup, rows, columns, closes_s, fires_s, restores_s, window_s, writes, options)
        lines += [".control", "set num_threads=1", "echo POINT 0", f"tran {window_s / 400:.6g} {window_s:.6g} 0 {window_s / 400:.6g}"]
        lines += [f"meas tran {name} {what}" for name, what in measures.items()]
        deck = setup.folder / f"{label}_{attempt}.sp"
        deck.write_text("\n".join([*lines, "quit", ".endc", ".end"]) + "\n")
        output = run_tool([find_tool("ngspice"), "-b", deck.name], cwd=setup.folder, timeout_s=300, step=deck.stem).output
        found = printed_values(output).get(0, {})
        if "aborted" not in output:
            break
    return found


def _leakage(setup: Setup) -> float:
    """Current of one cell that holds a bit, its bit lines high, in A."""
    vdd = setup.corner.vdd_v
    lines = [
        f"* leakage of a memory cell with {setup.ports} ports at {setup.corner}",
        f".include {setup.cards.absolute()}",
        setup.process.parameters(),
        f".options {TIGHT}",
        f".temp {setup.corner.temperature_c:g}",
        f"Vvbn vbn 0 {setup.corner.back_bias_v:.6g}",
        f"Vvbp vbp 0 {-setup.corner.back_bias_v:.6g}",
        *(f"V{name} {name} 0 {vdd:.6g}" for name in ("cell", "bl", "blb", *(("wbl", "wblb") if setup.ports == 2 else ()))),
        *_bit_cell(setup, "", "0", "0"), f".nodeset v(q)=0 v(qb)={vdd:.6g}",
        ".control", "echo POINT 0", "op", "let leak = -(i(vcell)+i(vbl)+i(vblb)" + ("+i(vwbl)+i(vwblb))" if setup.ports == 2 else ")"), "print leak",
    ]  # fmt: skip
    deck = setup.folder / f"leakage{setup.ports}.sp"
    deck.write_text("\n".join([*lines, "quit", ".endc", ".end"]) + "\n")
    found = printed_values(run_tool([find_tool("ngspice"), "-b", deck.name], cwd=setup.folder, timeout_s=60, step=deck.stem).output).get(0, {})
    _need(found, ("leak",), setup, deck.stem)
    return found["leak"]
