"""The validation page: what it says is reached and missed, the flow's repeatability, and what is left out in turn."""

import numpy as np
import pandas as pd
import pytest
from synthetic import VOLTAGES, corners

from fit.estimation import WHOLE, select, with_sides
from fit.fitting import fit_corners
from fit.model import Comparison, ErrorSummary, Source
from fit.tables import Tables
from fit.validation_page import draw, page, repeatability, voltages_in_turn
from flow.table import Provenance

FROM = Provenance(commit="0123456789ab", command="made up", tools={}, inputs={})


@pytest.fixture(scope="module")
def exact():
    """A model of tables without noise, and the tables."""
    frame, paths = corners(count=12, whole=6)
    rows, condition = select(frame)
    tables = Tables(corners=rows, paths=with_sides(paths, rows), condition=condition, corners_from=FROM, paths_from=FROM)
    source = Source(path="corners.csv", sha256="0" * 64, rows=len(rows), commit=FROM.commit, command=FROM.command, tools={}, inputs={})
    return fit_corners(tables).model_copy(update={"sources": (source,)}), tables


def comparison(quantity, split, *, mean, worst, rank=1.0, coverage=0.9, half_width=0.01, outside=0):
    errors = ErrorSummary(mean=mean, median=mean, p90=worst, worst=worst, rows=12, groups=2)
    return Comparison(quantity=quantity, split=split, model=errors, ideal=None, rank_correlation=rank, interval_coverage=coverage, half_width=half_width,
                      outside_range=outside)  # fmt: skip


def test_what_is_reached_and_what_is_missed_is_said(exact):
    model, tables = exact
    held = "held-out designs"
    comparisons = [
        comparison("leakage", held, mean=0.049, worst=0.149, half_width=0.09), comparison("area", held, mean=0.01, worst=0.09, half_width=0.015),
        comparison("fmax", held, mean=0.04, worst=0.05, rank=0.98, coverage=0.5, half_width=0.09, outside=3),
    ]  # fmt: skip
    text = page(model, tables, comparisons, ["d0", "d1"], "figure.png")
    verdicts = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[-1].removesuffix(" |") for line in text.splitlines() if "missed: " in line
                or line.endswith("| reached |")}  # fmt: skip
    assert verdicts == {"leakage": "reached", "area": "missed: worst", "fmax": "missed: mean, rank, interval, width"}
    assert "| cycles | random cases | not measured |" in text and "fmax, held-out designs: 3 of 12 rows" in text
    assert "![Predicted over measured](figure.png)" in text and FROM.commit in text and "d0, d1" in text
    # The same figures in both tables, and each path with its law.
    assert text.count("| 4.0 % |") >= 2 and all(f"| {name} | " in text for name in model.paths)


def test_errors_by_temperature_and_bias_and_of_further_processes(exact):
    model, tables = exact
    errors = pd.DataFrame(
        [("fmax", 25.0, 0.0, 1.1), ("fmax", 25.0, 0.0, 0.8), ("leakage", 25.0, 0.0, 1.05), ("fmax", 125.0, 0.0, 0.9), ("leakage", 25.0, 1.0, 1.2)],
        columns=["quantity", "temperature_c", "back_bias_v", "predicted"],
    ).assign(measured=1.0, split="held-out designs")  # fmt: skip
    slow = model.model_copy(update={"process": "ss", "validation": (comparison("fmax", "held-out designs", mean=0.041, worst=0.05),)})
    text = page(model, tables, [], ["d0"], "figure.png", errors=errors, others=[slow])
    assert "| held-out designs | 25 | 0 | 15.0 % (-5.0) | 5.0 % (+5.0) |" in text and "| held-out designs | 125 | 0 | 10.0 % (-10.0) |  |" in text
    assert "| held-out designs | 25 | 1 |  | 20.0 % (+20.0) |" in text
    assert "## Process ss" in text and "| held-out designs | fmax | 4.1 % |" in text
    plain = page(model, tables, [], ["d0"], "figure.png", errors=errors[(errors["temperature_c"] == 25.0) & (errors["back_bias_v"] == 0.0)])
    assert "## By temperature" not in plain and "## Process" not in plain


def test_repeatability_by_a_plain_loop(exact):
    _, tables = exact
    rows = tables.corners.copy()
    rng = np.random.default_rng(3)
    spread = rng.uniform(0.01, 0.1, len(rows))
    rows["energy_per_cycle_lo_j"] = rows["energy_per_cycle_j"] * (1 - spread)
    rows["energy_per_cycle_hi_j"] = rows["energy_per_cycle_j"] * (1 + 2 * spread)
    expected = []
    for (_, row), s in zip(rows.iterrows(), spread, strict=True):
        if row["cycles"] > 0 and row["energy_per_cycle_j"] > 0 and row["block"] != WHOLE:
            expected.append(1.5 * s)
    assert len(expected) > 20
    changed = Tables(corners=rows, paths=tables.paths, condition=tables.condition, corners_from=FROM, paths_from=FROM)
    assert repeatability(changed) == pytest.approx(np.median(expected))


def test_voltages_left_out_in_turn(exact):
    """Every voltage between the lowest and the highest, once for every design that is not held out; on exact tables the law is found without it. A
    spoiled voltage is not corrected by its own rows, which take no part."""
    model, tables = exact
    errors = voltages_in_turn(tables, model, ["d0"])
    assert set(errors["vdd_v"]) == set(VOLTAGES[1:-1]) and "d0" not in set(errors["design"]) and "area" not in set(errors["quantity"])
    designs = set(tables.corners.loc[tables.corners["block"] == WHOLE, "design"]) - {"d0"}
    assert set(errors["design"]) == designs and not errors.duplicated(["quantity", "design", "vdd_v"]).any()
    leakage = errors[errors["quantity"] == "leakage"]
    np.testing.assert_allclose(leakage["predicted"], leakage["measured"], rtol=0.05)
    spoiled = tables.corners.copy()
    spoiled.loc[spoiled["vdd_v"] == VOLTAGES[1], "leakage_w"] *= 3
    others = voltages_in_turn(Tables(corners=spoiled, paths=tables.paths, condition=tables.condition, corners_from=FROM, paths_from=FROM), model, ["d0"])
    both = leakage.merge(others[others["quantity"] == "leakage"], on=["design", "vdd_v"])
    at = both[both["vdd_v"] == VOLTAGES[1]]
    np.testing.assert_allclose(at["measured_y"], 3 * at["measured_x"])
    np.testing.assert_allclose(at["predicted_y"], at["predicted_x"], rtol=1e-6)


def test_the_figure_has_a_line_for_every_design(exact, tmp_path):
    model, tables = exact
    errors = voltages_in_turn(tables, model, [])
    draw(errors.assign(split="held-out designs"), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
