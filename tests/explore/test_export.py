"""What other tools get: tables that add up to the model's own energies, problems that come back as the layers they were."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import model

from explore.cli import cli
from explore.components import ACTION_COLUMNS, COMPONENT_COLUMNS, calibrate
from explore.timeloop import problem, read_problem
from fit.compose import design_parameters, predict
from fit.model import write_model
from hw.config import load_design
from hw.dram import dram_energy_j
from hw.dram_part import load_dram_part
from hw.errors import ConfigError
from hw.layers import LayerShape, load_network


def test_components_add_up_to_the_whole_design():
    """Against the composed design of the model, for made-up counts and cycles."""
    config, part = load_design("medium"), load_dram_part("lpddr3_1600_x32")
    design = calibrate(model(), config, part, vdd_v=0.7, margin=0.1, mem_clk_hz=8e8)
    whole = predict(model(), design_parameters(config), np.array([0.7]))
    counts = {name: 1000.0 * (i + 3) for i, name in enumerate(sorted({*whole.core_event_j, *whole.memory_event_j}))}
    core_cycles, memory_cycles = 5e4, 7e4
    expected = core_cycles * (whole.core_cycle_j[0, 0] + whole.crossing_cycle_j[0]) + memory_cycles * whole.memory_cycle_j[0]
    for side in (whole.core_event_j, whole.memory_event_j):
        expected += sum(counts[name] * np.ravel(energy)[0] for name, energy in side.items())

    clock = {"core": core_cycles, "memory": memory_cycles}
    cycles = design.components["clocks"].map(lambda names: sum(clock.get(name, 0) for name in names.split("+")))
    total = (cycles * design.components["instances"] * design.components["idle_energy_per_cycle_j"]).sum()
    chip = design.actions[design.actions["component"] != "dram"]
    total += (chip["counter"].map(counts) * chip["actions_per_count"] * chip["energy_per_action_j"]).sum()
    assert total == pytest.approx(expected, rel=1e-9)
    one = design.components[design.components["component"] != "dram"]
    assert (one["instances"] * one["area_um2"]).sum() == pytest.approx(whole.area_um2[0], rel=1e-9)
    assert (one["instances"] * one["leakage_w"]).sum() == pytest.approx(whole.core_leakage_w[0, 0] + whole.memory_leakage_w[0], rel=1e-9)
    read = dram_energy_j(part, read_bytes=1e6, write_bytes=0, activates=10, busy_s=0, total_s=0).total_j
    assert 1e6 * design.energy_per_action_j("dram", "read") + 10 * design.energy_per_action_j("dram", "activate") == pytest.approx(float(read))


def test_all_files_of_an_export(tmp_path):
    write_model(model(), tmp_path / "model.json")
    arguments = ["export", "--design", "medium", "--vdd-v", "0.7", "--technology", model().technology, "--model", str(tmp_path / "model.json")]
    result = CliRunner().invoke(cli, [*arguments, "--layers", "conv2,fc8", "--out", str(tmp_path / "out"), "--json"], catch_exceptions=False)
    files = json.loads(result.output)
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert sorted(str(tmp_path / "out" / name) for name in names) == files and len(names) == 13
    for name, columns in (("components", COMPONENT_COLUMNS), ("actions", ACTION_COLUMNS)):
        table = pd.read_csv(tmp_path / "out" / f"{name}.csv", keep_default_na=False)
        assert list(table) == list(columns)
        pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / "out" / f"{name}.parquet"), rtol=1e-12)
    ert = yaml.safe_load((tmp_path / "out" / "accelergy" / "ERT.yaml").read_text())["ERT"]["tables"]
    energies = {table["name"]: {action["name"]: action["energy"] for action in table["actions"]} for table in ert}
    actions = pd.read_csv(tmp_path / "out" / "actions.csv").set_index(["component", "action"])["energy_per_action_j"]
    assert energies["system.chip.pe[0..7]"]["step"] == pytest.approx(actions["pe", "step"] * 1e12)
    assert energies["system.DRAM"]["activate"] == pytest.approx(actions["dram", "activate"] * 1e12)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.data())
def test_a_problem_comes_back_as_its_layer(tmp_path_factory, data):
    """Padding becomes part of the input; sizes of the output, multiplications and weights stay."""
    small = st.integers(1, 5)
    kernel_h, kernel_w, stride_h, stride_w, dilation, groups = (data.draw(small) for _ in range(6))
    shape = LayerShape(
        name="layer", kind="conv", in_channels=groups * data.draw(small), out_channels=groups * data.draw(small), groups=groups, kernel_h=kernel_h,
        kernel_w=kernel_w, stride_h=stride_h, stride_w=stride_w, dilation=dilation, in_h=dilation * kernel_h + data.draw(small),
        in_w=dilation * kernel_w + data.draw(small), pad_top=data.draw(st.integers(0, 2)), pad_right=data.draw(st.integers(0, 2)),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("problem") / "layer.yaml"
    path.write_text(yaml.safe_dump(problem(shape)))
    back = read_problem(path)
    assert (back.out_h, back.out_w, back.macs, back.weights, back.groups) == (shape.out_h, shape.out_w, shape.macs, shape.weights, shape.groups)
    assert back.in_h <= shape.in_h + shape.pad_top and back.name == "layer"


def test_problems_become_a_network_that_loads(tmp_path):
    shapes = [shape for shape in load_network("alexnet").layers if shape.name in ("conv1", "conv2", "fc8")]
    files = [tmp_path / f"{shape.name}.yaml" for shape in shapes]
    for shape, path in zip(shapes, files, strict=True):
        path.write_text(yaml.safe_dump(problem(shape)))
    result = CliRunner().invoke(cli, ["import", *map(str, files), "--name", "mine", "--out", str(tmp_path / "mine.yaml")], catch_exceptions=False)
    network = load_network(tmp_path / "mine.yaml")
    assert result.exit_code == 0 and network.macs == sum(shape.macs for shape in shapes) and [layer.kind for layer in network.layers] == ["conv", "conv", "fc"]


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ({"C": 3, "K": 4}, "dimensions must be some of C, M, R"), ({"C": 0}, "C must be a whole number from 1"), ({"C": True}, "C must be a whole number"),
        ({"N": 2}, "N must be 1, not 2"), ({"R": 3, "S": 3, "Wdilation": 2}, "Wdilation and Hdilation must be equal"),
        ([1], "problem.instance must be a mapping"),
    ],
)  # fmt: skip
def test_problems_that_are_no_layer_are_refused(tmp_path, instance, message):
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"problem": {"instance": instance}}))
    with pytest.raises(ConfigError) as caught:
        read_problem(tmp_path / "p.yaml")
    assert message in str(caught.value) and "\n" not in str(caught.value)
