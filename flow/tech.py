"""Technologies: which Liberty files describe a cell library at which corner, and what synthesis and wires need to know.

A technology is a YAML file, `flow/tech/<name>/technology.yaml` or a user's own. Its paths are relative
to the folder it lies in, or to one of its `roots`, where `$PDK_ROOT` may stand for the folder of installed PDKs. Liberty
files are checked when a corner is used: whole, readable, and for the voltage and temperature that the corner declares.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import Field, PrivateAttr, model_validator

from flow import interpolate as interpolation
from flow import liberty, liberty_text
from flow.cache import DEFAULT_CACHE, run_step, step
from flow.corner import Corner
from flow.interpolate import CornerFile, check_inside, interpolate
from flow.liberty import Cell, Library, read_library
from flow.liberty_text import read_text
from hw.errors import ConfigError
from hw.settings import Settings, parse, read_yaml

_HOME = Path(__file__).parent / "tech"

Text = Annotated[str, Field(min_length=1)]
# YAML has lists only.
Texts = Annotated[tuple[Text, ...], Field(strict=False)]


class CellRoles(Settings):
    """The cells that synthesis and timing call by their role. `nand2` is the unit of area; `buffer` drives the inputs of a block.

    `clock_buffer` builds clock trees; `buffer` does where it is not named.
    """

    inverter: Text
    buffer: Text
    nand2: Text
    tie_high: Text
    tie_low: Text
    clock_gate: Text | None = None
    clock_buffer: Text | None = None


class WireModel(Settings):
    """Wires. Before placement a net is expected to be base + per fan-out x fan-out long, as a capacitance only."""

    capacitance_per_um_f: float = Field(gt=0)
    resistance_per_um_ohm: float = Field(default=0.0, ge=0)
    length_base_um: float = Field(ge=0)
    length_per_fanout_um: float = Field(ge=0)
    source: Text
    provisional: bool = False


class PlacementRules(Settings):
    """How cells are placed, and the share of a clock tree's insertion delay that its leaves may differ by."""

    row_height_um: float = Field(gt=0)
    utilization: float = Field(gt=0, le=1)
    clock_skew_fraction: float = Field(ge=0, lt=1)
    source: Text
    provisional: bool = False


class LibraryCorner(Settings):
    """One characterized corner and its Liberty files (`.lib` or `.lib.gz`), which together hold the cells."""

    process: Text = Field(pattern=r"^[a-z0-9]+$")
    vdd_v: float = Field(gt=0, le=10)
    temperature_c: float = Field(ge=-273, le=300)
    back_bias_v: float = Field(default=0.0, ge=-5, le=5)
    liberty: Texts = Field(min_length=1)
    measure: bool = True
    """Whether `voltfront characterize` measures designs at it."""

    def at_sram(self, sram_vdd_v: float) -> Corner:
        """This corner of the logic with the SRAM at `sram_vdd_v`."""
        return Corner(process=self.process, vdd_v=self.vdd_v, temperature_c=self.temperature_c, back_bias_v=self.back_bias_v, sram_vdd_v=sram_vdd_v)


class Technology(Settings):
    """A cell library at its corners. `predictive`: its numbers are a model, not foundry data."""

    name: Text = Field(pattern=r"^[A-Za-z0-9_]+$")
    description: Text
    predictive: bool
    nominal_vdd_v: float = Field(gt=0)
    cells: CellRoles
    wire: WireModel
    placement: PlacementRules | None = None
    """Without it only estimates before placement can be made."""
    dont_use: Texts = ()
    sram: Text | None = None
    """Constants of the memory macros (see `flow.sram`), a YAML file."""
    interpolate: bool = False
    """Whether Liberty between the corners may be interpolated (see `flow.interpolate`): one file a corner, all of the same structure."""
    roots: Texts = ()
    """Folders to look for Liberty files in, after the YAML file's own."""
    corners: Annotated[tuple[LibraryCorner, ...], Field(strict=False, min_length=1)]
    sources: Texts = Field(min_length=1)
    _more: tuple[LibraryCorner, ...] = PrivateAttr(default=())

    @property
    def known_corners(self) -> tuple[LibraryCorner, ...]:
        """`corners`, at which designs are measured and fitted, and those of `more_corners.yaml` beside the technology, which serve timing and
        interpolation only: adding to them leaves all measured results as they are."""
        return self.corners + self._more

    @model_validator(mode="after")
    def _corners_differ(self) -> "Technology":
        names = [str(corner.at_sram(corner.vdd_v)) for corner in self.corners]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"a list of corners that differ, not with {twice[0]} twice")
        return self

    def liberty_corner(self, corner: Corner) -> LibraryCorner:
        """The characterized corner that `corner` needs (the SRAM's voltage does not matter); raises `ConfigError` if there is none."""
        for known in self.known_corners:
            if known.at_sram(corner.sram_vdd_v) == corner:
                return known
        names = ", ".join(known.at_sram(known.vdd_v).logic_name for known in self.known_corners)
        raise ConfigError(f"corner must be one that technology {self.name} has Liberty for, not {corner}; it has {names}")

    def sram_file(self) -> Path:
        """The constants of the memory macros; raises `ConfigError` for a technology without."""
        if self.sram is None:
            raise ConfigError(f"technology {self.name} must name its memory figures (sram: file.yaml), not leave them out; add them")
        return Path(self.sram)

    def nominal_corner(self) -> Corner:
        """The corner that synthesis maps for: typical (or the first process named), nominal supply, no back bias, nearest to 25 C."""
        at_nominal = [known for known in self.corners if known.vdd_v == self.nominal_vdd_v and known.back_bias_v == 0]
        if not at_nominal:
            raise ConfigError(f"technology {self.name} must have a corner at its nominal_vdd_v {self.nominal_vdd_v} V without back bias, not none")
        best = min(at_nominal, key=lambda known: (not known.process.startswith("t"), abs(known.temperature_c - 25)))
        return best.at_sram(best.vdd_v)

    def may_use(self, cell: Cell) -> bool:
        """False for a cell that synthesis must leave alone."""
        return not cell.dont_use and not any(fnmatchcase(cell.name, pattern) for pattern in self.dont_use)


MORE_CORNERS = "more_corners.yaml"


class _MoreCorners(Settings):
    """The file `more_corners.yaml`."""

    corners: Annotated[tuple[LibraryCorner, ...], Field(strict=False)]


def technology_names() -> tuple[str, ...]:
    """The technologies that come with the project."""
    return tuple(sorted(path.parent.name for path in _HOME.glob("*/technology.yaml")))


def load_technology(name_or_path: str | Path) -> Technology:
    """The technology of that name, or the one described by a YAML file; raises `ConfigError` for anything else."""
    if str(name_or_path) in technology_names():
        path = _HOME / str(name_or_path) / "technology.yaml"
    else:
        path = Path(name_or_path)
        if not path.is_file():
            known = ", ".join(technology_names()) or "(none)"
            raise ConfigError(f"technology must be one of {known} or a YAML file, not {str(name_or_path)!r}")
    folder = path.absolute().parent
    technology = parse(Technology, _with_absolute_paths(read_yaml(path), folder), str(path))
    more = folder / MORE_CORNERS
    if path.name == "technology.yaml" and more.is_file():
        technology._more = parse(_MoreCorners, _with_absolute_paths(read_yaml(more), folder), str(more)).corners
        names = [str(known.at_sram(known.vdd_v)) for known in technology.known_corners]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"corners must differ, not hold {twice[0]} twice ({more})")
    return technology


def _with_absolute_paths(data: object, folder: Path) -> object:
    """The plain values of a technology with each path made absolute; anything malformed is left for validation."""
    if not isinstance(data, dict) or not isinstance(data.get("corners"), list):
        return data
    given = data.get("roots")
    roots = [folder, *(_root(root, folder) for root in given)] if isinstance(given, list) and all(isinstance(r, str) for r in given) else [folder]
    corners = []
    for corner in data["corners"]:
        files = corner.get("liberty") if isinstance(corner, dict) else None
        if isinstance(files, list):
            corner = {**corner, "liberty": [_found(file, roots) if isinstance(file, str) and file else file for file in files]}
        corners.append(corner)
    sram = data.get("sram")
    return {**data, "corners": corners} | ({"sram": str(folder / sram)} if isinstance(sram, str) and sram else {})


PDK_ROOT = "$PDK_ROOT"


def _root(root: str, folder: Path) -> Path:
    """A folder of `roots`; `$PDK_ROOT` at its beginning is the environment's. Without that it stays as it is, for the message of a missing file."""
    if root.startswith(PDK_ROOT) and os.environ.get("PDK_ROOT"):
        root = os.environ["PDK_ROOT"] + root.removeprefix(PDK_ROOT)
    return folder / root


def _found(file: str, roots: Sequence[Path]) -> str:
    """The first of `roots` that has the file, plain or compressed; if none has, where it should have been in the last one."""
    for root in roots:
        for path in (root / file, root / f"{file}.gz"):
            if path.is_file():
                return str(path)
    return str(roots[-1] / file)


def liberty_files(technology: Technology, corner: Corner, *, cache: Path = DEFAULT_CACHE) -> tuple[Path, ...]:
    """Plain-text Liberty files of `corner`, checked; interpolated where the technology allows it and none is characterized there.

    Raises `ConfigError` naming the file if one is missing, cut short or for another voltage or temperature
    than the corner declares, and for a corner outside of what is characterized.
    """
    if technology.interpolate and not any(known.at_sram(corner.sram_vdd_v) == corner for known in technology.known_corners):
        return (_between(technology, corner, cache),)
    known = technology.liberty_corner(corner)
    texts = []
    for file in known.liberty:
        path = Path(file)
        if not path.is_file():
            hint = "; set PDK_ROOT to the folder of installed PDKs" if PDK_ROOT in file else ""
            raise ConfigError(f"Liberty file of corner {corner} must exist, not be missing ({path}){hint}")
        texts.append(plain_liberty(path, vdd_v=known.vdd_v, temperature_c=known.temperature_c, cache=cache))
    return tuple(texts)


def _between(technology: Technology, corner: Corner, cache: Path) -> Path:
    """An interpolated Liberty file, from the characterized corners of the process; each of them is checked like one that is used itself."""
    alike = [c for c in technology.known_corners if c.process == corner.process]
    files = tuple(
        CornerFile(
            vdd_v=c.vdd_v, temperature_c=c.temperature_c, back_bias_v=c.back_bias_v,
            path=liberty_files(technology, c.at_sram(c.vdd_v), cache=cache)[0],
        )
        for c in alike
    )  # fmt: skip
    check_inside(files, corner)
    return run_step(_interpolate, cache=cache, known=files, corner=replace(corner, sram_vdd_v=corner.vdd_v))


@step(version=1, modules=(interpolation, liberty_text))
def _interpolate(folder: Path, *, known: tuple[CornerFile, ...], corner: Corner) -> Path:
    path = folder / "interpolated.lib"
    interpolate(known, corner, path)
    return path


def plain_liberty(path: Path, *, vdd_v: float, temperature_c: float, cache: Path = DEFAULT_CACHE) -> Path:
    """The Liberty file at `path` unpacked, without a default wire load; raises `ConfigError` if it is not for this voltage and temperature."""
    plain = run_step(_unpack, cache=cache, path=path)
    for name, declared, found in (("voltage", f"{vdd_v:.4g} V", f"{plain.vdd_v:.4g} V"), ("temperature", f"{temperature_c:g} C", f"{plain.temperature_c:g} C")):
        if found != declared:
            raise ConfigError(f"{name} of a Liberty file must be the {declared} that its corner declares, not {found} ({path})")
    return plain.text


@dataclass(frozen=True, kw_only=True)
class _PlainLiberty:
    text: Path
    vdd_v: float
    temperature_c: float


# OpenSTA applies a library's default wire load silently; wires are our own affair.
_DEFAULT_WIRE_LOAD = re.compile(r"^\s*default_wire_load(?:_selection)?\s*:[^;\n]*;?[ \t]*$", re.MULTILINE)


@step(version=1, modules=(liberty,))
def _unpack(folder: Path, *, path: Path) -> _PlainLiberty:
    library = read_library(path)
    text = folder / (path.name.removesuffix(".gz").removesuffix(".lib") + ".lib")
    text.write_text(_DEFAULT_WIRE_LOAD.sub("", read_text(path)), encoding="utf-8")
    return _PlainLiberty(text=text, vdd_v=library.vdd_v, temperature_c=library.temperature_c)


def read_corner(technology: Technology, corner: Corner, *, cache: Path = DEFAULT_CACHE) -> Library:
    """All cells of `technology` at `corner` as one library; raises `ConfigError` as `liberty_files` does."""
    return read_libraries(liberty_files(technology, corner, cache=cache))


@dataclass(frozen=True, kw_only=True)
class CornerSummary:
    """What `examine` finds at a corner."""

    corner: str
    cells: int
    fo4_s: float
    nand2_leakage_w: float


def examine(technology: Technology, *, cache: Path = DEFAULT_CACHE) -> list[CornerSummary]:
    """Read every corner of `technology`; raises `ConfigError` for the first file that does not fit, and for a role whose cell is missing."""
    rows = []
    for known in technology.known_corners:
        corner = known.at_sram(known.vdd_v)
        library = read_corner(technology, corner, cache=cache)
        for role, cell in technology.cells:
            if cell is not None and cell not in library.cells:
                raise ConfigError(f"cells.{role} must be a cell of every corner, not {cell!r}, which {corner} lacks ({library.source})")
        rows.append(
            CornerSummary(
                corner=corner.logic_name, cells=len(library.cells), fo4_s=liberty.fo4_s(library, technology.cells.inverter),
                nand2_leakage_w=library.cells[technology.cells.nand2].leakage_w,
            )
        )  # fmt: skip
    return rows


def read_libraries(paths: Sequence[Path]) -> Library:
    """Several Liberty files as one library, named after the first; raises `ConfigError` if two define the same cell."""
    libraries = [read_library(path) for path in paths]
    cells: dict[str, Cell] = {}
    for library in libraries:
        twice = cells.keys() & library.cells.keys()
        if twice:
            raise ConfigError(f"cell {min(twice)} must be defined in one Liberty file, not in two ({library.source})")
        cells |= library.cells
    return replace(libraries[0], cells=cells)


def wire_capacitance_f(fanout: int, technology: Technology) -> float:
    """Capacitance of the wire of a net with `fanout` sinks, before placement."""
    wire = technology.wire
    return wire.capacitance_per_um_f * (wire.length_base_um + wire.length_per_fanout_um * fanout)


def wire_load_group(wire: WireModel, unit_f: float) -> str:
    """The same wire as a Liberty `wire_load` group called `expected`, for a library whose unit of capacitance is `unit_f`."""
    step = wire.capacitance_per_um_f * wire.length_per_fanout_um / unit_f
    at_one = wire.capacitance_per_um_f * (wire.length_base_um + wire.length_per_fanout_um) / unit_f
    # One unit of length is one unit of capacitance; nets with more sinks continue with the slope.
    return (
        f'  wire_load ("expected") {{\n    resistance : 0;\n    capacitance : 1;\n    area : 0;\n'
        f"    slope : {step:.9g};\n    fanout_length (1, {at_one:.9g});\n  }}\n"
    )
