"""The study's claims are computed from its tables, and what flips is listed."""

import pandas as pd
import pytest
from made_up import model, space

from explore.evaluate import predict_designs
from explore.study import CONSTANTS, claims, page, scaled


def frame(effectiveness, dram_share=0.6):
    rows = [
        {"network": network, "batch": batch, "effectiveness": effectiveness * (2 if batch > 1 else 1), "median": 0.1, "best_gops_w": 100.0, "best_v": 0.6,
         "dram_share": dram_share, "gain": 2.0, "fastest_ips": 10.0, "fastest_v": 1.0, "stops": 0.5}
        for network in ("alexnet", "other") for batch in (1, 16)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_claims_follow_the_numbers_and_flips_are_named():
    base, free = frame(0.2), frame(0.4)
    assert all(claims(base, free).values())
    text = page(base, free, {"part": base}, {"PHY x 2": frame(0.2, 0.4), "SRAM x 2": frame(0.5)})
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    flipped = {claim: lines[claim].split(" | ")[2].removesuffix(" |") for claim in claims(base, free)}
    assert [*flipped.values()] == ["SRAM x 2", "none", "PHY x 2", "none"]
    assert not claims(free, base)["the off-chip memory lowers the highest DVFS effectiveness of every network at batch 1"]


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
