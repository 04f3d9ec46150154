"""The model in words: each law as an equation with its numbers, and the table of its errors."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from fit.laws import VOLTAGE_LAWS
from fit.model import Comparison, ErrorSummary, FittedLaw, FittedModel, Number

_SCALES = ((1, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p"), (1e-15, "f"), (1e-18, "a"))


def quantity_text(value: float, unit: str) -> str:
    """The value with an SI prefix and four digits: 1.234 pJ. Areas and plain numbers take no prefix."""
    if unit in ("um2", "1", "", "cycles") or value == 0:
        return f"{value:.4g}{f' {unit}' if unit not in ('1', '') else ''}"
    scale, prefix = next(((s, p) for s, p in _SCALES if abs(value) >= s), _SCALES[-1])
    return f"{value / scale:.4g} {prefix}{unit}"


def percent_text(value: float | None, digits: int = 1) -> str:
    """The relative value in percent; empty for None or NaN."""
    return "" if value is None or np.isnan(value) else f"{100 * value:.{digits}f} %"


def number_text(number: Number) -> str:
    """The value, its standard error, and its status where it is not simply fitted."""
    error = f" +- {quantity_text(number.standard_error, number.unit)}" if number.standard_error is not None else ""
    status = f" ({number.status.replace('_', ' ')})" if number.status != "fitted" else ""
    return f"{quantity_text(number.value, number.unit)}{error}{status}"


def law_text(name: str, law: FittedLaw) -> str:
    """`block.quantity = (sum) x law(V) / law(reference)` and, below it, each number with its error."""
    def added(numbers: Iterable[Number]) -> str:
        return " + ".join(quantity_text(n.value, n.unit) + (f" x [{n.formula}]" if n.formula != "1" else "") for n in numbers if n.value)

    across = added(law.wires)
    lines = [f"{name}.{law.quantity} = {f'{across} + ' if across else ''}({added(law.terms)})"]
    if law.voltage_law != "constant":
        lines[0] += f" x g / g({law.reference_vdd_v:g} V), g = {VOLTAGE_LAWS[law.voltage_law].formula}"
        lines.append("    " + ", ".join(f"{p.name} = {number_text(p)}" for p in law.voltage_parameters))
    lines += [f"    {t.name} [{t.formula}]: {number_text(t) if t.status not in ('undetermined', 'unused') else t.status}" for t in law.terms]
    lines += [f"    {wire.name} [{wire.formula}], wires at any corner: {number_text(wire)}" for wire in law.wires]
    left_out = f"variants left out: {errors_text(law.left_out)}" if law.left_out else "one variant: none left out"
    return "\n".join(
        [*lines, f"    {law.rows} rows, {law.variants} variants, condition {law.condition:.3g}, residual {100 * law.residual_log_sd:.2g} %, {left_out}"]
    )


def _range_text(valid: tuple[float, float], unit: str) -> str:
    return f"{valid[0]:g} {unit}" if valid[0] == valid[1] else f"{valid[0]:g} to {valid[1]:g} {unit}"


def errors_text(errors: ErrorSummary) -> str:
    """mean / median / 90th percentile / worst in percent."""
    return f"mean {100 * errors.mean:.2f} %, median {100 * errors.median:.2f} %, p90 {100 * errors.p90:.2f} %, worst {100 * errors.worst:.2f} %"


def explain(model: FittedModel) -> str:
    """Every law of the model as an equation with its numbers."""
    provisional = f"; provisional: {', '.join(model.provisional)}" if model.provisional else ""
    parts = [
        f"{model.technology}, {model.process}, coefficients at {model.reference_vdd_v:g} V, {model.temperature_c:g} C, back bias {model.back_bias_v:g} V; "
        f"measured {_range_text(model.temperature_range_c, 'C')}, back bias {_range_text(model.back_bias_range_v, 'V')}, {model.voltage_range_v[0]:g} to "
        f"{model.voltage_range_v[1]:g} V (memories {model.sram_voltage_range_v[0]:g} to {model.sram_voltage_range_v[1]:g} V){provisional}"
    ]
    comparison = ", ".join(f"{name} {errors_text(errors)}" for name, errors in model.delay_law.left_out_voltages.items())
    parts.append(f"delay law: {model.delay_law.chosen}; at voltages left out: {comparison or 'too few voltages to compare'}")
    for name, block in model.blocks.items():
        ranges = ", ".join(f"{key} {low:g} to {high:g}" for key, (low, high) in block.ranges.items())
        parts.append(f"{name} ({block.domain} domain{', provisional' if block.provisional else ''}): {ranges or 'no parameters'}")
        parts += [law_text(name, law) for law in block.laws.values()]
        if block.absent:
            parts.append(f"    zero in every row: {', '.join(block.absent)}")
    for name, path in model.paths.items():
        memory = f", on top of the access time of {path.memory}" if path.memory else ""
        parts.append(f"path {name}: at most {100 * path.most:.0f} % of a design's period{memory}")
        parts.append(law_text(name, path.law))
    if model.skew is not None:
        parts.append("skew of the core's clock, on top of the longest path")
        parts.append(law_text("clock", model.skew))
    if model.cycles is not None:
        parts.append("cycles of a layer (see fit/cycles.py):\n" + "\n".join(f"    {n.name} [{n.formula}]: {number_text(n)}" for n in model.cycles.parameters))
        if model.cycles.left_out:
            parts.append(f"    layers left out: {errors_text(model.cycles.left_out)}")
    return "\n\n".join([*parts, determined_text(model), validation_table(model.validation)])


def determined_text(model: FittedModel) -> str:
    """How many parameters of the corner laws and how many structural coefficients the measured rows determine; the others by what they are instead."""
    laws = [law for block in model.blocks.values() for law in block.laws.values()] + [path.law for path in model.paths.values()]
    laws += [model.skew] if model.skew is not None else []
    parts = []
    for what, numbers in (
        ("parameters of corner laws", [p for law in laws if law.voltage_law != "constant" for p in law.voltage_parameters]),
        ("structural coefficients", [t for law in laws for t in (*law.terms, *law.wires)]),
    ):  # fmt: skip
        count = Counter(number.status for number in numbers)
        others = ", ".join(f"{count[status]} {status.replace('_', ' ')}" for status in sorted(count) if status != "fitted")
        parts.append(f"{count['fitted']} of {len(numbers)} {what} determined{f' ({others})' if others else ''}")
    return "; ".join(parts)


def validation_table(comparisons: tuple[Comparison, ...]) -> str:
    """One line a quantity: errors of what was left out, the ideal model's beside them."""
    if not comparisons:
        return "validation: fewer than two whole designs measured, none left out"
    columns = ("mean", 7), ("median", 7), ("p90", 7), ("worst", 7), ("rank", 6), ("in 90 %", 8), ("ideal mean", 11), ("ideal worst", 12)
    lines = [" ".join([f"{'left out':<16} {'quantity':<24}", *(f"{title:>{width}}" for title, width in columns)])]
    for c in comparisons:
        figures = " ".join(f"{100 * value:6.2f}%" for value in (c.model.mean, c.model.median, c.model.p90, c.model.worst))
        rank = f"{c.rank_correlation:6.3f}" if c.rank_correlation is not None else "     -"
        covered = f"{100 * c.interval_coverage:7.0f}%" if c.interval_coverage is not None else "       -"
        ideal = f"{100 * c.ideal.mean:10.1f}% {100 * c.ideal.worst:11.1f}%" if c.ideal else f"{'-':>11} {'-':>12}"
        outside = f"  ({c.outside_range} of {c.model.rows} rows extrapolated)" if c.outside_range else ""
        lines.append(f"{c.split:<16} {c.quantity:<24} {figures} {rank} {covered} {ideal}{outside}")
    return "\n".join(lines)
