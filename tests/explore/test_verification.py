"""Points of a front checked: which are taken, which parts of layers are simulated, and that what is reported is what was measured."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from made_up import model, space

from explore.cli import cli
from explore.exploration import cases_of, explore_all
from explore.front_points import PlannedLayer, named, read_front, spread
from explore.verification import clock_periods_ps, comparisons, parts, predict_layer, sample_of, shard_errors
from fit.compose import design_parameters, predict
from fit.model import Comparison, ErrorSummary, write_model
from flow.plan import load_plan
from flow.shards import SHIPPED, read_shard, shard_inputs, write_shard
from flow.simulation import emit_rtl
from flow.tech import load_technology
from hw.compiler import compile_layer
from hw.config import load_design
from hw.dram_part import load_dram_part
from hw.errors import ConfigError
from hw.golden import activations, random_layer
from hw.layers import LayerShape
from hw.sim.run import MemoryRegion, build, simulate
from hw.tiling import Tiling
from hw.tools import BUILD_DIR

NETWORK = """
version: 1
name: tiny
source: made up
layers:
  - {name: conv1, kind: conv, in_channels: 1, out_channels: 16, in_h: 12, in_w: 12, kernel_h: 3, kernel_w: 3, pad_top: 1, pad_left: 1}
  - {name: conv2, kind: conv, in_channels: 2, out_channels: 24, in_h: 12, in_w: 12, kernel_h: 3, kernel_w: 3, stride_h: 2, stride_w: 2}
  - {name: fc, kind: fc, in_channels: 600, out_channels: 40}
"""
# The parameters of hw/designs/small.yaml, and twice its columns; supplies at which designs are characterized.
SPACE = space(
    rows=[2], cols=[2, 4], lanes=[4], acc_depth=[4], multiplier_stages=[1], post_lanes=[1], activation_bank_bytes=[8192], weight_bank_bytes=[8192],
    output_bank_bytes=[1024], axi_data_bits=[32], parameter_words=256, vdd_v={"low": 0.5, "high": 1.0, "count": 6},
)  # fmt: skip
SMALL = "r2c2l4_d4s1p1_a8192w8192o1024_x32"
DRAM = load_dram_part("lpddr3_1600_x32")


def model_of_fdsoi28p():
    """The made-up model by another name, good for designs as small as these, too."""
    made_up = model()
    blocks = {name: block.model_copy(update={"ranges": _from_nothing(block.ranges)}) for name, block in made_up.blocks.items()}
    return made_up.model_copy(
        update={"technology": "fdsoi28p", "layout": "placed", "blocks": blocks, "path_ranges": _from_nothing(made_up.path_ranges)}
    )


def _from_nothing(ranges):
    return {name: (0.0, high) for name, (_, high) in ranges.items()}


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    """(folder, front): an exploration by a made-up model that calls itself one of the real technology, and that model."""
    folder = tmp_path_factory.mktemp("front")
    errors = ErrorSummary(mean=0.02, median=0.02, p90=0.03, worst=0.04, rows=6, groups=2)
    held_out = Comparison(
        quantity="fmax", split="held-out designs", model=errors, ideal=None, rank_correlation=None, interval_coverage=1.0, half_width=0.1, outside_range=0
    )  # fmt: skip
    write_model(model_of_fdsoi28p().model_copy(update={"validation": (held_out,)}), folder / "model.json")
    (folder / "tiny.yaml").write_text(NETWORK)
    cases = cases_of([str(folder / "tiny.yaml")], [3])
    explore_all(model_path=folder / "model.json", space=SPACE, out=folder / "explored", cases=cases, workers=1, with_area=True)
    return folder, read_front(folder / "explored", folder / "model.json", str(folder / "tiny.yaml"))


def test_points_are_spread_over_the_front_and_distinct():
    rng = np.random.default_rng(1)
    speed = np.sort(np.exp(rng.uniform(0, 5, 40)))
    names = [f"a{i % 12}" for i in range(40)]
    points = pd.DataFrame({"throughput_ips": speed, "architecture": names, "rows": 2, "cols": 4, "lanes": 8, "efficiency_gops_w": 1.0})
    points.loc[points["architecture"] == "a3", "rows"] = 64
    chosen = spread(points, 5, 64)
    names = points["architecture"].iloc[chosen].tolist()
    assert len(set(names)) == 5 and "a3" not in names and chosen[0] == 0 and chosen[-1] == 38  # the last point is a3's
    # One by one: none is nearer to its place than what was taken, of those left.
    for k, wanted in enumerate(np.linspace(np.log(speed[0]), np.log(speed[38]), 5)):
        free = [i for i in range(40) if points["architecture"][i] not in {"a3", *names[:k]}]
        assert abs(np.log(speed[chosen[k]]) - wanted) == min(abs(np.log(speed[i]) - wanted) for i in free)
    shuffled = points.sample(frac=1, random_state=2).reset_index(drop=True)
    assert shuffled["architecture"].iloc[spread(shuffled, 5, 64)].tolist() == names
    with pytest.raises(ConfigError, match="points must be at most the front's 11 architectures of up to 64 multipliers, not 12"):
        spread(points, 12, 64)
    assert named(points, ["a1"]) == [37]
    with pytest.raises(ConfigError, match="architecture must be on the front .a0, a1, a2, ...., not 'b'"):
        named(points, ["b"])


def test_parts_of_a_layer_are_whole_tiles_and_ever_smaller(front):
    point = front[1].point(0)
    large = LayerShape(name="large", kind="conv", in_channels=8, out_channels=64, in_h=56, in_w=56, kernel_h=3, kernel_w=3, pad_top=1, pad_bottom=1)
    tiled = PlannedLayer(shape=large, repeats=1, first=False, tiling=Tiling(0, 3, 7, 8, 2), cycles=1.0)
    for layer in (*point.layers, tiled):
        found = list(parts(point.config, layer, point.batch))
        assert found[0] == (layer.shape, 3)
        sizes = [images * shape.out_h * shape.out_channels for shape, images in found]
        assert all(a > b for a, b in zip(sizes, sizes[1:], strict=False))
        smallest, images = found[-1]
        assert images == (3 if layer.shape.kind == "fc" else 1)  # vectors share their weights
        assert smallest.out_h <= 2 * layer.tiling.tile_h and smallest.out_channels <= layer.tiling.tile_k
        for shape, _ in found:
            whole = (layer.shape.out_h, layer.shape.out_channels)
            for size, of, tile in zip((shape.out_h, shape.out_channels), whole, (2 * layer.tiling.tile_h, layer.tiling.tile_k), strict=True):
                assert size == of or size % tile == 0
        if layer is tiled:
            assert [(shape.out_h, shape.out_channels, images) for shape, images in found[1:4]] == [(56, 64, 2), (56, 64, 1), (30, 64, 1)]  # of 10 bands 5
            continue
        cycles = [sample_of(model(), point, layer, DRAM, most).cycles for most in (1e9, 2500, 1)]
        assert cycles == sorted(cycles, reverse=True) and cycles[1] <= 2500 or cycles[1] == cycles[2]
        assert sample_of(model(), point, layer, DRAM, 1e9).whole and not sample_of(model(), point, layer, DRAM, 1).whole


def test_a_whole_layer_is_predicted_as_the_exploration_did(front):
    for row in range(len(front[1].points)):
        point = front[1].point(row)
        for layer in point.layers:
            given = (point.config, layer.shape, 3, layer.first, layer.tiling, DRAM)
            # The exploration takes the time from curves of straight pieces, each within `explore.curves.TOLERANCE` where it was tried.
            exact, rounded = (predict_layer(model(), *given, *ps) for ps in ((1e12 / point.freq_hz, 1250), clock_periods_ps(point)))
            assert exact == pytest.approx(layer.cycles, rel=2e-4) and rounded == pytest.approx(exact, rel=1e-2)
        assert point.cycles / point.freq_hz == pytest.approx(front[1].points["latency_s"][row], rel=1e-6)
    with pytest.raises(ConfigError, match="tiling must be legal, not .* too large for an instruction's field .*explore again"):
        predict_layer(model(), *given[:4], layer.tiling._replace(tile_c=600 // 4, tile_k=400), DRAM, 1000, 1250)


def usual(shard):
    """The rows at 25 C without back bias, typical process."""
    return [row for row in shard.corners if (row["process"], row["temperature_c"], row["back_bias_v"]) == ("tt", 25.0, 0.0)]


def unbiased(shard):
    """Those of the whole design, by supply."""
    return {row["vdd_v"]: row for row in usual(shard) if row["block"] == "accelerator"}


def test_errors_of_a_design_are_those_of_its_rows():
    """The shard of `small` that ships: its figures by hand."""
    fitted = model_of_fdsoi28p()
    shard = read_shard(SHIPPED / "quick" / "fdsoi28p" / "small.json.gz")
    found = shard_errors(fitted, shard)
    whole = unbiased(shard)
    assert len(whole) == 6 and len(found[found["quantity"] == "fmax"]) == 17  # all of the model's process
    chip = predict(fitted, design_parameters(load_design("small")), sorted(whole), sram_vdd_v=[max(v, 0.6) for v in sorted(whole)], extrapolate=True)
    # Of each module the first row: it leaks a little more or less in another workload's states.
    leaking = {(row["vdd_v"], row["module"]): row["instances"] * row["leakage_w"] for row in reversed(usual(shard))
               if row["block"] not in ("accelerator", "two_clock_fifo", "memory_read", "memory_write", "axi_lite")}  # fmt: skip
    for quantity, measured, predicted in (
        ("fmax", lambda row: 1 / row["min_period_s"], chip.fmax_hz[0]),
        ("leakage", lambda row: sum(leakage_w for (vdd_v, _), leakage_w in leaking.items() if vdd_v == row["vdd_v"]), chip.core_leakage_w[0]),
    ):  # fmt: skip
        rows = found[(found["quantity"] == quantity) & (found["temperature_c"] == 25) & (found["back_bias_v"] == 0)].set_index("vdd_v")
        for i, vdd_v in enumerate(sorted(whole)):
            assert rows.loc[vdd_v, "measured"] == pytest.approx(measured(whole[vdd_v])) and rows.loc[vdd_v, "predicted"] == pytest.approx(predicted[i])
    assert found[found["quantity"] == "area"]["measured"].tolist() == [pytest.approx(whole[0.5]["area_um2"])]  # the lowest supply's, with level shifters


def core_cycles(config, layer, sample, point):
    """The sample compiled and run by itself, with other data: the cycles do not depend on it."""
    rng = np.random.default_rng(99)
    values = random_layer(sample.shape, rng, 8, 8)
    program = compile_layer(config, values, batch=sample.batch, tiling=sample.tiling, fold_first=layer.first)
    s = sample.shape
    x = activations((sample.batch, s.in_channels) if s.kind == "fc" else (sample.batch, s.in_channels, s.in_h, s.in_w), 8, rng)
    output = program.layers[-1].output
    rtl = emit_rtl(config)
    core_ps, mem_ps = (round(1e12 / f) for f in (point.freq_hz, 800e6))
    return simulate(
        simulator=build(verilog=(rtl.modules, rtl.memories), axi_data_bits=32, trace=True, out_dir=BUILD_DIR / "sim"), image=program.memory({s.name: x}),
        regions=[MemoryRegion(address=r.address, size_bytes=r.size_bytes, write=r.write) for r in program.regions.values()],
        program_address=program.program_address, program_bytes=program.program_bytes, output_address=output.address, output_bytes=output.size_bytes,
        core_period_ps=core_ps, mem_period_ps=mem_ps, timeout_cycles=10**6, memory=DRAM,
    ).events["core_cycles"]  # fmt: skip


def test_the_command_reports_what_was_measured(front, tmp_path):
    folder, found = front
    point = found.point(named(found.points, [SMALL])[0])
    assert point.config.model_copy(update={"name": "small"}) == load_design("small")
    # A measured design that lies in its place is not measured again: that of `small`, which is this one by another name.
    plan, technology = load_plan("quick"), load_technology("fdsoi28p")
    shipped = read_shard(SHIPPED / "quick" / "fdsoi28p" / "small.json.gz")
    inputs = shard_inputs(point.config, plan, technology, emit_rtl(point.config).content_hash)
    shard = replace(shipped, design=SMALL, inputs=inputs, corners=[row | {"design": SMALL} for row in shipped.corners])
    place = tmp_path / "out" / "shards" / "fdsoi28p" / str(point.corner)
    write_shard(shard, place)

    arguments = ["verify", "--model", str(folder / "model.json"), "--explore", str(folder / "explored"), "--network", str(folder / "tiny.yaml"),
                 "--architecture", SMALL, "--most-cycles", "4000", "--out", str(tmp_path / "out"), "--workers", "1"]  # fmt: skip
    page = tmp_path / "page.md"
    result = CliRunner().invoke(cli, [*arguments, "--page", str(page), "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert rows == json.loads((tmp_path / "out" / "verification.json").read_text())["rows"]

    fitted = model_of_fdsoi28p()
    cycles = {row["where"].split(":")[0]: row for row in rows if row["quantity"] == "cycles"}
    total, ratios = 0.0, []
    for layer in point.layers:
        sample = sample_of(fitted, point, layer, DRAM, 4000)
        own = cycles[layer.shape.name]
        assert own["measured"] == core_cycles(point.config, layer, sample, point) and own["predicted"] == pytest.approx(sample.cycles)
        total += layer.repeats * layer.cycles * own["measured"] / own["predicted"]
        ratios.append(own["predicted"] / own["measured"])
    assert cycles["network"]["measured"] == pytest.approx(total)
    assert cycles["network"]["predicted"] == pytest.approx(found.points["latency_s"][named(found.points, [SMALL])[0]] * point.freq_hz, rel=1e-6)
    wholes = unbiased(shipped)
    measured = {row["where"]: row["measured"] for row in rows if row["quantity"] == "fmax"}
    assert measured["0.5 V, memories 0.6 V, 25 C, back bias 0 V"] == pytest.approx(1 / wholes[0.5]["min_period_s"]) and len(measured) == 17
    for row in rows:
        sd = np.log(row["hi"] / row["predicted"]) / 1.6448536269514722
        assert row["inside"] == (abs(np.log(row["measured"] / row["predicted"])) <= 1.6448536269514722 * sd)
        if row["quantity"] == "cycles":
            assert sd == pytest.approx(0.05)

    text = page.read_text()
    assert "**Simulated: 1 of 1 points asked for; characterized: 1.**" in text
    errors = np.abs(np.array(ratios) - 1)
    assert f"| cycles | 1 | 3 | {100 * errors.mean():.1f} % |  | {100 * errors.max():.1f} % |  |" in text and "nothing was held out |" in text
    fmax = [abs(row["predicted"] / row["measured"] - 1) for row in rows if row["quantity"] == "fmax"]
    assert f"| fmax | 1 | 17 | {100 * np.mean(fmax):.1f} % | 2.0 % | {100 * max(fmax):.1f} % | 4.0 % |" in text
    assert ("larger: mean, worst |" in text) == (np.mean(fmax) > 0.02 and max(fmax) > 0.04)
    holds = 1 / wholes[point.corner.vdd_v]["min_period_s"] >= point.freq_hz
    assert (f" | 4 of 4 | {'yes' if holds else 'no'}" in text) or f" of 4 | {'yes' if holds else 'no'}" in text

    # A shard of other windows is stale: without measuring, the point is not characterized.
    write_shard(replace(shard, inputs=inputs | {"plan": "other"}), place)
    result = CliRunner().invoke(cli, [*arguments, "--page", str(page), "--cycles-only"])
    assert result.exit_code == 0 and "characterized: 0" in page.read_text() and "fmax" not in result.stdout


def test_several_points_count_together(front):
    from explore.verification import Checked, CheckedLayer

    point = front[1].point(0)
    layers = []
    for layer, factor in zip(point.layers, (1.0, 1.25, 0.5), strict=True):
        sample = sample_of(model(), point, layer, DRAM, 1e9)
        layers.append(CheckedLayer(layer=layer, sample=replace(sample, cycles=1000 * factor), measured_cycles=1000))
    checked = Checked(point=point, layers=tuple(layers), errors=None, commit="")
    (found,) = comparisons(model(), [checked, checked])
    assert (found.model.rows, found.model.worst, found.model.mean) == (6, 0.5, pytest.approx(0.25)) and found.interval_coverage == pytest.approx(1 / 3)
    assert checked.network_cycles == pytest.approx(sum(c.layer.cycles * c.layer.repeats / f for c, f in zip(layers, (1, 1.25, 0.5), strict=True)))
    assert checked.simulated == pytest.approx(1.0)


def test_what_cannot_be_checked_is_refused_with_one_line(front, tmp_path):
    folder, _ = front
    explored, path = folder / "explored", folder / "model.json"
    with pytest.raises(ConfigError, match="exploration must exist, not be absent .*run.json.; run `voltfront explore`"):
        read_front(tmp_path, path)
    with pytest.raises(ConfigError, match="network and batch must be a case of the exploration .tiny batch 3., not alexnet batch 1"):
        read_front(explored, path, "alexnet", 1)
    other = tmp_path / "other.json"
    other.write_text(path.read_text() + " ")
    with pytest.raises(ConfigError, match="model must be the one that was explored, not another"):
        read_front(explored, other, str(folder / "tiny.yaml"))
    copied = tmp_path / "copied"
    copied.mkdir()
    for file in explored.glob("*.*"):
        (copied / file.name).write_bytes(file.read_bytes())
    run = json.loads((copied / "run.json").read_text())
    for dram in ("none", "lpddr3_1600_x32 x2"):
        (copied / "run.json").write_text(json.dumps(run | {"dram": dram}))
        with pytest.raises(ConfigError, match=f"dram of the exploration must be one channel of a part, which can be simulated, not {dram}"):
            read_front(copied, path, str(folder / "tiny.yaml"))
    (copied / "run.json").write_text(json.dumps(run | {"points_version": 1}))
    with pytest.raises(ConfigError, match="exploration must be of version"):
        read_front(copied, path, str(folder / "tiny.yaml"))


def test_a_failing_point_does_not_hold_up_the_others(front, tmp_path):
    from explore.verification import Job, check_all

    folder, found = front
    point = found.point(named(found.points, [SMALL])[0])
    bad = replace(point, layers=tuple(replace(layer, tiling=layer.tiling._replace(tile_k=400, tile_c=150)) for layer in point.layers))
    job = Job(
        model=folder / "model.json", plan=load_plan("quick"), technology=load_technology("fdsoi28p"), shards=Path(tmp_path), most_cycles=4000, measured=False
    )  # fmt: skip
    seen = []
    with pytest.raises(ConfigError, match=f"1 of 2 points must be checked, not fail .{SMALL}.; the first one: tiling must be legal"):
        check_all(job, [bad, point], 1, lambda checked: seen.append(len(checked)))
    assert seen == [1]
