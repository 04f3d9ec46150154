"""The whole exploration on a small space, its files, and the commands."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from made_up import model, space

from explore import chunks, commands
from explore.cli import cli
from explore.exploration import FILES, default_cases, explore_all
from explore.pareto import front, hypervolume
from explore.points import LAYER_COLUMNS, POINT_COLUMNS, SWEEP_COLUMNS
from explore.stages import run_stage
from fit.model import write_model
from hw.errors import ConfigError, ModelError
from hw.layers import load_network

# In the least weight bank AlexNet's 11 x 11 kernels do not fit with 16 lanes of words.
SPACE = space(weight_bank_bytes=[1024 * 4, 16384], lanes=[8, 16])


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "synthetic.json"
    write_model(model(), path)
    return path


@pytest.fixture(scope="module")
def explored(model_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("explore")
    return explore_all(model_path=model_path, space=SPACE, out=out, workers=1, command="made up"), out


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


def test_front_and_layers_are_those_of_the_points(explored):
    _, out = explored
    points, pareto, _, layers = read(out)
    for (network, batch), own in points.groupby(["network", "batch"], sort=False):
        best = pareto[(pareto["network"] == network) & (pareto["batch"] == batch)].reset_index(drop=True)
        x, y = own["throughput_ips"].to_numpy(), own["efficiency_gops_w"].to_numpy()
        beaten = [bool(np.any((x >= i) & (y >= j) & ((x > i) | (y > j)))) for i, j in zip(x, y, strict=True)]
        assert len(best) == len(set(zip(x[~np.array(beaten)], y[~np.array(beaten)], strict=True)))
        np.testing.assert_allclose(best["throughput_ips"], x[front(x, y)])
        fastest = layers[(layers["network"] == network) & (layers["batch"] == batch) & (layers["choice"] == "fastest")]
        assert fastest["latency_s"].sum() == pytest.approx(best["latency_s"].iloc[-1])
        assert fastest["core_energy_j"].sum() == pytest.approx(best["core_energy_j"].iloc[-1])
        assert (layers["utilization"] <= 1).all() and fastest["macs"].sum() == (665_784_864 if network == "alexnet_conv" else 724_406_816) * batch


def test_sweeps_give_the_effectiveness_as_defined(explored):
    _, out = explored
    _, pareto, dvfs, _ = read(out)
    for (network, batch, _), rows in dvfs.groupby(["network", "batch", "rank"]):
        best = pareto[(pareto["network"] == network) & (pareto["batch"] == batch)]
        lowered, slowed = rows[rows["sweep"] == "dvfs"], rows[rows["sweep"] == "frequency"]
        assert (slowed["vdd_v"] == 1.0).all() and list(slowed["freq_hz"]) == list(lowered["freq_hz"]) and lowered["vdd_v"].is_monotonic_increasing
        volume = [hypervolume(x["throughput_ips"], x["efficiency_gops_w"]) for x in (lowered, slowed, best)]
        assert rows["effectiveness"].iloc[0] == pytest.approx((volume[0] - volume[1]) / volume[2])
        # At nominal voltage the sweeps meet, and at the same clock a lower voltage never costs energy.
        np.testing.assert_allclose(lowered["efficiency_gops_w"].iloc[-1], slowed["efficiency_gops_w"].iloc[-1])
        assert (lowered["core_energy_j"].to_numpy() <= slowed["core_energy_j"].to_numpy() * (1 + 1e-12)).all()
        np.testing.assert_allclose(lowered["throughput_ips"], slowed["throughput_ips"])


def test_what_was_not_evaluated_is_counted(explored):
    found, out = explored
    run, points = json.loads((out / "run.json").read_text()), read(out)[0]
    assert run == found.run
    counts = run["counts"]
    assert counts["combinations"] == 16 == counts["evaluated"] + sum(counts["not_evaluated"].values())
    for result in run["results"]:
        own = points[(points["network"] == result["network"]) & (points["batch"] == result["batch"])]
        assert own["architecture"].nunique() == result["architectures"] == counts["evaluated"] - result["architectures_a_layer_does_not_fit"]
        assert len(own) == result["points"] == result["architectures"] * 4
    assert {(r["network"], r["batch"]) for r in run["results"]} == {(c.network.name, c.batch) for c in default_cases()}


def test_same_bytes_twice_and_after_a_kill(explored, model_path, tmp_path, monkeypatch):
    one, out = explored
    again = explore_all(model_path=model_path, space=SPACE, out=tmp_path, workers=1, command="made up")
    assert again.run == one.run
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name
    # A chunk cut short is computed again, a whole one is not.
    (chunk,) = (tmp_path / "chunks").rglob("*.npz")
    chunk.write_bytes(chunk.read_bytes()[:1000])
    calls = []
    evaluate_chunk = chunks.evaluate_chunk
    monkeypatch.setattr(chunks, "evaluate_chunk", lambda *given: calls.append(given[2]) or evaluate_chunk(*given))
    for expected in (1, 1):
        explore_all(model_path=model_path, space=SPACE, out=tmp_path, workers=1, command="made up")
        assert len(calls) == expected
    assert (tmp_path / "pareto.csv").read_bytes() == (out / "pareto.csv").read_bytes()


def test_chunks_and_workers_do_not_change_the_result(explored, model_path, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 5)
    explore_all(model_path=model_path, space=SPACE, out=tmp_path, workers=2)
    assert len(list((tmp_path / "chunks").rglob("*.npz"))) > 1
    pd.testing.assert_frame_equal(read(tmp_path)[0], read(explored[1])[0])


def test_convolutions_share_the_layers_of_the_whole():
    cases = default_cases()
    job = chunks.Job(model=None, space=SPACE, cases=cases, dram="lpddr3_1600_x32", mem_clk_hz=8e8, margin=0.1, objective="latency")
    tasks, of_case = job.tasks()
    assert [len(indices) for indices in of_case] == [5, 5, 8, 8] and len(tasks) == 16
    assert of_case[0] == of_case[2][:5] and [t.first for t in tasks].count(True) == 2
    assert cases[0].network.macs == 665_784_864 and load_network("alexnet").macs == 724_406_816


def test_what_the_model_does_not_cover_is_refused(model_path, tmp_path):
    for change, error, message in (
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


def test_command_prints_points_and_json(model_path, tmp_path, monkeypatch):
    import explore.exploration as exploration

    monkeypatch.setattr(exploration, "load_space", lambda _: space(rows=[2], lanes=[8]))
    arguments = ["explore", "--model", str(model_path), "--technology", "synthetic", "--out", str(tmp_path), "--workers", "1"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "alexnet_conv, batch 16" in result.output and "GOPS/W" in result.output and str(tmp_path) in result.output
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    parsed = json.loads(result.stdout)
    assert set(parsed["pareto"][0]) == set(POINT_COLUMNS)
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
