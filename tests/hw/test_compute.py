"""The compute engine's cycles: no idle cycle in issue, draining hidden where it can be, and what a COMPUTE takes by itself."""

import pytest
from block_bench import instruction, simulate
from datapath_bench import Bench, design

from hw.config import AcceleratorConfig
from hw.isa import Opcode

STEP = {"act_base": 0, "weight_base": 0, "parameter_base": 0, "output_base": 0, "accumulate": 0, "emit": 1, "channel_offset": 0, "row_mask": 1}
CONFIGURE = {"kernel_h": 1, "act_x_stride": 1, "clip_low": -8, "clip_high": 7}


def cycles_of(config: AcceleratorConfig, kernel_w: int, computes: list[dict[str, int]]) -> Bench:
    """Run COMPUTEs back to back on empty banks; the first instruction is a CONFIGURE."""
    bench = Bench(config)
    program = [instruction(Opcode.CONFIGURE, **CONFIGURE, kernel_w=kernel_w)]
    program += [instruction(Opcode.COMPUTE, **(STEP | compute)) for compute in computes]

    async def main(ctx):
        await bench.run(ctx, program)

    simulate(bench.dut, main, bench.watch)
    return bench


@pytest.mark.parametrize("stages", range(4))
@pytest.mark.parametrize(("height", "width", "kernel_w", "groups", "passes"), [(1, 1, 1, 1, 1), (1, 1, 5, 2, 3), (2, 3, 2, 2, 2), (3, 4, 4, 1, 1)])
def test_a_compute_takes_its_steps_and_a_constant(stages, height, width, kernel_w, groups, passes):
    config = design(rows=1, multiplier_stages=stages)
    bench = cycles_of(config, kernel_w, [{"tile_h": height, "tile_w": width, "c_groups": groups, "passes": passes}])
    pixels, drain_cycles = height * width, config.array.cols // config.array.post_lanes
    assert kernel_w * groups >= drain_cycles or pixels == 1, "draining must be hidden here"
    steps = passes * pixels * kernel_w * groups
    last_block = (pixels - 1) % config.array.acc_depth + 1
    assert bench.done[-1] - bench.accepted[-1] == steps + last_block * drain_cycles + stages + 13
    assert bench.events["stall_drain"] == 0


def test_issue_does_not_pause_between_computes_nor_while_sums_drain():
    config = design(rows=1, cols=4, acc_depth=4)
    computes = [{"tile_h": 2, "tile_w": 4, "c_groups": 1, "passes": 2}] * 5
    bench = cycles_of(config, 4, computes)  # 4 steps a pixel, and 4 cycles to drain one: exactly hidden
    assert [b - a for a, b in zip(bench.accepted[1:], bench.accepted[2:], strict=False)] == [2 * 8 * 4] * 4
    assert bench.events["compute_busy"] == 5 * 2 * 8 * 4 and bench.events["stall_drain"] == 0


def test_where_draining_takes_longer_it_sets_the_pace():
    config = design(rows=1, cols=8, acc_depth=4)
    bench = cycles_of(config, 2, [{"tile_h": 2, "tile_w": 4, "c_groups": 1, "passes": 2}] * 4)
    blocks, drain_cycles, issue_cycles = 4 * 2 * 2, 4 * 8, 4 * 2
    busy = bench.done[-1] - bench.accepted[1]
    assert busy == issue_cycles + blocks * drain_cycles + config.array.multiplier_stages + 13
    # Issue is over when the last block but two has drained and the last one has issued; it waited for all else.
    assert bench.events["stall_drain"] == (blocks - 2) * drain_cycles - (blocks - 2) * issue_cycles


def test_short_instructions_are_limited_in_flight():
    config = design(rows=1, post_lanes=2)
    bench = cycles_of(config, 1, [{"tile_h": 1, "tile_w": 1, "c_groups": 1, "passes": 1}] * 12)
    assert len(bench.done) == 13
    in_flight = [sum(1 for d in bench.accepted if d <= cycle) - sum(1 for d in bench.done if d <= cycle) for cycle in range(bench.cycle)]
    assert max(in_flight) == 4


def test_sums_that_go_on_wait_while_a_block_drains_and_none_is_lost():
    """While a long drain runs, a chain of COMPUTEs that add to one sum: each is done once and in order, also those that emit nothing."""
    config = design(rows=1, cols=8, acc_depth=4)
    long = {"tile_h": 1, "tile_w": 4, "c_groups": 1, "passes": 1}
    links = [long | {"tile_w": 1, "accumulate": i > 0, "emit": i == 3} for i in range(4)]
    bench = cycles_of(config, 1, [long, *links, long])
    assert len(bench.done) == 1 + 1 + 4 + 1
    assert bench.done == sorted(set(bench.done))
    assert bench.events["stall_drain"] > 0
    assert bench.events["post_outputs"] == 8 * (4 + 1 + 4)
