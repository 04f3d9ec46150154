"""Points of a front become designs, and ONNX models networks to explore."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from made_up import space
from report_inputs import point

from explore.cli import cli
from explore.front_design import choose_point, design_of
from hw.config import load_design
from hw.errors import ConfigError
from hw.examples.qdq import QdqModel
from hw.layers import load_network


@pytest.fixture
def explored(tmp_path):
    """Three architectures of a space, the second the fastest, the first the most efficient, the third between with the best product."""
    few = space(weight_bank_bytes=[16384, 32768])
    architectures, rows = few.architectures()[:3], []
    for i, (speed, efficiency) in enumerate([(10.0, 90.0), (50.0, 10.0), (40.0, 60.0)]):
        sizes = {name: int(values[i]) for name, values in architectures.values.items()}
        made = point("alexnet", 1, 0.7, architecture=architectures.names()[i])
        rows.append(made | {name: sizes[name] for name in made if name in sizes} | {"throughput_ips": speed, "efficiency_gops_w": efficiency})
    rows.append(point("vgg16", 4, 0.9))
    pd.DataFrame(rows).to_csv(tmp_path / "pareto.csv", index=False)
    (tmp_path / "run.json").write_text(json.dumps({"space": few.model_dump(mode="json")}))
    return tmp_path, architectures


@pytest.mark.parametrize(("choice", "place"), [("most-efficient", 0), ("fastest", 1), ("balanced", 2)])
def test_the_chosen_point_becomes_the_design_it_was_explored_as(explored, choice, place):
    folder, architectures = explored
    out = folder / "chosen.yaml"
    result = CliRunner().invoke(cli, ["design", "--explore", str(folder), "--choice", choice, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0 and load_design(out) == architectures.config(place)
    assert f"{architectures.config(place).multipliers} multipliers" in result.output and "0.7 V" in result.output


def test_a_point_is_found_by_its_names_and_others_are_listed(explored):
    folder, architectures = explored
    assert design_of(folder, choose_point(folder, architecture=architectures.names()[0])) == architectures.config(0)
    assert choose_point(folder, network="vgg16")["batch"] == 4
    for wanted, known in (({"network": "bert_base"}, "alexnet, vgg16"), ({"batch": 2}, r"\(1\)"), ({"architecture": "r9"}, architectures.names()[0])):
        with pytest.raises(ConfigError, match=known):
            choose_point(folder, **wanted)
    (folder / "pareto.csv").write_text("points_version\n1\n")
    with pytest.raises(ConfigError, match="columns of version"):
        choose_point(folder)
    with pytest.raises(ConfigError, match="run `voltfront explore`"):
        choose_point(folder / "none")


def test_an_onnx_model_becomes_a_network(tmp_path):
    """A depthwise convolution and a fully connected layer, by the sizes they were made with; other files beside it are refused."""
    rng, model = np.random.default_rng(0), QdqModel()
    x = model.quantized("x", 0.1)
    x = model.quantized(model.learned("Conv", x, rng.normal(size=(6, 1, 3, 3)), None, 0.1, group=6, pads=[1, 1, 1, 1]), 0.1)
    x = model.quantized(model.learned("Gemm", model.node("Flatten", x), rng.normal(size=(5, 6 * 8 * 8)), None, 0.1, transB=1), 0.1)
    path = model.save(tmp_path / "model.onnx", (2, 6, 8, 8), x, (2, 5))
    arguments = ["import", str(path), "--name", "mine", "--out", str(tmp_path / "mine.yaml")]
    assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    network = load_network(tmp_path / "mine.yaml")
    assert (network.name, network.macs, network.weights) == ("mine", 6 * 64 * 9 + 5 * 384, 6 * 9 + 5 * 384)
    assert [(layer.groups, layer.out_h, layer.out_channels) for layer in network.layers] == [(6, 8, 6), (1, 1, 5)]
    with pytest.raises(ConfigError, match="import it alone"):
        CliRunner().invoke(cli, [*arguments, str(tmp_path / "mine.yaml")], catch_exceptions=False, standalone_mode=False)
