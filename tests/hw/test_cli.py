"""`voltfront rtl` and `voltfront simulate` as a user calls them."""

import json

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from hw.cli import rtl, simulate
from hw.errors import ConfigError
from hw.examples.qdq import QdqModel
from hw.layers import load_network


def run(command, *arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_rtl_writes_three_files_and_says_which(tmp_path):
    answer = json.loads(run(rtl, "--design", "small", "--out", str(tmp_path / "out"), "--json"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["accelerator.sdc", "accelerator.upf", "accelerator.v", "interface.json", "memories.v"]
    assert answer["design"] == "small" and [path.rsplit("/", 1)[1] for path in answer["files"]] == [
        "accelerator.v", "memories.v", "interface.json", "accelerator.sdc", "accelerator.upf",
    ]  # fmt: skip
    assert sum(answer["memories"].values()) == 10  # 2 rows, 2 columns, 1 parameter bank, 2 x 2 output sections, the program buffer
    assert "16 multipliers" in run(rtl, "-d", "small", "-o", str(tmp_path / "again"))
    assert (tmp_path / "again" / "accelerator.v").read_bytes() == (tmp_path / "out" / "accelerator.v").read_bytes()


def test_rtl_leaves_nothing_behind_where_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="must be writable"):
        CliRunner().invoke(rtl, ["--out", str(tmp_path / "file" / "out")], catch_exceptions=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_simulate_counts_and_is_repeatable():
    """Two layers' windows: what the first prints for people it gives as JSON, and twice the same."""
    arguments = ("--design", "small", "--layers", "conv3,fc8", "--blocks", "1", "--core-hz", "1e9")
    first, second = (json.loads(run(simulate, *arguments, "--json"))["layers"] for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a["events"] == b["events"]
    conv, vector = first
    assert conv["macs"] == 256 * 9 * 13 * 2 * 4  # two output rows, four output channels
    assert conv["utilization"] == pytest.approx(conv["macs"] / (16 * conv["core_cycles"]))
    assert vector["dram_read_bytes"] > 4096 * 4  # the weights of four outputs at the least
    table = run(simulate, *arguments).splitlines()
    assert [line.split()[0] for line in table[:3]] == ["layer", "conv3", "fc8"]
    assert table[1].split()[1] == str(conv["core_cycles"])
    assert table[-1] == "2 layers on small: every output bit equals the golden model"


def test_a_network_with_a_step_of_the_host_counts_what_the_host_moves(tmp_path):
    """Convolution, Sigmoid on the host, convolution: of the host's step its bytes are counted, and its time and energy named as left out."""
    rng, m = np.random.default_rng(0), QdqModel()
    y = m.quantized(m.learned("Conv", m.quantized("x", 0.05), rng.normal(size=(8, 4, 3, 3)), None, 0.05), 0.05)
    y = m.quantized(m.node("Sigmoid", y), 1 / 127)
    y = m.quantized(m.learned("Conv", y, rng.normal(size=(6, 8, 1, 1)), None, 1 / 127), 0.05)
    path = m.save(tmp_path / "gated.onnx", (1, 4, 8, 7), y, (1, 6, 6, 5))
    x = rng.normal(size=(1, 4, 8, 7)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    arguments = ("--design", "small", "--network", str(path), "--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy"))
    with pytest.raises(ConfigError, match="not Sigmoid .node Sigmoid_"):
        run(simulate, *arguments)
    answer = json.loads(run(simulate, *arguments, "--host", "--json"))
    first, host, second = answer["layers"]
    moved = 2 * 6 * 32  # two words of 4 channels a pixel; 6 rows of 5 words, each from a multiple of 32 bytes on
    assert host["layer"] == "Sigmoid_6 (host)" and (host["dram_read_bytes"], host["dram_write_bytes"], host["core_cycles"]) == (moved, moved, 0)
    assert answer["excluded"] == ["Sigmoid_6 on the host (Sigmoid): time and energy"]
    assert [row["macs"] for row in answer["layers"]] == [30 * 8 * 4 * 9, 0, 30 * 6 * 8]
    for total in ("dram_read_bytes", "dram_write_bytes"):
        assert answer["total"][total] == sum(row[total] for row in answer["layers"])
    assert min(sum(row["stalls"].values()) for row in (first, second)) > 0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert np.abs(np.load(tmp_path / "y.npy") - session.run(None, {"x": x})[0]).max() <= 0.101


@pytest.mark.parametrize("arguments, rule", [
    (["--layers", "conv9"], "layers must be some of conv1"), (["--design", "none"], "design must be one of"), (["--memory", "none"], "must be"),
    (["--network", "none"], "network must be one of"),
])  # fmt: skip
def test_simulate_refuses_what_is_not_there(arguments, rule):
    with pytest.raises(ConfigError, match=rule):
        CliRunner().invoke(simulate, arguments, catch_exceptions=False)


def test_a_window_needs_no_more_input_than_its_rows():
    layers = {layer.name: layer for layer in load_network("alexnet").layers}
    conv1 = layers["conv1"].window(out_rows=3, out_channels=8)
    assert (conv1.out_h, conv1.out_w, conv1.out_channels, conv1.in_h, conv1.pad_bottom) == (3, 55, 8, 2 * 4 + 11, 0)
    conv2 = layers["conv2"].window(out_rows=26, out_channels=500)
    assert (conv2.out_h, conv2.out_channels, conv2.in_channels, conv2.groups, conv2.in_h, conv2.pad_bottom) == (26, 256, 96, 2, 27, 1)
    whole = layers["conv3"].window(out_rows=99, out_channels=999)
    assert whole == layers["conv3"]
