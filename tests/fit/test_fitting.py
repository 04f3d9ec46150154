"""The whole fit on tables made from a known truth: what it finds again, what it says of designs never seen, what it refuses."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from synthetic import PATHS, VOLTAGE, VOLTAGES, all_uses, corner_factor, corners, design_rows, path_truth, truth

from explore.cli import cli
from fit.blocks import BLOCKS, DERIVED, path_group, term_values
from fit.compose import predict, within_range
from fit.estimation import grouped, select, with_sides
from fit.explain import determined_text, explain
from fit.fitting import beside, fit, fit_beside, fit_corners
from fit.laws import Corners
from fit.model import read_model, reference_corner
from fit.tables import Tables
from fit.validation import compare, designs_in_turn, fitted_errors, intervals
from flow.table import CORNER_COLUMNS, PARAMETERS, PATH_COLUMNS, Provenance, write_table
from hw.errors import ConfigError, ModelError

FROM = Provenance(commit="0" * 40, command="made up", tools={"python": "3"}, inputs={"rtl": "0" * 64})
HELD_OUT = ("d0", "d1", "d2", "d3")


def made_up(**arguments) -> Tables:
    """Made-up tables, as if read from files."""
    frame, paths = corners(**arguments)
    rows, condition = select(frame)
    return Tables(corners=rows, paths=with_sides(paths, rows), condition=condition, corners_from=FROM, paths_from=FROM)


def written(folder, frame, paths) -> dict:
    """The arguments of `fit` that name the tables, written into `folder`."""
    write_table(frame, CORNER_COLUMNS, folder / "corners.csv", FROM)
    write_table(paths, PATH_COLUMNS, folder / "paths.csv", FROM)
    return {"corners_csv": folder / "corners.csv", "paths_csv": folder / "paths.csv"}


@pytest.fixture(scope="module")
def exact():
    """A model of tables without noise, and the tables."""
    tables = made_up(whole=14)
    return fit_corners(tables), tables


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """The file of a model of tables with 3 % block errors, four designs held out."""
    folder = tmp_path_factory.mktemp("fit")
    fit(**written(folder, *corners(count=16, whole=12, noise=0.03, seed=4)), out=folder / "model.json", held_out=HELD_OUT)
    return folder / "model.json"


def test_exact_tables_give_back_the_law_of_every_block(exact):
    model, _ = exact
    assert model.delay_law.chosen == "saturated_ekv" and model.reference_vdd_v == 1.0
    p = design_rows(40, np.random.default_rng(9))
    vdd = np.array([0.55, 0.85])
    for use in all_uses(p):
        block = model.blocks[use.block]
        for quantity, law in block.laws.items():
            names = tuple(t.name for t in law.terms)
            reference = law.structure(term_values(names, use.parameters))
            for v in [1.0] if BLOCKS[use.block].domain == "memory" else vdd:
                expected = truth(use.block, quantity, use.parameters, v)
                factor = law.factor(Corners(np.float64(v), np.float64(25.0), np.float64(0.0)), reference_corner(model))
                np.testing.assert_allclose(reference * factor, expected, rtol=0.02, err_msg=f"{use.block} {quantity}")


def test_a_design_never_measured_is_composed_from_its_blocks(exact):
    """Against sums and maxima written out here."""
    model, rows = exact
    candidates = design_rows(60, np.random.default_rng(11))
    p = {name: v[within_range(model, candidates)][:3] for name, v in candidates.items()}
    got = predict(model, p, [0.7, 1.0])
    for d in range(len(p["rows"])):
        for i, v in enumerate((0.7, 1.0)):
            area = leakage = cycle = 0.0
            slowest = max(path_truth(*path, p, v)[d] for path in PATHS)
            for use in all_uses(p):
                memory = BLOCKS[use.block].domain == "memory"
                waiting = use.parameters | {"steps": np.zeros(len(p["rows"]))}
                one = {q: truth(use.block, q, waiting, 1.0 if memory else v)[d] for q in ("area_um2", "leakage_w", "idle_energy_j")}
                area += use.count[d] * one["area_um2"]
                if not memory:
                    leakage += use.count[d] * one["leakage_w"]
                    cycle += use.count[d] * one["idle_energy_j"]
            assert got.area_um2[d] == pytest.approx(area, rel=0.02)
            assert got.core_leakage_w[d, i] == pytest.approx(leakage, rel=0.02)
            assert got.core_cycle_j[d, i] == pytest.approx(cycle, rel=0.02)
            assert got.fmax_hz[d, i] == pytest.approx(1 / slowest, rel=0.02)
            step = truth("pe", "step_energy_j", p, v)[d] - truth("pe", "idle_energy_j", p, v)[d]
            row = (truth("pe_row", "step_energy_j", p, v)[d] - truth("pe_row", "idle_energy_j", p, v)[d]) / p["cols"][d]
            # A step of an element with all lanes at work: what every step costs, and what each multiplication does.
            full = got.core_event_j["accumulator_accesses"][d, i] + p["lanes"][d] * got.core_event_j["useful_multiplications"][d, i]
            assert full == pytest.approx(step + row, rel=0.02)
            # A cycle in which the array works: the engine that steps it, and the wires between the blocks.
            glue = next(use.parameters for use in all_uses(p) if use.block == "glue")
            wires = truth("glue", "idle_energy_j", glue, v)[d] - truth("glue", "idle_energy_j", glue | {"steps": 0 * p["rows"]}, v)[d]
            compute = truth("compute", "step_energy_j", p, v)[d] - truth("compute", "idle_energy_j", p, v)[d]
            assert got.core_event_j["compute_busy"][d, i] == pytest.approx(compute + wires, rel=0.03)
    assert not got.extrapolated.any() and got.provisional == ("sram",)


SPARSE = (
    *((v, 25.0, b, "tt") for b in (0.5, 1.0) for v in (0.5, 0.65, 0.8)), *((v, t, 0.0, "tt") for t in (-40.0, 125.0) for v in (0.65, 1.0)),
    *((v, 25.0, 0.0, "ss") for v in VOLTAGES),
)  # fmt: skip
"""Corners as they are measured: no full grid, and the slow process at one temperature without bias."""


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Models of both processes, and the file of the typical one."""
    folder = tmp_path_factory.mktemp("processes")
    tables = written(folder, *corners(count=10, whole=6, more=SPARSE))
    typical = fit(**tables, out=folder / "model.json", in_turn=False)
    return typical, *fit_beside(typical, **tables, out=folder / "model.json", in_turn=False), folder / "model.json"


def check_corners(model, process, points):
    """Every quantity of whole designs against the truth at corners, measured or between those measured."""
    candidates = design_rows(200, np.random.default_rng(11))
    p = {name: v[within_range(model, candidates)][:2] for name, v in candidates.items()}
    vdd, warmth, bias = (np.array(x) for x in zip(*points, strict=True))
    got = predict(model, p, vdd, temperature_c=warmth, back_bias_v=bias)
    core = [use for use in all_uses(p) if BLOCKS[use.block].domain == "core"]
    for i, point in enumerate(points):
        leakage = sum(use.count * truth(use.block, "leakage_w", use.parameters, *point, process) for use in core)
        np.testing.assert_allclose(got.core_leakage_w[:, i], leakage, rtol=0.03, err_msg=str(point))
        slowest = np.max([path_truth(*path, p, *point, process) for path in PATHS], axis=0)
        np.testing.assert_allclose(got.fmax_hz[:, i], 1 / slowest, rtol=0.03, err_msg=str(point))


def test_biases_and_temperatures_of_a_sparse_table_are_found_again(processes):
    typical, _, _ = processes
    assert typical.process == "tt" and typical.temperature_range_c == (-40.0, 125.0) and typical.back_bias_range_v == (0.0, 1.0)
    check_corners(typical, "tt", [(0.5, 25.0, 1.0), (0.7, 25.0, 0.5), (0.9, 25.0, 0.3), (0.7, 125.0, 0.0), (1.0, -40.0, 0.0), (0.8, 85.0, 0.7)])
    slowest = max((path for path in typical.paths.values() if path.domain == "core"), key=lambda path: path.most)
    delay = {p.name: p.status for p in slowest.law.voltage_parameters}
    assert {delay[name] for name in ("threshold_per_c", "body", "mobility")} == {"fitted"}
    with pytest.raises(ModelError, match="back_bias_v must be within the fitted range 0 V to 1 V|back_bias_v must be within the fitted range 0 to 1 V"):
        predict(typical, {name: v[:1] for name, v in design_rows(1, np.random.default_rng(0)).items()}, [0.8], back_bias_v=1.2)


def test_the_slow_process_has_the_typical_ones_laws_and_what_it_was_not_measured_at(processes):
    typical, slow, file = processes
    assert slow.process == "ss" and read_model(beside(file, "ss")) == slow and beside(file, "ss").name == "model_ss.json"
    assert slow.delay_law == typical.delay_law and slow.cycles == typical.cycles
    for name, path in slow.paths.items():
        assert [t.value > 0 for t in path.law.terms] == [t.value > 0 for t in typical.paths[name].law.terms]
        own, other = ({p.name: p for p in model.paths[name].law.voltage_parameters} for model in (slow, typical))
        assert own["body"].status == "shared" and own["body"].value == other["body"].value and own["threshold_v"].status == "fitted"
    check_corners(slow, "ss", [(0.5, 25.0, 0.0), (0.72, 25.0, 0.0), (1.0, 25.0, 0.0)])
    # At a bias and a temperature at which the slow process was not measured.
    check_corners(slow, "ss", [(0.7, 25.0, 1.0), (0.8, 125.0, 0.0)])


def test_fifty_thousand_designs_at_twelve_voltages_take_seconds(exact):
    import time

    p = {name: np.resize(v, 50_000) for name, v in design_rows(64, np.random.default_rng(1)).items()}
    begin = time.perf_counter()
    got = predict(exact[0], p, np.linspace(0.5, 1.0, 12), extrapolate=True)
    assert got.fmax_hz.shape == (50_000, 12) and time.perf_counter() - begin < 20


def test_held_out_designs_and_intervals(noisy):
    model = read_model(noisy, technology="synthetic")
    by_name = {c.quantity: c for c in model.validation if c.split == "held-out designs"}
    assert set(by_name) == {"fmax", "leakage", "area", "energy per core cycle"}
    for comparison in by_name.values():
        assert comparison.model.groups == len(HELD_OUT)
        assert comparison.model.mean < 0.06 < comparison.ideal.mean if comparison.ideal else comparison.model.mean < 0.06
    # Four designs are too few to count for one quantity by itself.
    assert np.mean([c.interval_coverage for c in by_name.values()]) > 0.7
    assert model.sources[0].rows > 1000 and len(model.sources[0].sha256) == 64


def test_what_is_held_out_takes_no_part(tmp_path):
    """Spoiling every row of a held-out design leaves the model as it was."""
    table, paths = corners(count=6, whole=4, noise=0.02, seed=5, voltages=(0.5, 0.75, 1.0))
    models = []
    for spoiled in (False, True):
        frame = table.copy()
        if spoiled:
            rows = frame["design"] == "d0"
            frame.loc[rows, ["area_um2", "leakage_w", "min_period_s"]] *= 7.0
        if spoiled:
            paths.loc[paths["design"] == "d0", "delay_s"] *= 7.0
        models.append(fit(**written(tmp_path, frame, paths), out=tmp_path / "m.json", held_out=["d0"], in_turn=False))
    assert models[0].blocks == models[1].blocks and models[0].paths == models[1].paths and models[0].delay_law == models[1].delay_law
    assert models[0].validation != models[1].validation


def test_a_design_left_out_takes_its_variants_along():
    tables = made_up(count=10, whole=3)
    rows = tables.corners
    keys = list(BLOCKS["pe"].parameters)
    pe = rows[(rows["design"] == "d1") & (rows["block"] == "pe")].iloc[0]
    # Another design has the same PE under a name of its own.
    twin = (rows["design"] == "d5") & (rows["block"] == "pe")
    rows.loc[twin, keys] = pe[keys].to_numpy()
    both = tables.left_out("d1")
    left = both.corners
    assert set(both.paths["design"]) == {"d0", "d2"}
    assert ((left["design"] == "d5") & (left["block"] == "compute")).any()
    same = (left["block"] == "pe") & (left[keys] == pe[keys]).all(axis=1)
    assert not same.any() and set(left.loc[left["block"] == "accelerator", "design"]) == {"d0", "d2"}
    # A block without parameters has one variant only, and keeps the rows of the other designs.
    assert (left["block"] == "sequencer").any()


def test_the_clocks_skew_is_part_of_the_period():
    """A skew that grows with the side, made up, is found again and lengthens every period; with ideal clocks there is none."""
    ideal = made_up(count=8, whole=6, voltages=(0.5, 0.65, 0.8, 1.0))
    rows = ideal.corners.copy()
    whole = rows["block"] == "accelerator"
    skew_s = (20e-12 + 0.05e-12 * rows["side_um"]) * corner_factor(*VOLTAGE["delay"][:1], rows["vdd_v"], VOLTAGE["delay"][1])
    rows.loc[whole, "min_period_s"] += skew_s[whole]
    without, model = fit_corners(ideal), fit_corners(replace(ideal, corners=rows))
    assert without.skew is None
    assert {t.name: t.value for t in model.skew.terms} == {"one": pytest.approx(20e-12, rel=0.01), "trunk": pytest.approx(0.05e-12, rel=0.01)}
    p = {name: rows.loc[whole & (rows["design"] == "d0"), name].iloc[:1].to_numpy(dtype=float) for name in PARAMETERS}
    expected = skew_s[whole & (rows["design"] == "d0") & (rows["vdd_v"] == 0.65)].iloc[0]
    periods = [1 / predict(m, p, [0.65], extrapolate=True).fmax_hz[0, 0] for m in (without, model)]
    assert periods[1] - periods[0] == pytest.approx(expected, rel=0.05)
    rows.loc[rows.index[whole][0], "min_period_s"] = ideal.corners.loc[rows.index[whole][0], "min_period_s"]
    with pytest.raises(ModelError, match="skew must be above 0 in every whole design or in none, not 0 s"):
        fit_corners(replace(ideal, corners=rows))


def test_paths_that_share_a_law():
    """The slowest of each group in each design and corner, by a plain loop."""
    _, paths = corners(count=3, whole=2, voltages=(0.5, 1.0))
    more = paths.assign(start="store", delay_s=paths["delay_s"] * 1.5)
    got = grouped(pd.concat([paths, more], ignore_index=True))
    expected = {}
    for _, row in pd.concat([paths, more]).iterrows():
        start, end = row["start"], row["end"]
        if start.startswith("sram_"):
            end = "logic"
        elif start != "pe_row" or end != "pe_accumulator":
            start = "logic"
        key = row["design"], row["domain"], row["vdd_v"], start, end
        expected[key] = max(row["delay_s"], expected.get(key, 0.0))
    assert expected == {(r["design"], r["domain"], r["vdd_v"], r["start"], r["end"]): r["delay_s"] for _, r in got.iterrows()} and len(got) == len(expected)
    assert path_group("store_runs", "sram_output") == ("logic", "sram") and path_group("sram_weight", "pe") == ("sram_weight", "logic")


def test_designs_left_out_in_turn():
    tables = made_up(count=6, whole=4, noise=0.02, voltages=(0.5, 0.75, 1.0))
    model = fit_corners(tables)
    errors = designs_in_turn(tables, model)
    model = model.model_copy(update={"intervals": intervals(fitted_errors(tables, model), errors)})
    found = compare(errors, "designs in turn", model)
    assert {name: x.designs for name, x in model.intervals.items()} == dict.fromkeys(("fmax", "leakage", "area", "energy"), 4)
    assert {c.quantity for c in found} == {"fmax", "leakage", "area", "energy per core cycle"}
    assert all(c.model.groups == 4 and c.rank_correlation is not None for c in found)


def test_predictions_outside_the_range_are_refused_unless_asked_for(exact):
    model, _ = exact
    p = {name: v[:1] for name, v in design_rows(1, np.random.default_rng(0)).items()}
    inside = {name: np.array([8.0]) if name == "lanes" else v for name, v in p.items()}
    with pytest.raises(ModelError, match=r"^vdd_v must be within the fitted range 0.5 V to 1 V|^vdd_v must be within the fitted range 0.5 to 1 V, not 1.1 V"):
        predict(model, inside, [1.1])
    with pytest.raises(ModelError, match="lanes of pe must be within the fitted range"):
        predict(model, inside | {"lanes": np.array([256.0])}, [0.8])
    got = predict(model, inside | {"lanes": np.array([256.0])}, [0.8], extrapolate=True)
    assert got.extrapolated.all() and not within_range(model, inside | {"lanes": np.array([256.0])}).any()


def test_the_model_file_reads_back_and_refuses_what_it_is_not(noisy, tmp_path):
    model = read_model(noisy)
    assert read_model(noisy, technology="synthetic") == model
    with pytest.raises(ConfigError, match="technology of the model must be other, not synthetic"):
        read_model(noisy, technology="other")
    content = json.loads(noisy.read_text())
    for change, message in (
        ({"version": 1}, "version of a model must be 7, not 1"), ({"format": "x"}, "file must be a voltfront-model"), ({"blocks": 3}, "differ at blocks"),
    ):  # fmt: skip
        (tmp_path / "m.json").write_text(json.dumps(content | change))
        with pytest.raises(ConfigError, match=message):
            read_model(tmp_path / "m.json")
    (tmp_path / "m.json").write_text(noisy.read_text()[:-100])
    with pytest.raises(ConfigError, match="model must be a readable JSON file"):
        read_model(tmp_path / "m.json")
    with pytest.raises(ConfigError, match="model must exist"):
        read_model(tmp_path / "none.json")
    assert noisy.stat().st_size < 1_000_000


def test_tables_that_cannot_be_fitted_are_refused(tmp_path):
    table, paths = corners(count=3, whole=2)
    other = pd.concat([table, table.assign(process="ss")], ignore_index=True)
    with pytest.raises(ConfigError, match="rows to fit must have one process, not ss, tt"):
        select(other)
    assert (select(other, process="ss")[0]["process"] == "ss").all()
    with pytest.raises(ConfigError, match="rows to fit must have one technology, not none"):
        select(table, process="ff")
    with pytest.raises(ConfigError, match="block must be one of .* not warp_drive"):
        select(table.assign(block="warp_drive"))
    with pytest.raises(ConfigError, match="held-out designs must be in the table, not 'tiny'"):
        fit(**written(tmp_path, table, paths), out=tmp_path / "m.json", held_out=["tiny"])
    bad = table.copy()
    bad.loc[bad.index[bad["block"] == "pe"][0], "leakage_w"] = 0.0
    rows, condition = select(bad)
    with pytest.raises(ModelError, match="leakage_w of pe must be positive in every row or zero in all, not 0"):
        fit_corners(Tables(corners=rows, paths=with_sides(paths, rows), condition=condition, corners_from=FROM, paths_from=FROM))
    assert not (tmp_path / "m.json").exists()


def test_explain_prints_every_law_with_numbers(noisy):
    model = read_model(noisy)
    text = explain(model)
    for name, block in model.blocks.items():
        for quantity in block.laws:
            assert f"{name}.{quantity} = (" in text
    assert "undetermined" not in text or "+-" in text
    assert f"delay law: {model.delay_law.chosen}" in text and "provisional: sram" in text
    assert "held-out designs fmax" in " ".join(text.split())


def test_few_voltages_determine_few_parameters_and_that_is_said():
    """Also of tables with memories of flip-flops, which stand on the logic's supply."""
    found = []
    for voltages in ((1.0,), (0.8, 1.0), VOLTAGES):
        frame, paths = corners(count=2, whole=2, voltages=voltages)
        of_flops = (frame["block"] == "sram") & (frame["event"] == "read")
        frame = pd.concat([frame[frame["block"] != "sram"], frame[of_flops].assign(block="flipflop_1r1w", event="access")], ignore_index=True)
        rows, condition = select(frame)
        paths = with_sides(paths[~paths["start"].str.startswith("sram_")], rows)
        model = fit_corners(Tables(corners=rows, paths=paths, condition=condition, corners_from=FROM, paths_from=FROM))
        assert model.blocks["flipflop_1r1w"].laws["access_energy_j"].rows > 0 and model.blocks["flipflop_1r1w"].supply == "vdd_v"
        text = determined_text(model)
        assert text in explain(model)
        found.append(re.fullmatch(r"(\d+) of (\d+) parameters of corner laws determined(.*); (\d+) of (\d+) structural .* determined \((.*)\)", text).groups())
    assert found[0][0] == "0" and found[0][2] == f" ({found[0][1]} assumed)"
    assert 0 < int(found[1][0]) < int(found[2][0]) <= int(found[2][1]) and "assumed" in found[1][2]
    # Two designs cannot tell more than two terms apart.
    assert all(int(groups[3]) < int(groups[4]) and "undetermined" in groups[5] for groups in found)


def test_command_line_explains_and_fails_in_one_line(noisy, tmp_path):
    result = CliRunner().invoke(cli, ["fit", "--technology", "synthetic", "--out", str(noisy), "--explain"])
    assert result.exit_code == 0 and "pe.step_energy_j = (" in result.output
    result = CliRunner().invoke(cli, ["fit", "--corners", str(tmp_path / "none.csv"), "--out", str(tmp_path / "m.json")])
    assert isinstance(result.exception, ConfigError) and "voltfront characterize" in str(result.exception)


def test_all_parameters_are_known_to_the_blocks():
    """Every parameter of a block is a column of the table or stands in the module's name."""
    assert {name for block in BLOCKS.values() for name in block.parameters} <= set(PARAMETERS) | set(DERIVED)
