"""The random cases of the cycle model: how they are drawn, the tables that ship, and the page made of them."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from fit import cycle_campaign
from fit.cycle_campaign import designs, main, residual_table, summary, worst
from fit.cycle_cases import LEAST_CYCLES, MOST_CYCLES, case_row, cases, operator_of
from fit.cycle_fit import CALIBRATION, FRESH, cases_of, fit_cycles, predict_cases
from flow.table import CYCLE_COLUMNS, read_table, write_table
from hw.layers import LayerShape
from hw.lowering import lower
from hw.registers import EVENTS
from hw.tiling import Tiling, architecture, measure
from hw.verify.cases import OPERATORS


@pytest.fixture(scope="module")
def shipped():
    """The two tables that ship: fitted, fresh."""
    return read_table(CALIBRATION, CYCLE_COLUMNS)[0], read_table(FRESH, CYCLE_COLUMNS)[0]


@pytest.fixture(scope="module")
def coefficients(shipped):
    model, _ = fit_cycles(shipped[0])
    return np.array([number.value for number in model.parameters])


def test_cases_follow_from_the_seed_and_are_legal():
    drawn = list(islice(cases(designs("calibration"), 7), 60))
    assert drawn[:20] == list(islice(cases(designs("calibration"), 7), 20)) and drawn != list(islice(cases(designs("calibration"), 8), 60))
    assert {operator_of(case.shape) for _, case in drawn} == set(OPERATORS)
    assert len({config.name for config, _ in drawn}) > 5 and len({case.dram for _, case in drawn}) == 3
    for config, case in drawn:
        lowered = lower(config, case.shape, batch=case.batch, fold=case.fold).numbers
        t = measure(architecture(config), lowered, Tiling(*case.tiling))
        moved = t.activation_read_bytes + t.weight_read_bytes + t.parameter_read_bytes + t.program_read_bytes + t.output_write_bytes
        assert t.problem == 0 and LEAST_CYCLES - 1 <= t.pixel_steps + moved / config.axi_bytes <= MOST_CYCLES + 1
    ratios = np.array([case.core_period_ps / case.mem_period_ps for _, case in drawn])
    assert ratios.min() < 0.6 and ratios.max() > 3


def test_operators_are_told_apart():
    sizes = {"name": "x", "kind": "conv", "in_channels": 8, "out_channels": 8, "in_h": 4, "in_w": 4}
    assert operator_of(LayerShape(**sizes)) == "pointwise"
    assert operator_of(LayerShape(**sizes, kernel_h=3)) == operator_of(LayerShape(**sizes, groups=2)) == "convolution"
    assert operator_of(LayerShape(**sizes, groups=8)) == "depthwise"
    assert operator_of(LayerShape(name="x", kind="max_pool", in_channels=8, in_h=4, in_w=4, kernel_h=2, kernel_w=2)) == "max pool"


def test_the_shipped_halves_are_whole_and_apart(shipped):
    """`cases_of` refuses rows whose counters contradict the tiling; besides, the counters must add up as `hw.registers` says."""
    fitted, fresh = shipped
    assert len(fitted) >= 300 and len(fresh) >= 100
    key = [name for name in CYCLE_COLUMNS if name not in EVENTS]
    assert not fitted.merge(fresh, on=key).size
    assert set(fresh["design"]) - set(fitted["design"]) == set(cycle_campaign.UNSEEN)
    for frame in shipped:
        rows = cases_of(frame)
        assert (rows.core_cycles >= rows.compute_cycles).all() and (frame["compute_busy"] + frame["stall_drain"] <= rows.compute_cycles).all()
        assert len(frame[["kind"]].drop_duplicates()) == 7
    kept = (fresh["depthwise_taps"] > 0) & fresh["kind"].isin(["conv", "average_pool"]) & (fresh["groups"] == fresh["in_channels"])
    assert (kept & ((fresh["kernel_w"] % 2 == 0) | (fresh["kernel_w"] % 3 == 0))).any(), "layers that use kept words"



def test_the_model_holds_on_cases_that_it_has_not_seen(shipped, coefficients):
    """Far better than the peak rate and than a model that says every layer takes as long as its slowest single resource."""
    fresh = shipped[1]
    rows = cases_of(fresh)
    error = np.abs(predict_cases(rows, coefficients)[:, 0] / rows.core_cycles - 1)
    busy = fresh["compute_busy"].to_numpy()
    beats = fresh["dram_read_bytes"].to_numpy() * 8 / fresh["axi_data_bits"].to_numpy() * np.maximum(1, rows.mem_period_s / rows.core_period_s)
    simple = np.abs(np.maximum(busy, beats) / rows.core_cycles - 1)
    assert np.median(error) < 0.04 and error.mean() < 0.07 and error.mean() < simple.mean() / 4


def test_predictions_do_not_read_what_was_measured(shipped, coefficients):
    """Cycles and stalls are no inputs: scrambled, they change nothing."""
    frame = shipped[1].head(20)
    scrambled = frame.assign(core_cycles=1, stall_load=0, stall_store=0, stall_program=0, load_busy=7)
    np.testing.assert_array_equal(predict_cases(cases_of(frame), coefficients), predict_cases(cases_of(scrambled), coefficients))


def test_residuals_and_groups_by_hand():
    residuals = pd.DataFrame({
        "design": ["a", "a", "b", "b"], "layer": ["l0", "l1", "l2", "l3"], "operator": ["add"] * 4, "measured": [100, 200, 400, 800],
        "predicted": [101.0, 190.0, 408.0, 800.0], "error": [0.01, -0.05, 0.02, 0.0], "ratio": [1.0] * 4,
        "waiting": ["memory-bound", "memory-bound", "compute-bound", "compute-bound"], "limit": ["limit: dram"] * 4, "seen": ["designs seen"] * 4,
        "size": ["small"] * 4, "steps": ["1 to 4 steps"] * 4, "tiles": ["tiles all alike"] * 3 + ["tiles that differ"], "padding": ["no padding"] * 4,
        "dram": ["one"] * 4,
    })  # fmt: skip
    lines = summary(residuals).splitlines()
    assert lines[2] == "| all | 4 | 2.0 % | 1.5 % | 4.1 % | 5.0 % |"
    assert "| memory-bound | 2 | 3.0 % | 3.0 % | 4.6 % | 5.0 % |" in lines and "| compute-bound | 2 | 1.0 % | 1.0 % | 1.8 % | 2.0 % |" in lines
    assert [line.split(" | ")[1] for line in worst(residuals, 2).splitlines()[2:]] == ["l1", "l2"]


def test_residuals_of_the_shipped_cases(shipped, coefficients):
    frame = shipped[1].head(60).reset_index(drop=True)
    found = residual_table(frame, coefficients, designs_seen={"c01"})
    np.testing.assert_allclose(found["predicted"] / frame["core_cycles"] - 1, found["error"])
    waits = (frame["stall_load"] + frame["stall_store"] + frame["stall_program"]) / frame["core_cycles"]
    assert ((found["waiting"] == "memory-bound") == (waits > 0.5)).all()
    assert not (found["padding"][frame[["pad_top", "pad_bottom", "pad_left", "pad_right"]].sum(axis=1) == 0] == "padding written").any()
    alike = found["tiles"] == "tiles all alike"  # then every COMPUTE has as many steps
    assert alike.any() and not alike.all() and not (frame["compute_busy"] % found["computes"])[alike].any()
    assert ((found["seen"] == "designs seen") == (frame["design"] == "c01")).all()


def test_what_was_simulated_from_the_same_rtl_is_kept(tmp_path, monkeypatch):
    """With the RTL of the table that ships nothing is simulated again, and the table comes out as it was; with another design's, its rows are."""
    frame, origin = read_table(FRESH, CYCLE_COLUMNS)
    table, rtl = tmp_path / "validation.csv", dict(origin.inputs)
    write_table(frame, CYCLE_COLUMNS, table, origin)
    asked = []
    monkeypatch.setattr(cycle_campaign, "emit_rtl", lambda config: SimpleNamespace(content_hash=rtl[config.name]))
    monkeypatch.setattr(cycle_campaign, "simulated_row", lambda config, case: asked.append(config.name) or case_row(config, case, dict.fromkeys(EVENTS, 1)))
    arguments = ["simulate", "validation", "--cases", str(len(frame)), "--out", str(table)]
    for changed in ("", "medium"):
        rtl |= {changed: "another"}
        asked.clear()
        assert CliRunner().invoke(main, arguments, catch_exceptions=False).exit_code == 0
        assert asked == list(frame["design"][frame["design"] == changed])
        kept = (frame["design"] != changed).to_numpy()
        pd.testing.assert_frame_equal(read_table(table, CYCLE_COLUMNS)[0][kept], frame[kept])


def test_the_page_is_made_without_simulating(tmp_path, monkeypatch):
    monkeypatch.setattr(cycle_campaign, "simulated_row", None)
    result = CliRunner().invoke(main, ["page", "--out", str(tmp_path / "cycles.md")])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "cycles.md").read_text()
    assert "| all | " in text and "| load_gap | " in text and "memory-bound" in text
    assert (tmp_path / "cycles.png").read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 2
