"""`voltfront rtl` and `voltfront simulate` as a user calls them."""

import json

import pytest
from click.testing import CliRunner

from hw.cli import rtl, simulate
from hw.errors import ConfigError
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
