"""The study: what voltage scaling brings when the off-chip memory does not scale, by network, batch and DRAM part, with back bias, by rails,
buffers and corner, and what of it depends on assumed constants. Writes docs/study.md: make study."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from explore.chunks import Job, back_biases, check, evaluate_block, merge_fronts, read_again
from explore.exploration import DRAM, cases_of, points_at
from explore.pareto import hypervolume
from explore.space import DesignSpace, load_space
from fit.fitting import beside
from fit.model import FittedLaw, FittedModel, read_model, write_model
from flow.characterize import source_commit
from flow.files import write_text_whole
from hw.dram import dram_parts
from hw.dram_part import PARTS_DIR
from hw.errors import ModelError

PAGE = Path(__file__).parent.parent / "docs" / "study.md"
BUILD = Path("build/study")
MODEL = Path("build/models/fdsoi28p.json")
SLOW = beside(MODEL, "ss")
SPACE = "study"
NETWORKS, BATCHES = ("alexnet", "resnet18", "mobilenet_v1"), (1, 16)
HELD_V = 0.8


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


def views(job: Job) -> dict[str, Job]:
    """What is compared: the job as it is, and changed in one thing each. A view that the models do not cover is left out."""
    model, space = read_again(job.model), job.space
    found = {"base": job, "free": replace(job, free_memory=True)}
    if len(back_biases(job, model)) > 1:
        found["no bias"] = replace(job, space=space.model_copy(update={"back_bias_v": [model.back_bias_v]}))
    if model.sram_voltage_range_v[0] > space.vdd_v.low:
        found["one rail"] = replace(job, space=space.model_copy(update={"vdd_v": space.vdd_v.at_least(model.sram_voltage_range_v[0])}))
    found["held rail"] = replace(job, sram_vdd_v=HELD_V)
    for name, pick in (("small buffers", min), ("large buffers", max)):
        found[name] = replace(job, space=space.model_copy(update={bank: [pick(getattr(space, bank))] for bank in _BANKS}))
    if SLOW.exists():
        least = space.vdd_v.at_least(read_again(SLOW).voltage_range_v[0])
        found["slow"] = replace(job, clock_model=SLOW, space=space.model_copy(update={"vdd_v": least}))
    return found


_BANKS = ("activation_bank_bytes", "weight_bank_bytes")


def main() -> None:
    """Explore every variant and write the page."""
    known: dict = {}
    base = Job(
        model=MODEL, space=load_space(SPACE), cases=cases_of(NETWORKS, BATCHES), dram=DRAM, mem_clk_hz=800e6, margin=0.1, objective="latency"
    )  # fmt: skip

    def explored(name: str, job: Job) -> pd.DataFrame:
        print(f"study: {name}", file=sys.stderr, flush=True)
        return summary(job, known)

    ours = {name: explored(name, job) for name, job in views(base).items()}
    parts = {part: ours["base"] if part == DRAM else explored(part, replace(base, dram=part)) for part in dram_parts()}
    changed = {}
    for constant in CONSTANTS:
        for factor in (constant.low, constant.high):
            name = f"{constant.name} x {factor:g}"
            job = variant(base, constant, factor, name)
            changed[name] = {view: explored(f"{name}, {view}", one) for view, one in views(job).items()}
    write_text_whole(PAGE, page(base.space, ours, parts, changed))


def variant(job: Job, constant: Constant, factor: float, name: str) -> Job:
    """The job with the constant multiplied by `factor`."""
    path = BUILD / name.replace(" ", "_").replace("/", "_")
    if constant.model is not None:
        write_model(constant.model(read_model(job.model), factor), path.with_name(f"{path.name}.json"))
        return replace(job, model=path.with_name(f"{path.name}.json"))
    data = yaml.safe_load((PARTS_DIR / f"{DRAM}.yaml").read_text(encoding="utf-8"))
    for key in constant.interface:
        data["interface"][key][0] *= factor
    write_text_whole(path.with_name(f"{path.name}.yaml"), yaml.safe_dump(data))
    return replace(job, dram=str(path.with_name(f"{path.name}.yaml")))


def summary(job: Job, known: dict) -> pd.DataFrame:
    """One row a case: effectiveness, the front's ends, the DRAM's share of the energy at its most efficient point, and where voltage stops paying.

    `known` keeps tilings from one job to the next (`explore.evaluate.search_all`).
    """
    model = read_again(job.model)
    check(job, model)
    nothing = [np.zeros((0, 2)) for _ in job.cases]
    blocks = [evaluate_block(job, number, nothing, known=known) for number in range(job.space.blocks)]
    fronts, places, at = merge_fronts(job, blocks)
    vdd_v, rows = job.space.vdd_v.values(), []
    for number, case in enumerate(job.cases):
        if not len(fronts[number]):
            raise ModelError(f"design space {job.space.name} must have an architecture that the model covers and {case.network.name} fits; change the space")
        gains = np.concatenate([block["gains"][number] for block in blocks]).astype(float)
        effectiveness = gains[np.isfinite(gains)] / hypervolume(*fronts[number][:, :2].T)
        ends = np.array([fronts[number][:, 1].argmax(), len(fronts[number]) - 1])
        points = points_at(job, model, number, places[number][ends], at[number][ends])
        best, fastest = points.iloc[0], points.iloc[1]
        stops, least, core_least = (sum(block[name][number] for block in blocks) for name in ("stops", "min_energy", "core_min_energy"))
        rows.append(
            {
                "network": case.network.name, "batch": case.batch, "effectiveness": effectiveness.max(), "median": np.median(effectiveness),
                "best_gops_w": best["efficiency_gops_w"], "best_v": best["vdd_v"], "best_bias_v": best["back_bias_v"],
                "dram_share": best["dram_energy_j"] / (best["power_w"] * best["latency_s"]), "fastest_ips": fastest["throughput_ips"],
                "fastest_v": fastest["vdd_v"], "fastest_bias_v": fastest["back_bias_v"], "fastest_gops_w": fastest["efficiency_gops_w"],
                "stops": 1 - stops[-1] / stops.sum(), "least_v": middle(vdd_v, least), "core_least_v": middle(vdd_v, core_least),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def middle(vdd_v: np.ndarray, counts: np.ndarray) -> float:
    """The median voltage, of counts [points] at all voltages of one bias after the other."""
    at = counts.reshape(-1, len(vdd_v)).sum(axis=0).cumsum()
    return float(vdd_v[np.searchsorted(at, at[-1] / 2)])


def claims(found: Mapping[str, pd.DataFrame]) -> dict[str, bool]:
    """What the study claims, and whether these explorations (by the names of `views`) bear it out. A claim about a view that is not there is left out."""

    def one(view: str, column: str) -> np.ndarray:
        """At batch 1, by network."""
        return found[view][found[view]["batch"] == BATCHES[0]][column].to_numpy()

    base = found["base"]
    alexnet = base[base["network"] == "alexnet"].set_index("batch")["effectiveness"]
    ours = {
        "the off-chip memory lowers the highest DVFS effectiveness of every network at batch 1":
            one("base", "effectiveness") < one("free", "effectiveness"),
        "a larger batch raises the highest DVFS effectiveness of AlexNet, whose weights dominate the traffic": alexnet[BATCHES[-1]] > alexnet[BATCHES[0]],
        "at its most efficient point every network spends more in the DRAM than in the chip at batch 1": one("base", "dram_share") > 0.5,
        "the voltage of the most efficient point lies above the lowest of the range for every network at batch 1": one("base", "best_v") > 0.5,
        "lowering the voltage stops paying earlier with the memory than without (median voltage of least energy), for every network at batch 1":
            one("base", "least_v") > one("free", "least_v"),
        "for most architectures throughput stops growing with the clock below the nominal voltage, for every network at batch 1": one("base", "stops") > 0.5,
        "small buffers lower the efficiency of the most efficient point for every network at batch 1":
            one("small buffers", "best_gops_w") < one("large buffers", "best_gops_w"),
        "small buffers lower the highest DVFS effectiveness of every network at batch 1":
            one("small buffers", "effectiveness") < one("large buffers", "effectiveness"),
        f"memories held at {HELD_V:g} V cost less than a tenth of the efficiency of the most efficient point, for every network at batch 1":
            one("held rail", "best_gops_w") > 0.9 * one("base", "best_gops_w"),
    }  # fmt: skip
    if "one rail" in found:
        ours["a rail of their own for the memories raises the highest DVFS effectiveness of every network at batch 1"] = (
            one("base", "effectiveness") > one("one rail", "effectiveness")
        )
    if "no bias" in found:
        ours |= {
            "forward back bias raises the highest DVFS effectiveness of every network at batch 1":
                one("base", "effectiveness") > one("no bias", "effectiveness"),
            "forward back bias raises the highest throughput of every network at batch 1 by less than a tenth":
                one("base", "fastest_ips") < 1.1 * one("no bias", "fastest_ips"),
            "forward back bias raises the efficiency of the most efficient point of every network at batch 1":
                one("base", "best_gops_w") > one("no bias", "best_gops_w"),
        }  # fmt: skip
    if "slow" in found:
        ours |= {
            "at the clocks of the slow corner the efficiency of the most efficient point falls by less than a tenth for every network at batch 1":
                one("slow", "best_gops_w") > 0.9 * one("base", "best_gops_w"),
            "at the clocks of the slow corner the highest throughput falls by less than a tenth for every network at batch 1":
                one("slow", "fastest_ips") > 0.9 * one("base", "fastest_ips"),
        }  # fmt: skip
    return {claim: bool(np.all(holds)) for claim, holds in ours.items()}


def _table(header: list[str], rows: list[list]) -> str:
    def text(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return "\n".join(["| " + " | ".join(header) + " |", "|" + " --- |" * len(header), *("| " + " | ".join(map(text, row)) + " |" for row in rows)])


_LIST = ["network", "batch", "effectiveness", "GOPS/W", "at V", "bias V", "DRAM's share", "most images/s", "at V", "bias V"]


def _listed(what: str, found: Mapping[str, pd.DataFrame]) -> str:
    """The same numbers of several explorations, by their names."""
    rows = [
        [name, r.network, r.batch, r.effectiveness, r.best_gops_w, r.best_v, r.best_bias_v, r.dram_share, r.fastest_ips, r.fastest_v, r.fastest_bias_v]
        for name, table in found.items() for r in table.itertuples()
    ]  # fmt: skip
    return _table([what, *_LIST], rows)


def page(
    space: DesignSpace, ours: Mapping[str, pd.DataFrame], parts: Mapping[str, pd.DataFrame], changed: Mapping[str, Mapping[str, pd.DataFrame]]
) -> str:  # fmt: skip
    """docs/study.md."""
    both = ours["base"].merge(ours["free"], on=["network", "batch"], suffixes=("", "_free"))
    columns = ("effectiveness", "best_gops_w", "best_v", "least_v", "core_least_v", "stops")
    header = ["network", "batch"] + [text for name in ("effectiveness", "GOPS/W", "at V", "least energy at V", "of the core at V", "raising stops paying")
                                     for text in (name, "without memory")] + ["DRAM's share"]  # fmt: skip
    rows = [
        [r["network"], r["batch"], *(r[name + kind] for name in columns for kind in ("", "_free")), r["dram_share"]] for _, r in both.iterrows()
    ]  # fmt: skip
    ranges = ", ".join(f"{c.name} x {c.low:g} and x {c.high:g}" for c in CONSTANTS)
    held = claims(ours)
    others = {name: claims(found) for name, found in changed.items()}
    flips = [[claim, "yes" if holds else "no", ", ".join(name for name in others if others[name][claim] != holds) or "none"] for claim, holds in held.items()]
    biases = ", ".join(f"{value:g}" for value in space.back_bias_v)
    sections = [
        ("Back bias", "bias", {f"{biases} V": "base", "none": "no bias"},
         "Forward bias lowers the thresholds: faster, and leakier. It is one more axis of a sweep; frequency-only sweeps have none."),
        ("Rails", "memories", {"own rail": "base", f"own rail, at least {HELD_V:g} V": "held rail", "the core's rail": "one rail"},
         "On a rail of their own the memories follow the core down to the least voltage at which they work; on the core's the core stops there, too."),
        ("Buffers", "banks", {"small": "small buffers", "large": "large buffers"},
         "Small: " + ", ".join(f"{bank.split('_')[0]} banks of {min(getattr(space, bank)) // 1024} KiB" for bank in _BANKS) + "; large: "
         + ", ".join(f"{max(getattr(space, bank)) // 1024} KiB" for bank in _BANKS) + "; everything else as in the space."),
        ("Slow corner", "clocks", {"typical": "base", "slow": "slow"},
         "The clocks are those at which slow chips (process ss) work as well; energy and leakage are a typical chip's."),
    ]  # fmt: skip
    lines = [
        "# What voltage scaling brings when the off-chip memory does not scale",
        "",
        f"Generated by `make study` (commit {source_commit()[:18]}); do not edit. Space `{SPACE}` of explore/spaces, {DRAM}, batch sizes {BATCHES}, "
        "margin 10 %,",
        "memory side at 800 MHz. The numbers come from the fitted model of the predictive library fdsoi28p, not from silicon; README states its errors. No",
        "regulator is in the model, so that the study says nothing of its losses. DVFS effectiveness is the hypervolume that lowering the voltage with",
        "the clock (and, where the model covers it, back bias) adds to lowering the clock alone, over that of the front of all architectures.",
        "",
        "## With and without the off-chip memory",
        "",
        '"Without" leaves out the DRAM\'s, lines\' and PHY\'s time and energy; AXI and the memory side stay. Lowering the voltage stops paying below the',
        'voltage of least energy, of which the median over all architectures stands here, for the system and for the core alone. "Raising stops paying" is',
        "the share of architectures whose throughput grows by less than a tenth of their clock from some voltage on.",
        "",
        _table(header, rows),
        "",
        "## By DRAM part",
        "",
        _listed("part", parts),
    ]
    for title, what, names, text in sections:
        present = {label: ours[view] for label, view in names.items() if view in ours}
        if len(present) > 1:
            lines += ["", f"## {title}", "", text, "", _listed(what, present)]
        else:
            lines += ["", f"## {title}", "", f"{text} The model covers nothing to compare with."]
    lines += [
        "",
        "## Claims, and which flip",
        "",
        "Each claim is computed from the tables above, and all explorations that it needs again with each assumed constant at a low and a high value",
        f"({ranges}).",
        "",
        _table(["claim", "holds", "flips with"], flips),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
