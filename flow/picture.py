"""A picture of a placed design: black boxes with what is inside them, cells, clock buffers."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flow.mapped_design import MappedDesign, macro_outline
from flow.netlist import Netlist, read_netlist
from flow.placement import Outline, Places, read_places
from flow.tech import Technology, read_libraries
from hw.emit import TOP

_KINDS = {"logic": "#4878a8", "flops": "#d08c36", "clock": "#b03a48"}
_BOXES = {"block": "#f6f4ee", "sram": "#dcdce4"}


def draw_design(design: MappedDesign, path: Path) -> Outline:
    """Place `design` and draw it with everything inside to `path` (PNG or SVG); returns its outline.

    Orange are flops, blue logic, red clock buffers and clock gates, grey memories. One point is one cell.
    """
    placed = {module: mapped.placed for module, mapped in design.layout("placed").items() if mapped.placed is not None}
    macros = {name: macro_outline(macro, design) for name, macro in design.macros.items()}
    technology = design.technology
    library = read_libraries(design.liberty[0])
    netlists = {
        name: read_netlist(one.netlist_json, library, top=name, black_boxes=design.synthesized[name].black_box_counts) for name, one in placed.items()
    }
    matplotlib.rcParams["svg.hashsalt"] = "voltfront"
    places = {name: read_places(one.places, netlists[name]) for name, one in placed.items()}
    points: dict[str, list[np.ndarray]] = {kind: [] for kind in _KINDS}
    boxes: dict[str, list[Rectangle]] = {kind: [] for kind in _BOXES}

    def collect(module: str, x: float, y: float) -> None:
        netlist, here = netlists[module], places[module]
        for kind, mask in _masks(netlist, technology).items():
            points[kind].append(here.cells[mask] + (x, y))
        for instance, inner in netlist.black_boxes.items():
            outline = macros.get(inner) or placed[inner].outline
            left, bottom = _corner(here, instance, outline)
            boxes["sram" if inner in macros else "block"].append(Rectangle((x + left, y + bottom), outline.width_um, outline.height_um))
            if inner in placed:
                collect(inner, x + left, y + bottom)

    collect(TOP, 0.0, 0.0)
    whole = placed[TOP].outline
    figure = Figure(figsize=(8, 8 * whole.height_um / whole.width_um + 0.6), layout="constrained")
    axes = figure.subplots()
    for kind, colour in _BOXES.items():
        axes.add_collection(PatchCollection(boxes[kind], facecolor=colour, edgecolor="#888888", linewidth=0.5))
    size = max(0.05, min(4.0, 40_000 / max(1, sum(len(p) for found in points.values() for p in found))))
    for kind, colour in _KINDS.items():
        xy = np.concatenate([np.zeros((0, 2)), *points[kind]])
        axes.scatter(xy[:, 0], xy[:, 1], s=size, c=colour, linewidths=0, label=f"{kind} ({len(xy)})", rasterized=True)
    axes.set(xlim=(0, whole.width_um), ylim=(0, whole.height_um), aspect="equal", xlabel="um", ylabel="um")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.06), ncols=3, frameon=False, markerscale=4 / size**0.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return whole


def _masks(netlist: Netlist, technology: Technology) -> dict[str, np.ndarray]:
    kinds = [(logic.kind, logic.name) for logic in netlist.types]
    clock = {technology.cells.clock_buffer, technology.cells.clock_gate}
    labels = ["clock" if name in clock else "flops" if kind == "flop" else "logic" for kind, name in kinds]
    found = np.array(labels)[netlist.cell_type] if netlist.cells else np.zeros(0, dtype=str)
    return {kind: found == kind for kind in _KINDS}


def _corner(here: Places, instance: str, outline: Outline) -> tuple[float, float]:
    """Lower left corner of an instance, from where one of its ports is."""
    port = next(name for name in outline.ports if outline.ports[name])
    left, bottom = here.ports[f"{instance}/{port}"][0] - np.array(outline.ports[port][0])
    return float(left), float(bottom)
