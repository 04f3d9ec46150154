"""What registers and memories hold at power-on changes nothing: neither outputs nor counters nor cycles."""

import pytest

from hw.config import load_design
from hw.dram_part import load_dram_part
from hw.emit import emit
from hw.layers import LayerShape
from hw.sim.network import random_workload, run_workload
from hw.sim.run import build
from hw.tools import BUILD_DIR

LAYERS = [
    LayerShape(name="a", kind="conv", in_channels=6, out_channels=10, in_h=7, in_w=6, kernel_h=3, kernel_w=3, pad_top=1, pad_left=1, relu=True),
    LayerShape(name="b", kind="conv", in_channels=10, out_channels=4, in_h=6, in_w=5, kernel_h=2, kernel_w=2, stride_h=2, stride_w=2),
]


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    config = load_design("small")
    bundle = emit(config, tmp_path_factory.mktemp("rtl"))
    BUILD_DIR.mkdir(exist_ok=True)
    return build(verilog=bundle.verilog, axi_data_bits=config.memory.axi_data_bits, random_initial=True)


def test_initial_values_change_nothing(simulator):
    workload = random_workload(load_design("small"), LAYERS, batch=1, kind="typical", zero_points=(3, 3), seed=1)

    def run(seed: int | None):
        return run_workload(
            simulator, workload, core_period_ps=1000, mem_period_ps=1370, timeout_cycles=100_000, memory=load_dram_part("lpddr3_1600_x32"),
            stall_probability=0.1, initial_seed=seed,
        )  # fmt: skip

    reference = run(None)
    for seed in range(1, 6):
        result = run(seed)
        assert result.run_cycles == reference.run_cycles
        assert result.events == reference.events and (result.output == reference.output).all()
