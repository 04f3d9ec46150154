"""The study's numbers are those of an exploration, its claims are computed from its tables, and what flips is listed."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up import biased, model, slow, space

from explore import study
from explore.chunks import Job
from explore.evaluate import predict_designs
from explore.exploration import cases_of, explore_all
from explore.study import CONSTANTS, claims, middle, page, scaled, summary, variant, views
from fit.model import write_model

NAMES = ("base", "free", "no bias", "one rail", "held rail", "small buffers", "large buffers", "slow")


def frame(effectiveness, dram_share=0.6):
    rows = [
        {"network": network, "batch": batch, "effectiveness": effectiveness * (2 if batch > 1 else 1), "median": 0.1, "best_gops_w": 100.0, "best_v": 0.6,
         "best_bias_v": 0.0, "dram_share": dram_share, "fastest_ips": 10.0, "fastest_v": 1.0, "fastest_bias_v": 0.5, "fastest_gops_w": 50.0, "stops": 0.75,
         "least_v": 0.7, "core_least_v": 0.5}
        for network in ("alexnet", "other") for batch in (1, 16)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def all_views(base, free):
    return {name: free if name == "free" else base for name in NAMES}


def test_claims_follow_the_numbers_and_flips_are_named():
    base, free = frame(0.2), frame(0.4)
    ours = claims(all_views(base, free))
    held = [claim for claim, holds in ours.items() if holds]
    assert len(ours) == 15 and [claim[:30] for claim in held[:2]] == ["the off-chip memory lowers the", "a larger batch raises the high"]
    changed = {"PHY x 2": all_views(frame(0.2, 0.4), free), "SRAM x 2": all_views(frame(0.5), free)}
    text = page(space(), all_views(base, free), {"part": base}, changed)
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    flipped = {claim: lines[claim].split(" | ")[2].removesuffix(" |") for claim in ours}
    assert flipped.pop(held[0]) == "SRAM x 2" and flipped.pop(held[2]) == "PHY x 2" and set(flipped.values()) == {"none"}
    for title in ("Back bias", "Rails", "Buffers", "Slow corner"):
        assert f"## {title}" in text
    assert not claims(all_views(free, base))[held[0]]


def test_what_the_model_does_not_cover_is_left_out_and_said():
    base = frame(0.2)
    few = {name: base for name in NAMES if name not in ("no bias", "slow", "one rail")}
    assert not any("bias" in claim or "slow" in claim or "rail of their own" in claim for claim in claims(few))
    text = page(space(), few, {"part": base}, {"PHY x 2": few})
    assert text.count("The model covers nothing to compare with.") == 2 and "| own rail, at least 0.8 V |" in text


def test_the_middle_of_counts():
    assert middle(np.array([0.5, 0.7, 1.0]), np.array([3, 1, 1, 0, 1, 1])) == 0.7
    assert middle(np.array([0.5, 1.0]), np.array([3, 1])) == 0.5


@pytest.fixture
def job(tmp_path, monkeypatch):
    write_model(biased().model_copy(update={"sram_voltage_range_v": (0.6, 1.0)}), tmp_path / "model.json")
    write_model(slow().model_copy(update={"voltage_range_v": (0.6, 1.0), "sram_voltage_range_v": (0.6, 1.0)}), tmp_path / "model_ss.json")
    monkeypatch.setattr(study, "SLOW", tmp_path / "model_ss.json")
    monkeypatch.setattr(study, "BUILD", tmp_path / "build")
    few = space(rows=[2], lanes=[8], weight_bank_bytes=[8192, 16384], back_bias_v=[0.0, 0.5])
    return Job(
        model=tmp_path / "model.json", space=few, cases=cases_of(["alexnet"], [1]), dram=study.DRAM, mem_clk_hz=8e8, margin=0.1, objective="latency"
    )  # fmt: skip


def test_a_summary_is_what_an_exploration_says(job, tmp_path):
    """Also of one with another energy, whose tilings are those found before."""
    known = {}
    for one in (job, variant(job, CONSTANTS[3], 2.0, "lines x 2"), variant(job, CONSTANTS[0], 0.5, "SRAM x 0.5")):
        found = summary(one, known).iloc[0]
        explored = explore_all(model_path=one.model, space=one.space, out=tmp_path / "out", cases=one.cases, dram=one.dram, workers=1)
        result, pareto = explored.run["results"][0], explored.pareto
        best, fastest = pareto.loc[pareto["efficiency_gops_w"].idxmax()], pareto.loc[pareto["throughput_ips"].idxmax()]
        assert found["effectiveness"] == pytest.approx(result["highest_effectiveness"]) and found["median"] == pytest.approx(result["median_effectiveness"])
        assert (found["best_gops_w"], found["best_v"], found["best_bias_v"]) == (best["efficiency_gops_w"], best["vdd_v"], best["back_bias_v"])
        assert found["dram_share"] == pytest.approx(best["dram_energy_j"] / best["power_w"] / best["latency_s"])
        assert (found["fastest_ips"], found["fastest_v"]) == (fastest["throughput_ips"], fastest["vdd_v"]) and found["fastest_bias_v"] == 0.5
        assert found["stops"] == pytest.approx(1 - result["raising_stops_paying_above_v"].get("never", 0), abs=1e-5)
        assert f"{found['least_v']:g}" in result["least_energy_at_v"] and f"{found['core_least_v']:g}" in result["least_core_energy_at_v"]
    assert len(known) == 1


def test_views_differ_in_what_they_are_named_after(job):
    found = views(job)
    assert set(found) == set(NAMES)
    assert found["free"].free_memory and found["no bias"].space.back_bias_v == [0.0] and found["held rail"].sram_vdd_v == 0.8
    assert found["one rail"].space.vdd_v.low > 0.6 and found["slow"].clock_model == study.SLOW and found["slow"].space.vdd_v.low > 0.6
    assert found["small buffers"].space.weight_bank_bytes == [8192] and found["large buffers"].space.weight_bank_bytes == [16384]
    known = {}
    assert summary(found["slow"], known)["fastest_ips"][0] < summary(replace(found["slow"], clock_model=None), known)["fastest_ips"][0]


def test_constants_are_scaled_where_they_stand():
    architectures = space().architectures()
    vdd_v = space().vdd_v.values()
    before = predict_designs(model(), architectures, vdd_v)
    after = {c.name: predict_designs(c.model(model(), 2.0), architectures, vdd_v) for c in CONSTANTS if c.model}
    assert after["leakage"].core_leakage_w == pytest.approx(2 * before.core_leakage_w) and after["leakage"].fmax_hz == pytest.approx(before.fmax_hz)
    for event, factor in (("activation_reads", 2.0), ("accumulator_accesses", 1.0)):
        assert after["SRAM energy"].core_event_j[event] == pytest.approx(factor * before.core_event_j[event])
        assert after["logic energy (wires)"].core_event_j[event] == pytest.approx(2 / factor * before.core_event_j[event])
    assert scaled(model(), lambda b: True, lambda q: q == "area_um2", 3.0).blocks["pe"].laws["area_um2"].terms[0].value == pytest.approx(
        3 * model().blocks["pe"].laws["area_um2"].terms[0].value
    )  # fmt: skip
