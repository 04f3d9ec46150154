"""The whole exploration on a small space, its files, and the commands."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from made_up import biased, conditions, model, slow, space

from explore import chunks, commands
from explore.chunks import Case, Constraints, Job, evaluate_block, read_block
from explore.cli import cli
from explore.evaluate import clock_hz, evaluate, predict_designs, total
from explore.exploration import FILES, cases_of, default_cases, explore_all
from explore.pareto import hypervolume
from explore.points import LAYER_COLUMNS, POINT_COLUMNS, SWEEP_COLUMNS
from explore.report import TEXTS
from explore.stages import run_stage
from fit.model import read_model, write_model
from hw.errors import ConfigError, ModelError
from hw.layers import LayerShape, load_network

# In the least weight bank AlexNet's 11 x 11 kernels do not fit with 16 lanes of words.
SPACE = space(weight_bank_bytes=[1024 * 4, 16384], lanes=[8, 16], back_bias_v=[0.5, 0.0, 1.0])
VDD_V, BIAS_V = np.tile(SPACE.vdd_v.values(), 3), np.repeat([0.0, 0.5, 1.0], 4)
"""All points of an architecture, those without bias first."""


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "synthetic.json"
    write_model(biased(), path)
    return path


@pytest.fixture(scope="module")
def explored(model_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("explore")
    return explore_all(model_path=model_path, space=SPACE, out=out, workers=1, command="made up"), out


def test_the_report_takes_for_text_what_the_exploration_writes_as_text(explored):
    _, out = explored
    for name in ("pareto.csv", "dvfs.csv", "layers.csv"):
        frame = pd.read_csv(out / name, keep_default_na=False)
        numbers = {column for column in frame if pd.api.types.is_numeric_dtype(frame[column])}
        assert set(frame) - numbers <= set(TEXTS), name


@pytest.fixture(scope="module")
def everything():
    """Of each case: places in the space [architectures], throughput, efficiency, power, latency [architectures, points] and area, one by one."""
    given = conditions()
    architectures = SPACE.architectures()
    job = Job(model=None, space=SPACE, cases=default_cases(), dram="lpddr3_1600_x32", mem_clk_hz=8e8, margin=0.1, objective="latency")
    tasks, repeats = job.tasks()
    designs = predict_designs(biased(), architectures, VDD_V, back_bias_v=BIAS_V)
    assert np.all(designs.fmax_hz[:, 8:] > designs.fmax_hz[:, 4:8]) and np.all(designs.core_leakage_w[:, 4:8] > designs.core_leakage_w[:, :4])
    results = evaluate(biased(), architectures, tasks, given, VDD_V, clock_hz(designs, given), np.arange(len(VDD_V)), BIAS_V)
    found = {}
    for case, times in zip(job.cases, repeats, strict=True):
        values = total(results, np.flatnonzero(times), times[times > 0]).values
        latency, energy = values[..., 0], values[..., 2] + values[..., 4] + values[..., 6:11].sum(axis=-1)
        fits = ~np.isnan(latency[:, 0])
        latency, energy = latency[fits], energy[fits]
        found[case.network.name, case.batch] = {
            "place": architectures.index[fits], "x": case.batch / latency, "y": 2e-9 * case.network.macs * case.batch / energy, "power": energy / latency,
            "latency": latency, "area": designs.area_um2[fits],
        }  # fmt: skip
    return found


def beaten(x, y, z=None):
    """[points] whether another point is at least as good everywhere and better somewhere, by comparing each with each."""
    axes = [x, y] + ([z] if z is not None else [])
    at_least = np.all([axis[:, None] >= axis[None] for axis in axes], axis=0)
    better = np.any([axis[:, None] > axis[None] for axis in axes], axis=0)
    return (at_least & better).any(axis=0)


def read(out):
    return pd.read_parquet(out / "points.parquet"), *(pd.read_csv(out / f"{name}.csv") for name in ("pareto", "dvfs", "layers"))


def test_files_have_their_columns_and_agree(explored):
    found, out = explored
    points, pareto, dvfs, layers = read(out)
    assert sorted(p.name for p in out.iterdir()) == sorted([*FILES, "chunks"])
    assert list(points) == list(POINT_COLUMNS) == list(pareto) and list(dvfs) == list(SWEEP_COLUMNS | POINT_COLUMNS) and list(layers) == list(LAYER_COLUMNS)
    for table in (points, pareto, dvfs, layers):
        assert not table.isna().any().any()
    energy = points["power_w"] * points["latency_s"]
    parts = points[["core_energy_j", "memory_side_energy_j", "dram_energy_j"]].sum(axis=1)
    np.testing.assert_allclose(parts, energy)
    dram = points[[f"dram_{part}_energy_j" for part in ("core", "io", "phy", "background", "refresh")]].sum(axis=1)
    np.testing.assert_allclose(dram, points["dram_energy_j"])
    macs = points["network"].map({"alexnet": 724_406_816, "alexnet_conv": 665_784_864})
    np.testing.assert_allclose(points["efficiency_gops_w"], 2e-9 * macs * points["batch"] / energy)
    np.testing.assert_allclose(points["throughput_gops"], 2e-9 * macs * points["throughput_ips"])
    assert (points["throughput_gops"] * 1e9 <= 2 * points[["rows", "cols", "lanes"]].prod(axis=1) * points["freq_hz"]).all()
    assert (points["latency_s_lo"] < points["latency_s"]).all() and (points["efficiency_gops_w_hi"] > points["efficiency_gops_w"]).all()
    assert (points["sram_vdd_v"] == np.maximum(points["vdd_v"], model().sram_voltage_range_v[0])).all()
    pd.testing.assert_frame_equal(points[points["on_front"] == "yes"].reset_index(drop=True), found.pareto, check_dtype=False)


def test_front_is_that_of_all_points_compared_with_each_other(explored, everything):
    _, out = explored
    _, pareto, _, layers = read(out)
    names = dict(zip(SPACE.architectures().names(), SPACE.architectures().index, strict=True))
    for (network, batch), own in everything.items():
        best = pareto[(pareto["network"] == network) & (pareto["batch"] == batch)]
        x, y = own["x"].ravel(), own["y"].ravel()
        expected = sorted({(float(a), float(b)) for a, b in zip(x[~beaten(x, y)], y[~beaten(x, y)], strict=True)})  # of equal ones one is kept
        np.testing.assert_allclose(sorted(zip(best["throughput_ips"], best["efficiency_gops_w"], strict=True)), expected)
        points = np.column_stack([np.repeat(own["place"], len(VDD_V)), np.tile(np.column_stack([VDD_V, BIAS_V]), (len(own["place"]), 1))])
        known = set(map(tuple, points[~beaten(x, y)]))
        assert {(names[a], v, b) for a, v, b in zip(best["architecture"], best["vdd_v"], best["back_bias_v"], strict=True)} <= known
        fastest = layers[(layers["network"] == network) & (layers["batch"] == batch) & (layers["choice"] == "fastest")]
        assert (fastest["latency_s"] * fastest["repeats"]).sum() == pytest.approx(best["latency_s"].iloc[-1])
        assert (fastest["core_energy_j"] * fastest["repeats"]).sum() == pytest.approx(best["core_energy_j"].iloc[-1])
        mine = layers[(layers["network"] == network) & (layers["batch"] == batch)]
        recorded = (mine["latency_s"] * mine["repeats"]).groupby(mine["choice"]).sum()
        assert {f"{s:.9g}" for s in recorded} == {f"{s:.9g}" for s in best["latency_s"]}
        assert (layers["utilization"] <= 1).all() and fastest["macs"].sum() == (665_784_864 if network == "alexnet_conv" else 724_406_816) * batch


def test_front_with_area_is_that_of_all_points(model_path, everything, tmp_path):
    found = explore_all(model_path=model_path, space=SPACE, out=tmp_path, workers=1, with_area=True)
    for (network, batch), own in everything.items():
        best = found.pareto[(found.pareto["network"] == network) & (found.pareto["batch"] == batch)]
        x, y, z = own["x"].ravel(), own["y"].ravel(), np.repeat(-own["area"], own["x"].shape[1])
        kept = ~beaten(x, y, z)
        expected = sorted(set(zip(x[kept], y[kept], z[kept], strict=True)))
        np.testing.assert_allclose(sorted(zip(best["throughput_ips"], best["efficiency_gops_w"], -best["area_um2"], strict=True)), expected)


def test_ties_are_architectures_whose_intervals_reach_the_front(explored):
    points, pareto, _, _ = read(explored[1])
    ties = points[points["on_front"] == "tie"]
    assert len(ties)
    for tie in ties.itertuples():
        own = pareto[(pareto["network"] == tie.network) & (pareto["batch"] == tie.batch)]
        surely = (tie.batch / own["latency_s_hi"] >= tie.batch / tie.latency_s_lo) & (own["efficiency_gops_w_lo"] >= tie.efficiency_gops_w_hi)
        assert not surely.any() and tie.architecture not in set(own["architecture"])


def test_constraints_keep_what_they_allow_and_name_what_removes_the_last(model_path, everything, tmp_path):
    own = everything["alexnet", 16]
    # A hair above, for a quantile may be one of the values, which come out of another order of sums here.
    limits = {
        "max_area_mm2": np.median(own["area"]) * 1.000001e-6, "max_power_w": np.quantile(own["power"], 0.6) * 1.000001,
        "max_latency_s": np.quantile(own["latency"], 0.6) * 1.000001,
    }  # fmt: skip
    cases = cases_of(["alexnet"], [16])
    found = explore_all(model_path=model_path, space=SPACE, out=tmp_path, workers=1, cases=cases, constraints=Constraints(**limits)).pareto
    x, y, area = own["x"].ravel(), own["y"].ravel(), np.repeat(own["area"], own["x"].shape[1])
    allowed = (area <= limits["max_area_mm2"] * 1e6) & (own["power"].ravel() <= limits["max_power_w"]) & (own["latency"].ravel() <= limits["max_latency_s"])
    kept = ~beaten(x[allowed], y[allowed])
    expected = sorted(set(zip(x[allowed][kept], y[allowed][kept], strict=True)))
    np.testing.assert_allclose(sorted(zip(found["throughput_ips"], found["efficiency_gops_w"], strict=True)), expected)
    for change, message in (
        ({"max_area_mm2": 1e-6}, "max_area_mm2 must leave a candidate for alexnet, batch 16, which 1e-06 does not; raise --max-area-mm2"),
        ({"max_power_w": float(own["power"].min() * 1.001), "max_latency_s": float(own["latency"].min() * 1.001)}, "max_latency_s must leave a candidate"),
        ({"max_power_w": 1e-9, "max_latency_s": 1e-9}, "max_power_w must leave a candidate"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            explore_all(model_path=model_path, space=SPACE, out=tmp_path, workers=1, cases=cases, constraints=Constraints(**change))
    with pytest.raises(ConfigError, match="max_power_w must be above 0, not -1"):
        Constraints(max_power_w=-1)


def test_a_layer_that_fits_nowhere_is_named(model_path, tmp_path):
    wide = LayerShape(name="wide", kind="conv", in_channels=8, out_channels=8, in_h=64, in_w=64, kernel_h=64, kernel_w=64)
    last = load_network("alexnet").layers[-1]
    network = load_network("alexnet").model_copy(update={"layers": [last, wide, last.model_copy(update={"name": "other"})]})
    with pytest.raises(ConfigError, match=r"every layer of alexnet fit, which none of few do \(layer wide on the fewest\); make them larger"):
        explore_all(model_path=model_path, space=SPACE, out=tmp_path, workers=1, cases=[Case(network=network, whole=network, batch=1)])


def test_sweeps_give_the_effectiveness_as_defined(explored):
    _, out = explored
    _, pareto, dvfs, _ = read(out)
    for (network, batch, _), rows in dvfs.groupby(["network", "batch", "rank"]):
        best = pareto[(pareto["network"] == network) & (pareto["batch"] == batch)]
        lowered, slowed = rows[rows["sweep"] == "dvfs"], rows[rows["sweep"] == "frequency"]
        assert list(lowered["vdd_v"]) == list(VDD_V) and list(lowered["back_bias_v"]) == list(BIAS_V)
        plain = lowered[lowered["back_bias_v"] == 0]
        assert (slowed["vdd_v"] == 1.0).all() and (slowed["back_bias_v"] == 0).all() and list(slowed["freq_hz"]) == list(plain["freq_hz"])
        volume = [hypervolume(x["throughput_ips"], x["efficiency_gops_w"]) for x in (lowered, slowed, best)]
        assert rows["effectiveness"].iloc[0] == pytest.approx((volume[0] - volume[1]) / volume[2])
        assert volume[0] > hypervolume(plain["throughput_ips"], plain["efficiency_gops_w"])
        for name, least in (("", lowered["efficiency_gops_w"].argmax()), ("core_", lowered["core_energy_j"].argmin())):
            assert lowered[f"{name}min_energy_vdd_v"].iloc[0] == VDD_V[least] and lowered[f"{name}min_energy_back_bias_v"].iloc[0] == BIAS_V[least]
        for bias in (0.0, 0.5, 1.0):
            one = lowered[lowered["back_bias_v"] == bias]
            efficiency, throughput = (np.diff(np.log(one[name]))[0] for name in ("efficiency_gops_w", "throughput_ips"))
            assert one["slope"].iloc[0] == pytest.approx(efficiency / throughput)
        # At nominal voltage the sweeps meet, and at the same clock a lower voltage never costs energy.
        lowered = plain
        np.testing.assert_allclose(lowered["efficiency_gops_w"].iloc[-1], slowed["efficiency_gops_w"].iloc[-1])
        assert (lowered["core_energy_j"].to_numpy() <= slowed["core_energy_j"].to_numpy() * (1 + 1e-12)).all()
        np.testing.assert_allclose(lowered["throughput_ips"], slowed["throughput_ips"])


def test_every_effectiveness_is_kept(explored, everything):
    found, out = explored
    table, _, dvfs, _ = pd.read_parquet(out / "architectures.parquet"), *read(out)[1:]
    assert sorted(table["place"]) == sorted(SPACE.architectures().index)
    for result in found.run["results"]:
        column = table[f"effectiveness_{result['network']}_b{result['batch']}"]
        own = everything[result["network"], result["batch"]]
        assert set(table["place"][column.notna()]) == set(own["place"])
        top = dvfs[(dvfs["network"] == result["network"]) & (dvfs["batch"] == result["batch"]) & (dvfs["rank"] == 1)]
        assert column.max() == pytest.approx(top["effectiveness"].iloc[0], rel=1e-5) == pytest.approx(result["highest_effectiveness"], rel=1e-5)
        at = own["y"].argmax(axis=1)
        for values, key in ((VDD_V, "least_energy_at_v"), (BIAS_V, "least_energy_at_back_bias_v")):
            known = {f"{v:g}": pytest.approx(np.mean(values[at] == v), abs=1e-5) for v in set(values[at])}
            assert known == result[key]
        stops = chunks._stops(own["x"][:, :4], own["latency"][:, :4] * 0 + 1 / clock_hz_of(own["place"]))
        known = {f"{VDD_V[i]:g}" if i < 4 else "never": pytest.approx(np.mean(stops == i), abs=1e-5) for i in set(stops)}
        assert known == result["raising_stops_paying_above_v"]


def clock_hz_of(places):
    return clock_hz(predict_designs(biased(), SPACE.at(places), SPACE.vdd_v.values()), conditions())


def test_where_raising_the_voltage_stops_paying():
    """By hand: throughput follows the clock, then a tenth of it, then not at all."""
    period = 1 / np.array([[1.0, 2.0, 4.0, 8.0]])
    for throughput, expected in (([1, 2, 4, 8], 4), ([1, 2, 2.05, 2.05], 1), ([1, 1, 1, 1], 0), ([1, 2, 4, 4], 2), ([1, 1.01, 2, 2.01], 2)):
        assert chunks._stops(np.array([throughput], dtype=float), period) == [expected]


def test_what_was_not_evaluated_is_counted(explored):
    found, out = explored
    run, table = json.loads((out / "run.json").read_text()), pd.read_parquet(out / "architectures.parquet")
    assert run == found.run
    counts = run["counts"]
    assert counts["combinations"] == 16 == counts["evaluated"] + sum(counts["not_evaluated"].values()) and counts["evaluated"] == len(table)
    for result in run["results"]:
        fitting = table[f"effectiveness_{result['network']}_b{result['batch']}"].notna().sum()
        assert fitting == result["architectures"] == counts["evaluated"] - result["architectures_a_layer_does_not_fit"]
        assert result["points"] == result["points_allowed"] == fitting * len(VDD_V)
    assert {(r["network"], r["batch"]) for r in run["results"]} == {(c.network.name, c.batch) for c in default_cases()}


def test_same_bytes_twice_and_after_a_kill(explored, model_path, tmp_path, monkeypatch):
    one, out = explored
    again = explore_all(model_path=model_path, space=SPACE, out=tmp_path, workers=1, command="made up")
    assert again.run == one.run
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name
    # A block cut short is computed again, a whole one is not.
    chunk = next((tmp_path / "chunks").rglob("00001.npz"))
    chunk.write_bytes(chunk.read_bytes()[:1000])
    calls = []
    monkeypatch.setattr(chunks, "evaluate_block", lambda *given: calls.append(given[1]) or evaluate_block(*given))
    for expected in (1, 1):
        explore_all(model_path=model_path, space=SPACE, out=tmp_path, workers=1, command="made up")
        assert len(calls) == expected
    assert (tmp_path / "pareto.csv").read_bytes() == (out / "pareto.csv").read_bytes()


def test_workers_do_not_change_the_result(explored, model_path, tmp_path):
    explore_all(model_path=model_path, space=SPACE, out=tmp_path, workers=2, command="made up")
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (explored[1] / name).read_bytes(), name


def test_blocks_do_not_keep_their_points(model_path, tmp_path):
    """What a block keeps does not grow with the voltages but for its front."""
    sizes = []
    for count in (4, 64):
        few = space(vdd_v={"low": 0.5, "high": 1.0, "count": count})
        job = Job(model=model_path, space=few, cases=default_cases(), dram="lpddr3_1600_x32", mem_clk_hz=8e8, margin=0.1, objective="latency")
        evaluate_block(job, 0, [np.zeros((0, 2))] * 4, tmp_path / "block.npz")
        block = read_block(tmp_path / "block.npz", chunks.BLOCK)
        sizes.append(sum(value.nbytes for name, value in block.items() if not name.startswith("front_")))
    assert sizes[1] - sizes[0] == 60 * 8 * 4 * 3  # three counts a voltage and case


def test_layers_alike_are_evaluated_once():
    cases = default_cases()
    job = Job(model=None, space=SPACE, cases=cases, dram="lpddr3_1600_x32", mem_clk_hz=8e8, margin=0.1, objective="latency")
    tasks, repeats = job.tasks()
    assert repeats.sum(axis=1).tolist() == [5, 5, 8, 8] and len(tasks) == 16 and [t.first for t in tasks].count(True) == 2
    assert cases[0].network.macs == 665_784_864 and load_network("alexnet").macs == 724_406_816
    job = Job(model=None, space=SPACE, cases=cases_of(["bert_base"], [1]), dram="lpddr3_1600_x32", mem_clk_hz=8e8, margin=0.1, objective="latency")
    tasks, repeats = job.tasks()
    assert len(tasks) == 6 and repeats.sum() == 96  # the first projection of the first block may be folded
    assert sum(t.shape.macs * n for t, n in zip(tasks, repeats[0], strict=True)) == job.cases[0].network.macs


def test_what_the_model_does_not_cover_is_refused(model_path, tmp_path):
    for change, error, message in (
        ({"space": space(back_bias_v=[0.5])}, ModelError, "back_bias_v must include that of the model, 0 V, not only 0.5"),
        ({"channels": 0}, ConfigError, "channels must be 1 to 16"),
        ({"mem_clk_hz": 1e12}, ModelError, "mem_clk_hz must be at most"),
        ({"space": space(rows=[16], cols=[64])}, ModelError, "must overlap the fitted range"),
        ({"space": space(vdd_v={"low": 0.5, "high": 0.9, "count": 3})}, ConfigError, "vdd_v.high must be the nominal 1 V"),
        ({"space": space(vdd_v={"low": 0.4, "high": 1.0, "count": 3})}, ModelError, "vdd_v must be within"),
        ({"objective": "beauty"}, ConfigError, "objective must be one of"),
        ({"model_path": tmp_path / "none.json"}, ConfigError, "model must exist"),
        ({"dram": "none"}, ConfigError, "none"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            explore_all(**{"model_path": model_path, "space": SPACE, "out": tmp_path / "out", "workers": 1} | change)
    assert not any((tmp_path / "out" / name).exists() for name in FILES)


def test_biases_beyond_the_model_are_counted(model_path, tmp_path):
    few = {"space": space(rows=[2], lanes=[8], back_bias_v=[0.0, 0.5, 1.5, -1.0]), "cases": default_cases()[:1], "workers": 1}
    found = explore_all(model_path=model_path, out=tmp_path, **few)
    counts = found.run["counts"]
    assert counts["back_biases"] == [0.0, 0.5] and counts["back_biases_not_in_the_model"] == [1.5, -1.0]
    assert counts["points"] == 2 * 4 * 2 and set(pd.read_csv(tmp_path / "dvfs.csv")["back_bias_v"]) == {0.0, 0.5}


def test_at_the_slow_corner_clocks_are_those_of_slow_chips_and_energy_that_of_typical_ones(model_path, tmp_path):
    """Every point of the sweeps, one by one; without the model of the slow process or with the same one twice there is no result."""
    slow_path = tmp_path / "slow.json"
    write_model(slow(), slow_path)
    few = {"model_path": model_path, "space": SPACE, "cases": default_cases()[:1], "workers": 1}
    found, typical = explore_all(out=tmp_path / "slow", clock_model_path=slow_path, **few), explore_all(out=tmp_path / "typical", **few)
    assert found.run["corner"] == {"process": "tt", "clock_process": "ss", "temperature_c": 25.0} and found.run["key"] != typical.run["key"]
    assert typical.run["corner"]["clock_process"] == "tt" and typical.pareto["throughput_ips"].max() > found.pareto["throughput_ips"].max()
    job = Job(model=None, space=SPACE, cases=few["cases"], dram="lpddr3_1600_x32", mem_clk_hz=8e8, margin=0.1, objective="latency")
    tasks, repeats = job.tasks()
    names = dict(zip(SPACE.architectures().names(), SPACE.architectures().index, strict=True))
    every, used = SPACE.architectures(), np.flatnonzero(repeats[0])
    hz = predict_designs(biased(), every, VDD_V, back_bias_v=BIAS_V).fmax_hz * 0.9 / 1.25
    results = evaluate(biased(), every, [tasks[i] for i in used], conditions(), VDD_V, hz, np.arange(12), BIAS_V)
    values = total(results, range(len(used)), repeats[0][used]).values
    energy = values[..., 2] + values[..., 4] + values[..., 6:11].sum(axis=-1)
    fits = ~np.isnan(energy[:, 0])
    x, y = (1 / values[fits, :, 0]).ravel(), (few["cases"][0].operations / 1e9 / energy[fits]).ravel()
    kept = ~beaten(x, y)
    expected = sorted(set(zip(x[kept], y[kept], strict=True)))
    np.testing.assert_allclose(sorted(zip(found.pareto["throughput_ips"], found.pareto["efficiency_gops_w"], strict=True)), expected)
    assert found.run["results"][0]["front_hypervolume"] == pytest.approx(hypervolume(x[kept], y[kept]))
    dvfs = pd.read_csv(tmp_path / "slow" / "dvfs.csv")
    for name, rows in dvfs[dvfs["sweep"] == "dvfs"].groupby("architecture"):
        one = SPACE.at(np.array([names[name]]))
        hz = predict_designs(biased(), one, VDD_V, back_bias_v=BIAS_V).fmax_hz * 0.9 / 1.25
        np.testing.assert_allclose(rows["freq_hz"], hz[0])
        used = np.flatnonzero(repeats[0])
        results = evaluate(biased(), one, [tasks[i] for i in used], conditions(), VDD_V, hz, np.arange(12), BIAS_V)
        values = total(results, range(len(used)), repeats[0][used]).values
        np.testing.assert_allclose(rows["latency_s"], values[0, :, 0])
        np.testing.assert_allclose(rows["core_energy_j"], values[0, :, 2])
        assert (rows["process"] == "tt").all() and (rows["clock_process"] == "ss").all()
    with pytest.raises(ConfigError, match="model of the slow corner must be of synthetic, 25 C and another process, not synthetic, tt"):
        explore_all(out=tmp_path / "none", clock_model_path=model_path, **few)
    with pytest.raises(ConfigError, match="model must exist"):
        explore_all(out=tmp_path / "none", clock_model_path=tmp_path / "none.json", **few)


def test_command_prints_points_and_json(model_path, tmp_path, monkeypatch):
    import explore.exploration as exploration

    monkeypatch.setattr(exploration, "load_space", lambda _: space(rows=[2], lanes=[8]))
    write_model(slow(), model_path.with_name("synthetic_ss.json"))
    arguments = ["explore", "--corner", "slow", "--dram", "lpddr2_1066_x32", "--idle-state", "self_refresh"]
    arguments += [ "--model", str(model_path), "--technology", "synthetic", "--out", str(tmp_path), "--workers", "1"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "alexnet_conv, batch 16" in result.output and "GOPS/W" in result.output and str(tmp_path) in result.output
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    parsed = json.loads(result.stdout)
    assert set(parsed["pareto"][0]) == set(POINT_COLUMNS) and {p["clock_process"] for p in parsed["pareto"]} == {"ss"}
    table = commands.pareto_table(pd.DataFrame(parsed["pareto"]))
    assert all(f"{p['throughput_ips']:.2f}" in table for p in (parsed["pareto"][0], parsed["pareto"][-1]))


def test_a_stage_is_done_again_only_if_something_changed(tmp_path):
    done, output = [], tmp_path / "output"

    def work():
        done.append(1)
        output.write_text("result")

    def stage(**inputs):
        return run_stage("some", inputs, [output], work, stamps=tmp_path / "stamps")

    assert stage(x=1) and not stage(x=1) and len(done) == 1
    assert stage(x=2) and not stage(x=2) and len(done) == 2
    output.write_text("damaged")
    assert stage(x=2) and output.read_text() == "result"
    output.unlink()
    assert stage(x=2) and len(done) == 4
    (tmp_path / "stamps" / "some.json").write_text("{")
    assert stage(x=2)
    with pytest.raises(ZeroDivisionError):
        run_stage("some", {"x": 3}, [output], lambda: 1 / 0, stamps=tmp_path / "stamps")
    assert stage(x=3)


def test_a_dask_scheduler_gives_the_same_bytes(explored, model_path, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        explore_all(model_path=model_path, space=SPACE, out=tmp_path, scheduler=cluster.scheduler_address, command="made up")
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (explored[1] / name).read_bytes(), name
    with pytest.raises(ConfigError, match="scheduler must be the address of a dask scheduler that answers"):
        explore_all(model_path=model_path, space=SPACE, out=tmp_path / "none", scheduler="no address", command="made up")


def test_rails_are_chosen(model_path, tmp_path):
    """With a rail of their own the memories stay at its supply; with a single one the core goes no lower than they work."""
    few = {"model_path": model_path, "space": space(rows=[2], lanes=[8]), "cases": default_cases()[:1], "workers": 1}
    found = {name: explore_all(out=tmp_path / name, **few, **options) for name, options in (("held", {"sram_vdd_v": 0.9}), ("default", {}))}
    sweeps = {name: pd.read_csv(tmp_path / name / "dvfs.csv") for name in found}
    for sweep in sweeps.values():
        assert len(sweep["vdd_v"].unique()) == 4
    assert (sweeps["held"]["sram_vdd_v"] == np.maximum(sweeps["held"]["vdd_v"], 0.9)).all()
    assert found["held"].run["rails"] == {"single": False, "sram_vdd_v": 0.9}
    swept = [sweep[(sweep["vdd_v"] == 0.5) & (sweep["sweep"] == "dvfs")].set_index("architecture") for sweep in sweeps.values()]
    both = swept[0].index.intersection(swept[1].index)[0]
    lowest = [sweep.loc[both] for sweep in swept]
    # Memories held higher are no slower, and cost more.
    assert lowest[0]["freq_hz"] >= lowest[1]["freq_hz"]
    assert lowest[0]["core_energy_j"] > lowest[1]["core_energy_j"] and found["held"].run["key"] != found["default"].run["key"]

    known = read_model(model_path)
    narrower = known.model_copy(update={"sram_voltage_range_v": (0.6, 1.0)})
    write_model(narrower, tmp_path / "narrower.json")
    few |= {"model_path": tmp_path / "narrower.json"}
    single = explore_all(out=tmp_path / "single", single_rail=True, **few)
    sweep = pd.read_csv(tmp_path / "single" / "dvfs.csv")
    assert sorted(sweep["vdd_v"].unique()) == [0.666667, 0.833333, 1.0] and (sweep["sram_vdd_v"] == sweep["vdd_v"]).all()
    assert single.run["rails"] == {"single": True, "sram_vdd_v": None} and single.run["counts"]["voltages"] == 3
    for options, error, message in (
        ({"single_rail": True, "sram_vdd_v": 0.8}, ConfigError, "rails must be one, or two"),
        ({"sram_vdd_v": 1.2}, ModelError, "sram_vdd_v must be within the"),
        ({"sram_vdd_v": 0.55}, ModelError, "sram_vdd_v must be within the fitted range 0.6 to 1 V, not 0.55 V"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            explore_all(out=tmp_path / "refused", **few, **options)
    few["space"] = space(vdd_v={"low": 0.5, "high": 1.0, "count": 2})
    with pytest.raises(ConfigError, match="vdd_v must have two voltages of at least 0.6 V on a single rail, not 1"):
        explore_all(out=tmp_path / "refused", single_rail=True, **few)
