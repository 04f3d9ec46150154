"""Liberty at operating points between the characterized corners.

Every number of a library is interpolated by itself, at the same place of the same table: in our own libraries the axes of the tables
scale with the corner, so that the same place means the same multiple of the FO4 delay. Positive numbers are interpolated as
logarithms; a table with other numbers in it is divided by its own mean size first. Over the supply that is a cubic spline, over
temperature and back bias a parabola through three corners, or a line through two. Where both differ from those of all characterized
lines, their effects on the logarithms are added up. Nothing is extrapolated.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.interpolate import BarycentricInterpolator, CubicSpline

from flow.corner import Corner
from flow.liberty_text import Attribute, Group, parse_text, read_text, write_library
from hw.errors import ConfigError

_NUMBERS = {
    "capacitance", "rise_capacitance", "fall_capacitance", "max_capacitance", "max_transition", "default_max_transition", "cell_leakage_power", "value",
    "min_pulse_width_high", "min_pulse_width_low", "area", "default_cell_leakage_power", "default_leakage_power_density",
}  # fmt: skip
_TABLES = {"values", "index_1", "index_2", "index_3"}
_OWN = {"comment", "default_operating_conditions", "nom_voltage", "nom_temperature", "voltage", "temperature", "date", "revision"}
"""Attributes that differ from corner to corner without being a measure of anything."""


@dataclass(frozen=True, kw_only=True)
class CornerFile:
    """A characterized corner and one Liberty file of it."""

    vdd_v: float
    temperature_c: float
    back_bias_v: float
    path: Path


def check_inside(known: Sequence[CornerFile], corner: Corner) -> None:
    """Raise `ConfigError` unless `corner` lies within the supplies, temperatures and back biases of `known`, which are of its process."""
    if not known:
        raise ConfigError(f"process of {corner} must be one that is characterized")
    for name in ("vdd_v", "temperature_c", "back_bias_v"):
        values = [getattr(k, name) for k in known]
        if not min(values) - 1e-9 <= getattr(corner, name) <= max(values) + 1e-9:
            raise ConfigError(f"{name} must be within the characterized {min(values):g} to {max(values):g}, not {getattr(corner, name):g} ({corner})")


def interpolate(known: Sequence[CornerFile], corner: Corner, path: Path) -> None:
    """Write the Liberty file of `corner` to `path`, from the files of its process; raises `ConfigError` outside their range.

    All must have the same cells, pins, arcs and table sizes.
    """
    check_inside(known, corner)
    wanted = _lines_needed(known, corner)
    trees: dict[Path, Group] = {}
    measures: dict[Path, list[np.ndarray]] = {}
    for k in wanted:
        trees[k.path] = _exploded(parse_text(read_text(k.path), str(k.path)))
        measures[k.path] = [np.array(numbers) for numbers, _ in _places(trees[k.path])]
    first = wanted[0].path
    shape = [array.shape for array in measures[first]]
    for k in wanted:
        if _skeleton(trees[k.path]) != _skeleton(trees[first]) or [array.shape for array in measures[k.path]] != shape:
            raise ConfigError(f"corners to interpolate between must have the same cells, arcs and tables, not differ ({first} and {k.path})")
    for i, (_, replace) in enumerate(_places(trees[first])):
        replace(_blend([(k, measures[k.path][i]) for k in wanted], corner))
    _restate(trees[first], corner)
    header = f"{corner} interpolated between characterized corners; PREDICTIVE where those are"
    write_library(trees[first], path, header)


def _lines_needed(known: Sequence[CornerFile], corner: Corner) -> list[CornerFile]:
    """The corners that take part: whole lines over the supply at the temperatures and biases that the blend uses."""
    lines = _lines(known, corner.vdd_v)
    if (corner.temperature_c, corner.back_bias_v) in lines:
        keys = {(corner.temperature_c, corner.back_bias_v)}
    else:
        keys = set(lines)
    used = [k for k in known if (k.temperature_c, k.back_bias_v) in keys]
    if not used:
        raise ConfigError(f"two supplies or more must be characterized around {corner.vdd_v:g} V at one temperature and bias for {corner}, not fewer")
    return used


def _lines(known: Sequence[CornerFile], vdd_v: float) -> dict[tuple[float, float], list[CornerFile]]:
    """Corners by (temperature, bias), where their supplies enclose `vdd_v`."""
    found: dict[tuple[float, float], list[CornerFile]] = defaultdict(list)
    for k in sorted(known, key=lambda k: k.vdd_v):
        found[k.temperature_c, k.back_bias_v].append(k)
    return {key: line for key, line in found.items() if line[0].vdd_v - 1e-9 <= vdd_v <= line[-1].vdd_v + 1e-9}


def _blend(given: Sequence[tuple[CornerFile, np.ndarray]], corner: Corner) -> np.ndarray:
    """One array of numbers at `corner`."""
    arrays = np.array([array for _, array in given])
    if np.all(arrays == arrays[0]):
        return arrays[0]
    positive = bool(np.all(arrays > 0))
    # A number near zero has no useful logarithm: its table's mean size has one.
    scale = np.ones(len(given)) if positive else np.mean(np.abs(arrays.reshape(len(given), -1)), axis=1)
    if np.any(scale == 0):
        return _over_all(given, arrays, corner)
    shaped = arrays / scale.reshape(-1, *[1] * (arrays.ndim - 1))
    if positive:
        return np.exp(_over_all(given, np.log(shaped), corner))
    return _over_all(given, shaped, corner) * np.exp(_over_all(given, np.log(scale), corner))


def _over_all(given: Sequence[tuple[CornerFile, np.ndarray]], values: np.ndarray, corner: Corner) -> np.ndarray:
    """`values` [corner, ...] interpolated over supply, then temperature and bias."""
    place = {id(k): i for i, (k, _) in enumerate(given)}
    lines = {
        key: _along([k.vdd_v for k in line], np.array([values[place[id(k)]] for k in line]), corner.vdd_v)
        for key, line in _lines([k for k, _ in given], corner.vdd_v).items()
    }
    t, b = corner.temperature_c, corner.back_bias_v
    if (t, b) in lines:
        return lines[t, b]

    def over(axis: int, at: float, fixed: float) -> np.ndarray:
        points = {key[axis]: value for key, value in lines.items() if key[1 - axis] == fixed}
        if not points or not min(points) <= at <= max(points):
            what, other = ("temperatures", "back bias") if axis == 0 else ("back biases", "temperature")
            raise ConfigError(f"{what} around {at:g} must be characterized at {corner.vdd_v:g} V and {other} {fixed:g}, not be missing ({corner})")
        nearest = sorted(sorted(points, key=lambda x: abs(x - at))[:3])
        return _polynomial(nearest, [points[x] for x in nearest], at)

    if any(key[1] == b for key in lines):
        return over(0, t, b)
    if any(key[0] == t for key in lines):
        return over(1, b, t)
    # Neither is characterized: what each adds to a line that both share.
    shared = next(((t0, b0) for t0, b0 in lines if sum(key[0] == t0 for key in lines) > 1 and sum(key[1] == b0 for key in lines) > 1), None)
    if shared is None:
        raise ConfigError(f"temperature or back bias must be a characterized one, not both between ({corner})")
    return over(0, t, shared[1]) + over(1, b, shared[0]) - lines[shared]


def _along(supplies: Sequence[float], values: np.ndarray, at: float) -> np.ndarray:
    for supply, value in zip(supplies, values, strict=True):
        if abs(supply - at) < 1e-9:
            return value
    if len(supplies) < 4:
        return _polynomial(supplies, list(values), at)
    return CubicSpline(supplies, values, axis=0)(at)


def _polynomial(points: Sequence[float], values: Sequence[np.ndarray], at: float) -> np.ndarray:
    return values[0] if len(points) == 1 else np.asarray(BarycentricInterpolator(points, np.array(values))(at))


# --- the tree -----------------------------------------------------------------------------------


def _places(group: Group) -> Iterator[tuple[list[float] | list[list[float]], Callable[[np.ndarray], None]]]:
    """Every number or table of numbers below `group`, and a function that replaces it."""
    for index, item in enumerate(group.body):
        if isinstance(item, Group):
            yield from _places(item)
        elif item.name in _TABLES:
            rows = [[float(x) for x in row.replace(",", " ").split()] for row in item.values]

            def put_rows(new: np.ndarray, *, group: Group = group, index: int = index, item: Attribute = item) -> None:
                rows = tuple(", ".join(f"{x:.6g}" for x in row) for row in np.atleast_2d(new))
                group.body[index] = Attribute(name=item.name, values=rows, is_complex=item.is_complex)

            yield rows, put_rows
        elif item.name in _NUMBERS:

            def put(new: np.ndarray, *, group: Group = group, index: int = index, item: Attribute = item) -> None:
                group.body[index] = Attribute(name=item.name, values=(f"{float(new[0]):.6g}",), is_complex=item.is_complex)

            yield [float(item.values[0])], put


def _exploded(group: Group) -> Group:
    """`group` with internal powers under several joined conditions given once for each, in a fixed order: corners may join differently."""
    body: list[Attribute | Group] = []
    powers: list[Group] = []
    for item in group.body:
        if isinstance(item, Attribute):
            body.append(item)
        elif item.kind != "internal_power":
            body.append(_exploded(item))
        else:
            for condition in (item.get("when") or "").split(" | "):
                when = condition.removeprefix("(").removesuffix(")") if " | " in (item.get("when") or "") else condition
                rest = [_exploded(x) if isinstance(x, Group) else x for x in item.body if isinstance(x, Group) or x.name != "when"]
                given = [Attribute(name="when", values=(when,))] if when else []
                powers.append(Group(kind=item.kind, args=item.args, body=[*given, *rest], line=item.line))
    powers.sort(key=lambda g: (g.get("related_pin") or "", g.get("when") or ""))
    return Group(kind=group.kind, args=group.args, body=[*body, *powers], line=group.line)


def _skeleton(group: Group) -> tuple:
    """What must agree between corners: groups and attributes without their numbers."""
    named = () if group.kind in ("library", "operating_conditions") else group.args
    items = []
    for item in group.body:
        if isinstance(item, Group):
            items.append(_skeleton(item))
        elif item.name not in _OWN:
            items.append((item.name, () if item.name in _NUMBERS | _TABLES else item.values))
    return (group.kind, named, tuple(items))


def _restate(library: Group, corner: Corner) -> None:
    """Give the library the name, supply and temperature of `corner`."""
    name = f"{corner.process}_{corner.vdd_v:.4g}v_{corner.temperature_c:g}c".replace(".", "p").replace("-", "m")
    own = {"nom_voltage": corner.vdd_v, "nom_temperature": corner.temperature_c, "default_operating_conditions": name, "comment": "interpolated"}
    for i, item in enumerate(library.body):
        if isinstance(item, Attribute) and item.name in own:
            value = own[item.name]
            library.body[i] = Attribute(name=item.name, values=(value if isinstance(value, str) else f"{value:.6g}",))
        elif isinstance(item, Group) and item.kind == "operating_conditions":
            stated = {"voltage": corner.vdd_v, "temperature": corner.temperature_c}
            body = [Attribute(name=x.name, values=(f"{stated[x.name]:.6g}",)) if isinstance(x, Attribute) and x.name in stated else x for x in item.body]
            library.body[i] = Group(kind=item.kind, args=(name,), body=body)
