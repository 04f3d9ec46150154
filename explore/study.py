"""The study: what voltage scaling brings when the off-chip memory does not scale, by network, batch and DRAM part, and what of it
depends on assumed constants. Writes docs/study.md: make study."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from explore.exploration import DRAM, Exploration, cases_of, explore_all
from fit.model import FittedLaw, FittedModel, read_model, write_model
from flow.characterize import source_commit
from flow.files import write_text_whole
from hw.dram import dram_parts
from hw.dram_part import PARTS_DIR

PAGE = Path(__file__).parent.parent / "docs" / "study.md"
BUILD = Path("build/study")
MODEL = Path("build/models/fdsoi28p.json")
SPACE = "study"
NETWORKS, BATCHES = ("alexnet", "resnet18", "mobilenet_v1"), (1, 16)
COMMAND = "make study"


@dataclass(frozen=True, kw_only=True)
class Constant:
    """An assumed constant: how a model or a DRAM's interface changes when it is scaled, and by how much down and up."""

    name: str
    low: float
    high: float
    model: Callable[[FittedModel, float], FittedModel] | None = None
    interface: tuple[str, ...] = ()


def scaled(model: FittedModel, blocks: Callable[[str], bool], quantities: Callable[[str], bool], factor: float) -> FittedModel:
    """The model with the laws of these quantities of these blocks multiplied by `factor`."""

    def times(law: FittedLaw) -> FittedLaw:
        return law.model_copy(update={"terms": tuple(term.model_copy(update={"value": term.value * factor}) for term in law.terms)})

    changed = {
        name: block.model_copy(update={"laws": {q: times(law) if blocks(name) and quantities(q) else law for q, law in block.laws.items()}})
        for name, block in model.blocks.items()
    }
    return model.model_copy(update={"blocks": changed})


CONSTANTS = (
    Constant(name="SRAM energy", low=0.5, high=2.0, model=lambda m, f: scaled(m, lambda b: b == "sram", lambda q: q.endswith("energy_j"), f)),
    Constant(name="logic energy (wires)", low=0.8, high=1.5, model=lambda m, f: scaled(m, lambda b: b != "sram", lambda q: q.endswith("energy_j"), f)),
    Constant(name="leakage", low=0.3, high=3.0, model=lambda m, f: scaled(m, lambda b: True, lambda q: q == "leakage_w", f)),
    Constant(name="DRAM I/O energy", low=0.5, high=2.0, interface=("line_capacitance_pf",)),
    Constant(name="DRAM PHY", low=0.5, high=2.0, interface=("phy_pj_per_bit", "phy_static_mw")),
)


def main() -> None:
    """Explore every variant and write the page."""
    model = read_model(MODEL)
    cases = cases_of(NETWORKS, BATCHES)

    def explored(name: str, **options: Any) -> pd.DataFrame:
        print(f"study: {name}", file=sys.stderr, flush=True)
        given: dict[str, Any] = {"model_path": MODEL, "space": SPACE, "dram": DRAM, "cases": cases} | options
        return summary(explore_all(out=_path(name), workers=1, command=COMMAND, **given))

    base, free = explored("base"), explored("free memory", free_memory=True)
    parts = {part: base if part == DRAM else explored(part, dram=part) for part in dram_parts()}
    changed = {}
    for constant in CONSTANTS:
        for factor in (constant.low, constant.high):
            name = f"{constant.name} x {factor:g}"
            changed[name] = explored(name, **variant(model, constant, factor, name))
    write_text_whole(PAGE, page(base, free, parts, changed))


def _path(name: str) -> Path:
    return BUILD / name.replace(" ", "_").replace("/", "_")


def variant(model: FittedModel, constant: Constant, factor: float, name: str) -> dict:
    """Options of `explore_all` with the constant multiplied by `factor`."""
    if constant.model is not None:
        path = _path(name).with_name(f"{_path(name).name}.json")
        write_model(constant.model(model, factor), path)
        return {"model_path": path}
    data = yaml.safe_load((PARTS_DIR / f"{DRAM}.yaml").read_text(encoding="utf-8"))
    for key in constant.interface:
        data["interface"][key][0] *= factor
    path = _path(name).with_name(f"{_path(name).name}.yaml")
    write_text_whole(path, yaml.safe_dump(data))
    return {"dram": str(path)}


def summary(found: Exploration) -> pd.DataFrame:
    """One row a case: effectiveness, the front's ends, and the DRAM's share of the energy at its most efficient point."""
    rows = []
    for result in found.run["results"]:
        own = found.pareto[(found.pareto["network"] == result["network"]) & (found.pareto["batch"] == result["batch"])]
        best, fastest = own.loc[own["efficiency_gops_w"].idxmax()], own.iloc[-1]
        stops = result["raising_stops_paying_above_v"]
        rows.append(
            {
                "network": result["network"], "batch": result["batch"], "effectiveness": result["highest_effectiveness"],
                "median": result["median_effectiveness"], "best_gops_w": best["efficiency_gops_w"], "best_v": best["vdd_v"],
                "dram_share": best["dram_energy_j"] / (best["power_w"] * best["latency_s"]), "gain": best["efficiency_gops_w"] / fastest["efficiency_gops_w"],
                "fastest_ips": fastest["throughput_ips"], "fastest_v": fastest["vdd_v"], "stops": sum(share for v, share in stops.items() if v != "never"),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def claims(base: pd.DataFrame, free: pd.DataFrame) -> dict[str, bool]:
    """What the study claims, and whether these explorations bear it out."""
    one, many = base[base["batch"] == BATCHES[0]].reset_index(), base[base["batch"] == BATCHES[-1]].reset_index()
    return {
        "the off-chip memory lowers the highest DVFS effectiveness of every network at batch 1":
            bool((one["effectiveness"].to_numpy() < free[free["batch"] == BATCHES[0]]["effectiveness"].to_numpy()).all()),
        "a larger batch raises the highest DVFS effectiveness of AlexNet, whose weights dominate the traffic":
            bool((many["effectiveness"] > one["effectiveness"])[one["network"] == "alexnet"].all()),
        "at its most efficient point every network spends more in the DRAM than in the chip at batch 1": bool((one["dram_share"] > 0.5).all()),
        "the voltage of the most efficient point lies above the lowest of the range for every network at batch 1": bool((one["best_v"] > 0.5).all()),
    }  # fmt: skip


def _table(header: list[str], rows: list[list]) -> str:
    def text(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return "\n".join(["| " + " | ".join(header) + " |", "|" + " --- |" * len(header), *("| " + " | ".join(map(text, row)) + " |" for row in rows)])


def page(base: pd.DataFrame, free: pd.DataFrame, parts: dict[str, pd.DataFrame], changed: dict[str, pd.DataFrame]) -> str:
    """docs/study.md."""
    both = base.merge(free, on=["network", "batch"], suffixes=("", "_free"))
    header = ["network", "batch", "effectiveness", "without memory", "GOPS/W", "without memory", "at V", "without memory", "DRAM's share",
              "architectures for which raising the voltage stops paying", "without memory"]  # fmt: skip
    rows = [
        [r.network, r.batch, r.effectiveness, r.effectiveness_free, r.best_gops_w, r.best_gops_w_free, r.best_v, r.best_v_free, r.dram_share, r.stops,
         r.stops_free]
        for r in both.itertuples()
    ]  # fmt: skip
    by_part = [
        [part, r.network, r.batch, r.effectiveness, r.best_gops_w, r.best_v, r.fastest_ips, r.dram_share] for part, t in parts.items() for r in t.itertuples()
    ]
    ranges = ", ".join(f"{c.name} x {c.low:g} and x {c.high:g}" for c in CONSTANTS)
    ours = claims(base, free)
    held = {name: claims(found, free) for name, found in changed.items()}
    flips = [[claim, ", ".join(name for name in held if held[name][claim] != ours[claim]) or "none"] for claim in ours]
    return f"""# What voltage scaling brings when the off-chip memory does not scale

Generated by `{COMMAND}` (commit {source_commit()}); do not edit. Space `{SPACE}` of explore/spaces, {DRAM}, batch sizes {BATCHES}, margin 10 %, memory side at
800 MHz. The numbers come from the fitted model of the predictive library fdsoi28p, not from silicon; README states the model's errors. No back bias,
no slow corner and no regulator are in the model yet, so that the study says nothing of them. DVFS effectiveness is the hypervolume that lowering the
voltage with the clock adds to lowering the clock alone, over that of the front of all architectures.

## With and without the off-chip memory

"Without" leaves out the DRAM's, lines' and PHY's time and energy; AXI and the memory side stay. The last columns count architectures whose throughput grows by
less than a tenth of their clock from some voltage on.

{_table(header, rows)}

## By DRAM part

{_table(["part", "network", "batch", "effectiveness", "GOPS/W", "at V", "most images/s", "DRAM's share"], by_part)}

## Claims, and which flip

What a claim compares with "without memory" is that of the table above, with no constant changed.
Each claim is computed from the tables above, and again with each assumed constant at a low and a high value ({ranges}).

{_table(["claim", "holds", "flips with"], [[claim, "yes" if ours[claim] else "no", flip] for claim, flip in flips])}
"""


if __name__ == "__main__":
    main()
