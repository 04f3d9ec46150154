"""Designs exported for ZigZag: the real ZigZag loads them and costs AlexNet's convolutions."""

import pytest
import yaml
from made_up import model

from explore import zigzag
from explore.components import calibrate
from hw.config import AcceleratorConfig, Array, Buffers
from hw.dram_part import load_dram_part
from hw.errors import ConfigError
from hw.layers import LayerShape, load_network
from hw.lowering import lower
from hw.tiling import architecture, measure

CONFIG = AcceleratorConfig(
    version=1, name="deep", array=Array(rows=2, cols=4, lanes=8, acc_depth=16),
    buffers=Buffers(activation_bank_bytes=32768, weight_bank_bytes=16384, output_bank_bytes=2048),
)  # fmt: skip
BOUND = 0.08
"""Two array rows take 13 output rows of conv3 in 7 steps: in the last one of them rests, which ZigZag counts as work (14/13)."""


def layers(found):
    """Cost model evaluations of single layers in what ZigZag returns."""
    if getattr(found, "layer", None) is not None and hasattr(found, "memory_word_access"):
        yield found
    elif isinstance(found, (list, tuple)):
        for each in found:
            yield from layers(each)


@pytest.mark.parametrize("name", ["conv1", "conv2", "conv3"])
def test_zigzag_and_the_compiler_count_alike(tmp_path, name):
    """What the mapping fixes: multiplications, reads of the banks, weights from and outputs to the DRAM. Not how often an input comes from the
    DRAM: ZigZag keeps an image in the banks wherever it fits, the compiler keeps tiles in slots and reloads them for each tile of channels."""
    api = pytest.importorskip("zigzag.api", reason="zigzag-dse is not installed (pip install zigzag-dse six)")
    from zigzag.datatypes import LayerOperand
    from zigzag.mapping.data_movement import DataDirection

    design = calibrate(model(), CONFIG, load_dram_part("lpddr3_1600_x32"), vdd_v=0.8, margin=0.1, mem_clk_hz=8e8)
    shape = next(layer for layer in load_network("alexnet").layers if layer.name == name)
    files = {"hardware": zigzag.hardware(design), "workload": [zigzag.layer(shape, 0, CONFIG)], "mapping": zigzag.mapping([shape], CONFIG)}
    for key, content in files.items():
        (tmp_path / f"{key}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    found = api.get_hardware_performance_zigzag(
        *(str(tmp_path / f"{key}.yaml") for key in ("workload", "hardware", "mapping")), opt="energy", dump_folder=str(tmp_path / "dump"),
        loma_show_progress_bar=False,
    )  # fmt: skip
    theirs = next(layers(found[2]))
    assert theirs.energy_total == pytest.approx(theirs.mac_energy + sum(map(sum, theirs.mem_energy_breakdown.values())))

    unit, tiling = zigzag.unit_energies_pj(design), zigzag.expressed_tiling(shape, CONFIG)
    counted, line_bytes = measure(architecture(CONFIG), lower(CONFIG, shape).numbers, tiling), design.part.geometry.data_bits / 8
    ours = {
        "mac": counted.multiplier_uses * unit["mac"], "weight bank": counted.weight_reads * unit["weight_read"],
        "activation bank": counted.activation_reads * unit["activation_read"], "weights": counted.weight_read_bytes / line_bytes * unit["dram_read"],
        "outputs": counted.output_write_bytes / line_bytes * unit["dram_write"],
    }  # fmt: skip

    def reads(operand, level):
        return float(theirs.memory_word_access[LayerOperand(operand)][level].get(DataDirection.RD_OUT_TO_LOW))

    parts = {key: theirs.mem_energy_breakdown[LayerOperand(key)] for key in "WO"}
    zigzags = {
        "mac": theirs.mac_energy, "weight bank": reads("W", 1) * unit["weight_read"], "activation bank": reads("I", 0) * unit["activation_read"],
        "weights": parts["W"][2], "outputs": parts["O"][2],
    }  # fmt: skip
    filled = -(-shape.out_h // CONFIG.array.rows) * CONFIG.array.rows / shape.out_h
    for key, energy in ours.items():
        assert zigzags[key] * shape.groups == pytest.approx(energy * (filled if key in ("mac", "activation bank", "outputs") else 1), rel=1e-3), key
    assert sum(zigzags.values()) * shape.groups == pytest.approx(sum(ours.values()), rel=BOUND)


def test_what_zigzag_cannot_run_is_refused():
    pool = LayerShape(name="pool", kind="max_pool", in_channels=8, in_h=4, in_w=4, kernel_h=2, kernel_w=2)
    with pytest.raises(ConfigError, match="layers must be convolutions or fully connected for ZigZag, not max_pool"):
        zigzag.layer(pool, 0, CONFIG)
