"""The page that holds the library against published silicon: `python -m flow.validation` writes docs/technology.md.

Each row gives the published figure, ours, their ratio and the source; a figure outside the published range is marked as a miss.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pandas as pd

from flow.cells.devices import DeviceFigures, device_figures
from flow.cells.fo4 import measure_fo4
from flow.cells.netlist import CellLibrary, ProcessShift, all_cells, load_cell_library
from flow.cells.variation import local_variation
from flow.corner import Corner
from flow.liberty import fo4_s, read_library
from flow.sram import SramTechnology, access_energy_j, area_um2, load_sram_technology, sram_figures, yardstick
from flow.sram_macro import SramMacro
from flow.tech import LibraryCorner, Technology, load_technology
from hw.settings import read_yaml

TECH_DIR = Path(__file__).parent / "tech" / "fdsoi28p"
PAGE = Path(__file__).parents[1] / "docs" / "technology.md"
_THERMAL_V, _SLOPE = 0.0257, 1.2

_UNITS = {
    "ion_a": ("Ion, uA/um", 1e6), "ioff_a": ("Ioff, nA/um", 1e9), "vt_lin_v": ("threshold, linear, V", 1), "swing_v_per_decade": ("swing, mV/decade", 1e3),
    "dibl_v_per_v": ("drain effect, mV/V", 1e3), "body_v_per_v": ("body factor, mV/V", 1e3), "gate_f": ("gate capacitance, mean over the swing, fF/um", 1e15),
}  # fmt: skip


def _row(what: str, low: float, high: float, ours: float, source: str) -> str:
    """A line of a table: published range, ours, ratio to the nearer end, and whether it is met."""
    nearest = min(max(ours, low), high)
    published = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    verdict = "met" if low <= ours <= high else "miss"
    if low == high:
        verdict = "within 10 %" if abs(ours / low - 1) <= 0.1 else "miss"
    return f"| {what} | {published} | {ours:.4g} | {ours / nearest:.2f} | {verdict} | {source} |"


_HEAD = ["| quantity | published | ours | ratio | | source |", "| --- | --- | --- | --- | --- | --- |"]


def frequency_law(vdd_v: float, threshold_v: float) -> float:
    """Frequency, in arbitrary units, of the law that published chips are fitted with."""
    return math.log1p(math.exp((vdd_v - threshold_v) / (2 * _SLOPE * _THERMAL_V))) ** 2 / vdd_v


def device_rows(cells: CellLibrary, published: dict, folder: Path) -> Iterator[str]:
    cards = TECH_DIR / cells.transistors.cards
    rvt = _rvt()
    for flavour, shift, mobility in (("lvt", 0.0, 1.0), ("rvt", rvt.threshold_v, rvt.mobility)):
        for kind, model in (("n", cells.transistors.n_model), ("p", cells.transistors.p_model)):
            found: DeviceFigures = device_figures(
                cards, model=model, kind=kind, length_um=cells.geometry.length_um, folder=folder, shift_v=shift, mobility=mobility
            )
            for name, given in published["devices"][flavour].items():
                label, unit = _UNITS[name]
                low, high = (x * unit for x in given[kind])
                yield _row(f"{flavour.upper()} {kind}: {label}", low, high, getattr(found, name) * unit, given["source"])


def _rvt() -> ProcessShift:
    return ProcessShift(**_mapping("flavours.yaml")["rvt"])


def _mapping(name: str) -> dict:
    found = read_yaml(TECH_DIR / name)
    assert isinstance(found, dict), name
    return found


def variation_rows(cells: CellLibrary, folder: Path) -> Iterator[str]:
    """One standard deviation of local variation against supply, and what three of them add to paths."""
    yield "| supply V | one gate, one sigma | 3 sigma, 10 gates | 3 sigma, 40 gates | slow process | fast process |"
    yield "| --- | --- | --- | --- | --- | --- |"
    inverter, cards = next(c for c in all_cells(cells) if c.name == "INV_X1"), TECH_DIR / cells.transistors.cards
    for vdd_v in (0.5, 0.6, 1.0):
        corner = Corner(process="tt", vdd_v=vdd_v, temperature_c=25.0, back_bias_v=0.0, sram_vdd_v=vdd_v)
        found = local_variation(cells, corner, cards=cards, folder=folder)
        delay = {
            name: measure_fo4(inverter, cards, process, corner, folder, load_f=4 * cells.characterization.load_unit_f).delay_s
            for name, process in cells.processes.items()
        }
        ten, forty = (100 * (found.derate(gates=n) - 1) for n in (10, 40))
        slow, fast = (100 * (delay[name] / delay["tt"] - 1) for name in ("ss", "ff"))
        yield f"| {vdd_v:g} | {100 * found.sigma:.1f} % | +{ten:.1f} % | +{forty:.1f} % | {slow:+.0f} % | {fast:+.0f} % |"


def shape_rows(cells: CellLibrary, published: dict, folder: Path) -> Iterator[str]:
    inverter = next(c for c in all_cells(cells) if c.name == "INV_X1")
    typical, rvt = cells.processes["tt"], _rvt()
    for shape in published["shapes"]:
        process = rvt if shape["flavour"] == "rvt" else typical

        def delay_s(vdd_v: float, *, shape: dict = shape, process: ProcessShift = process) -> float:
            corner = Corner(process="tt", vdd_v=vdd_v, temperature_c=25.0, back_bias_v=shape["back_bias_v"], sram_vdd_v=vdd_v)
            load_f = 4 * cells.characterization.load_unit_f
            return measure_fo4(inverter, TECH_DIR / cells.transistors.cards, process, corner, folder, load_f=load_f).delay_s

        ours = delay_s(shape["low_v"]) / delay_s(shape["high_v"])
        if "ratio" in shape:
            low = high = shape["ratio"]
        else:
            low, high = sorted(frequency_law(shape["high_v"], t) / frequency_law(shape["low_v"], t) for t in shape["threshold_v"])
        yield _row(f"{shape['what']}: f({shape['high_v']:g} V) / f({shape['low_v']:g} V)", low, high, ours, shape["source"])


def library_rows(technology: Technology) -> Iterator[str]:
    nominal = read_library(_at(technology, 1.0).liberty[0])
    area = {name: nominal.cells[f"{name}_X1"].area_um2 for name in ("NAND2", "XOR2", "DFF")}
    yield _row("FO4 at 1.0 V without wire, ps", 13, 15, fo4_s(nominal, "INV_X1") * 1e12, "memory, with wire")
    yield _row("NAND2 area, 12 tracks, um2", 0.49, 0.49, area["NAND2"], "memory")
    yield _row("XOR2 area over NAND2", 2.4, 2.4, area["XOR2"] / area["NAND2"], "fit in KULeuven-MICAS/zigzag-imc")
    yield _row("flop area over NAND2", 6, 6, area["DFF"] / area["NAND2"], "fit in KULeuven-MICAS/zigzag-imc")
    capacitance = nominal.cells["NAND2_X1"].pins["A"].capacitance_f
    yield _row("NAND2 input capacitance, fF", 0.7, 0.7, capacitance * 1e15, "fit in KULeuven-MICAS/zigzag-imc")
    hot = next((c for c in technology.known_corners if (c.process, c.vdd_v, c.temperature_c, c.back_bias_v) == ("tt", 0.8, 125.0, 0.0)), None)
    if hot is not None:
        cool_w, hot_w = (read_library(c.liberty[0]).cells["INV_X1"].leakage_w for c in (_at(technology, 0.8), hot))
        yield _row("temperature that doubles leakage at 0.8 V, C", 20, 25, 100 / math.log2(hot_w / cool_w), "memory")


def _at(technology: Technology, vdd_v: float) -> LibraryCorner:
    return next(c for c in technology.known_corners if (c.process, c.vdd_v, c.temperature_c, c.back_bias_v) == ("tt", vdd_v, 25.0, 0.0))


def sram_rows(technology: Technology, sram: SramTechnology) -> Iterator[str]:
    units = {"read_energy_j": ("read energy, pJ", 1e12), "write_energy_j": ("write energy, pJ", 1e12)}
    units |= {"area_um2": ("area, um2", 1), "access_s": ("access, ps", 1e12)}
    for p in sram.points:
        macro = SramMacro(words=p.words, bits=p.bits, ports=p.ports)
        corner = Corner(process="tt", vdd_v=p.vdd_v, temperature_c=25.0, back_bias_v=0.0, sram_vdd_v=p.vdd_v)
        if p.quantity == "area_um2":
            ours = area_um2(macro, sram)
        elif p.quantity == "access_s":
            ours = sram_figures(macro, tech=sram, inverter=yardstick(technology, corner), corner=corner).access_s
        else:
            ours = access_energy_j(macro, sram, corner)[p.quantity == "write_energy_j"]
        label, unit = units[p.quantity]
        held = "held out" if p.held_out else "fitted"
        yield _row(f"{p.words} x {p.bits}, {p.ports} port(s), {p.vdd_v:g} V: {label} ({held})", p.value * unit, p.value * unit, ours * unit, p.source)


def voltage_rows(technology: Technology) -> Iterator[str]:
    """FO4, leakage and energy of an inverter at every characterized corner."""
    yield "| process | C | bias V | supply V | FO4 ps | INV_X1 leakage nW | INV_X1 rise + fall, fJ |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for c in sorted(technology.known_corners, key=lambda c: (c.process != "tt", c.process, c.temperature_c, c.back_bias_v, c.vdd_v)):
        library = read_library(c.liberty[0])
        cell = library.cells["INV_X1"]
        power = cell.pins["Y"].internal_power[0]
        assert power.rise_j is not None and power.fall_j is not None  # the library is our own
        energy = sum(float(t.values[2, 0]) for t in (power.rise_j, power.fall_j))
        yield (
            f"| {c.process} | {c.temperature_c:g} | {c.back_bias_v:+g} | {c.vdd_v:g} | {fo4_s(library, 'INV_X1') * 1e12:.2f} | {cell.leakage_w * 1e9:.3g} "
            f"| {energy * 1e15:.3f} |"
        )


def page(technology: Technology, cells: CellLibrary, folder: Path) -> str:
    """The whole page as Markdown."""
    published = _mapping("published.yaml")
    sram = load_sram_technology(TECH_DIR / "sram.yaml")
    accuracy = pd.read_csv(TECH_DIR / "accuracy.csv")
    errors = [f"| {name} | {100 * accuracy[f'{name}_error'].abs().mean():.2f} % | {100 * accuracy[f'{name}_error'].abs().max():.1f} % |"
              for name in ("delay", "transition", "energy")]  # fmt: skip
    intro = """# The library `fdsoi28p` against published silicon

Generated by `python -m flow.validation`. **Predictive**: own transistor cards fitted to published figures, plausible, not
silicon-verified, no foundry data. Ratios are ours over the published figure, or over the nearer end of its range. Published figures
disagree among themselves: the Ioff of the device class belongs to a lower threshold than the frequencies of published chips show;
the cards follow the chips, so they leak less. [The same accelerator](comparison.md) in this library and in open PDKs is a page of its own."""
    tables: list[tuple[str, Sequence[str]]] = [
        ("Transistors at 1 V, 25 C", [*_HEAD, *device_rows(cells, published, folder)]),
        ("Frequency against supply", [*_HEAD, *shape_rows(cells, published, folder)]),
        ("Variation of delay (FO4)", list(variation_rows(cells, folder))),
        ("Cells", [*_HEAD, *library_rows(technology)]),
        ("Memories", [*_HEAD, *sram_rows(technology, sram)]),
        (
            "Tables against direct simulation",
            [
                f"{len(accuracy)} random points between those of the tables (`python -m flow.cells.accuracy`; `flow/tech/fdsoi28p/accuracy.csv`).",
                "",
                "| | mean | worst |", "| --- | --- | --- |", *errors,
            ],
        ),
        ("Characterized corners", list(voltage_rows(technology))),
    ]  # fmt: skip
    return "\n\n".join([intro, *(f"## {title}\n\n" + "\n".join(rows) for title, rows in tables)]) + "\n"


@click.command()
def main() -> None:
    """Write docs/technology.md."""
    with tempfile.TemporaryDirectory() as folder:
        text = page(load_technology("fdsoi28p"), load_cell_library(TECH_DIR), Path(folder))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
