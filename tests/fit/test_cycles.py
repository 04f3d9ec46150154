"""The closed-form cycles against a step-by-step reference over emitted instructions, by hand, and fitted from a table."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pipeline import Truth, core_cycles

from fit.compose import design_parameters
from fit.cycle_fit import cases_of, config_of, fit_cycles, predict_cases
from fit.cycles import BOUNDS, COEFFICIENTS, Coefficients, DramTimes, _waits_after_first, dram_times, layer_cycles
from fit.transfers import instructions
from flow.table import CYCLE_COLUMNS, PARAMETERS, TABLE_VERSION
from hw.compiler import compile_layer
from hw.config import load_design
from hw.dram import load_dram_part, read_latency_s
from hw.errors import ConfigError
from hw.golden import random_layer
from hw.isa import Opcode, Target, decode
from hw.layers import LayerShape
from hw.lowering import lower
from hw.tiling import Tiling, architecture, measure
from hw.tiling_choice import choose_tiling, enumerate_tilings

sys.path.append(str(Path(__file__).parent.parent / "hw"))
from strategies import configurations, operators  # noqa: E402

IDEAL = DramTimes(*(0.0 for _ in DramTimes._fields))
SHAPES = (
    LayerShape(name="conv3x3", kind="conv", in_channels=16, out_channels=32, in_h=14, in_w=14, kernel_h=3, kernel_w=3,
               pad_top=1, pad_bottom=1, pad_left=1, pad_right=1),
    LayerShape(name="conv5x5s2", kind="conv", in_channels=3, out_channels=16, in_h=35, in_w=35, kernel_h=5, kernel_w=5, stride_h=2, stride_w=2),
    LayerShape(name="conv1x1", kind="conv", in_channels=64, out_channels=32, in_h=8, in_w=8),
    LayerShape(name="fc", kind="fc", in_channels=256, out_channels=64),
    LayerShape(name="grouped", kind="conv", in_channels=32, out_channels=32, in_h=10, in_w=10, kernel_h=3, kernel_w=3, groups=2),
    LayerShape(name="depthwise", kind="conv", in_channels=32, out_channels=32, in_h=14, in_w=14, kernel_h=3, kernel_w=3, groups=32,
               pad_top=1, pad_bottom=1, pad_left=1, pad_right=1),
    LayerShape(name="max_pool", kind="max_pool", in_channels=32, in_h=14, in_w=14, kernel_h=3, kernel_w=3, stride_h=2, stride_w=2),
    LayerShape(name="global_pool", kind="average_pool", in_channels=64, in_h=7, in_w=7, kernel_h=7, kernel_w=7),
    LayerShape(name="add", kind="add", in_channels=32, in_h=12, in_w=12),
    LayerShape(name="matmul", kind="matmul", groups=2, in_channels=64, out_channels=64, in_h=24),
    LayerShape(name="transpose", kind="transpose", groups=2, in_channels=32, in_h=24),
)  # fmt: skip
TRUTH = Coefficients(
    start=25, outside=0, step=3, tail=9, load_instruction=2, load_latency_core=55, load_latency_memory=0, load_gap=0.5, store_latency_core=60,
    store_latency_memory=0, store_instruction=2, dispatch=0, program=0, dram=1, refresh=0, turn=0, run=0,
)  # fmt: skip
"""What `Truth` says, in the model's words: one latency more passes before the first load's, that of the program."""


TABLE_TRUTH = Coefficients(
    start=40, outside=30, step=3, tail=9, load_instruction=2, load_latency_core=20, load_latency_memory=15, load_gap=0.4, store_latency_core=12,
    store_latency_memory=6, store_instruction=2, dispatch=4, program=0.8, dram=1, refresh=0, turn=0, run=0.5,
)  # fmt: skip


def programs(tilings_each=3, designs=("small", "medium", "large"), seed=0):
    """(config, shape, lowered, tiling, program) of random legal tilings."""
    rng = np.random.default_rng(seed)
    for config in map(load_design, designs):
        for shape in SHAPES:
            lowering = lower(config, shape)
            legal = enumerate_tilings(config, lowering)
            for i in rng.choice(len(legal), min(tilings_each, len(legal)), replace=False):
                program = compile_layer(config, random_layer(shape, rng, 8, 8, "typical", (0, 0)), tiling=legal[i], fold_first=False)
                yield config, shape, lowering.numbers, legal[i], program


@pytest.fixture(scope="module")
def table():
    """A cycles table in which the closed form with the coefficients `TABLE_TRUTH` is the truth, three clock ratios a program."""
    rows = []
    for config, shape, lowered, tiling, _ in programs():
        counted = measure(architecture(config), lowered, tiling)
        p = design_parameters(config)
        for ratio in (0.25, 1.0, 4.0):
            row = dict.fromkeys(CYCLE_COLUMNS, 0) | {name: int(p[name][0]) for name in PARAMETERS}
            row |= {"table_version": TABLE_VERSION, "design": config.name, "layer": f"net.{shape.name}[rows=1]", "kind": shape.kind, "batch": 1}
            row |= {"fold": 0, "dram": "ideal"}
            row |= {name: getattr(shape, name) for name in CYCLE_COLUMNS if name in LayerShape.model_fields and name not in ("name", "kind")}
            row |= {name: int(value) for name, value in tiling._asdict().items()}
            row |= {"core_period_s": 1e-9, "mem_period_s": ratio * 1e-9, "core_cycles": 1, "compute_busy": counted.pixel_steps}
            rows.append(row)
    frame = pd.DataFrame(rows)[list(CYCLE_COLUMNS)]
    found = predict_cases(cases_of(frame), np.array(TABLE_TRUTH))
    return frame.assign(core_cycles=found[:, 0].round(), stall_load=np.maximum(0, found[:, 0] - found[:, 1]).round())


def without_fetch(counted):
    """As if the program were there already, as in the reference."""
    return counted._replace(program_read_bytes=0)


def test_closed_form_against_every_instruction():
    """With the reference machine's own numbers the closed form is within a few percent of going through its program, for every kind of layer."""
    errors = []
    for config, _, lowered, tiling, program in programs(seed=1):
        a = architecture(config)
        counted = without_fetch(measure(a, lowered, tiling))
        for ratio in (0.25, 1.0, 4.0):
            expected = core_cycles(program, Truth(memory_ratio=ratio))
            got = layer_cycles(a, lowered, tiling, counted, IDEAL, 1e-9, ratio * 1e-9, TRUTH)
            assert got.total >= counted.pixel_steps and got.compute + got.stall == pytest.approx(got.total)
            errors.append(got.total / expected - 1)
    assert len(errors) > 250
    assert np.median(np.abs(errors)) < 0.015 and np.mean(np.abs(errors)) < 0.03 and np.max(np.abs(errors)) < 0.2


def test_one_tile_by_hand():
    """One COMPUTE: start, first load, issue, drain, store, one after the other."""
    config = load_design("small")
    shape = LayerShape(name="tiny", kind="conv", in_channels=4, out_channels=4, in_h=2, in_w=2)
    lowered, tiling = lower(config, shape).numbers, Tiling(0, 1, 2, 4, 1)
    a = architecture(config)
    counted = measure(a, lowered, tiling)
    assert counted.computes == 1
    got = layer_cycles(a, lowered, tiling, without_fetch(counted), IDEAL, 2e-9, 1e-9, TRUTH)
    # A word of 4 lanes x 8 bits is one beat; 4 activation words in 2 LOADs, 4 weight words in one, 4 parameters of 2 beats in one. The third load asks
    # for its data when the first is written, so that its latency but for the second shows; with 2 STOREs no store waits for another.
    load = (4 + 2 * 2) + (counted.weight_load_words + 2) + (4 * 2 + 2)
    # 2 passes of one block of 2 pixels: 1 step and 2 drain cycles each; the first block's 2 steps, then 2 x 4 cycles of draining.
    assert (counted.pixel_steps, counted.pixel_drains, counted.blocks) == (4, 8, 2)
    store = 4 + 2 * 2
    assert got.total == pytest.approx(80 + 55 + load + (55 - load / 4) + (2 + 8) + 3 + 9 + store + 60)
    assert got.compute == pytest.approx(11)


def test_memory_bound_time_does_not_fall_with_the_core_clock():
    """The knee: cycles are constant while compute-bound, time is constant while memory-bound."""
    config = load_design("large")
    shape = LayerShape(name="fc", kind="fc", in_channels=4096, out_channels=1024)
    lowered = lower(config, shape).numbers
    tiling = enumerate_tilings(config, lower(config, shape))[0]
    a = architecture(config)
    counted = measure(a, lowered, tiling)
    dram = DramTimes(*(float(x) for x in dram_times(load_dram_part("lpddr3_1600_x32"), a, lowered, tiling, counted)))
    k = Coefficients(*(c.start for c in COEFFICIENTS))
    runs = [layer_cycles(a, lowered, tiling, counted, dram, 1 / f, 2e-9, k) for f in (1e6, 2e6, 1e9, 2e9)]
    times = [run.total / f for run, f in zip(runs, (1e6, 2e6, 1e9, 2e9), strict=True)]
    assert times[0] / times[1] == pytest.approx(2, rel=0.01) and times[2] / times[3] == pytest.approx(1, rel=0.02)
    assert BOUNDS[runs[3].bound] in ("load", "dram")
    assert times[3] > counted.weight_read_bytes / 6.4e9


def test_dram_times_follow_the_closed_forms():
    config, part = load_design("medium"), load_dram_part("lpddr3_1600_x32")
    lowering, a = lower(config, SHAPES[0]), architecture(config)
    for tiling in enumerate_tilings(config, lowering):
        counted = measure(a, lowering.numbers, tiling)
        times = dram_times(part, a, lowering.numbers, tiling, counted)
        assert times.latency_s == pytest.approx(read_latency_s(part))
        # Rows are open, closed, or to be closed first; 4 KiB pages of which there are fewer than banks are opened once.
        row_s = part.cycles["rcd"] * part.bus.tck_s
        assert times.latency_s - row_s <= times.usual_latency_s <= times.latency_s + part.cycles["rp"] * part.bus.tck_s
        assert times.weight_s >= counted.weight_read_bytes / 6.4e9
        assert times.total_s >= max(times.weight_s, times.activation_s, times.output_s)
        # A burst of 32 bytes takes 5 ns: at least the bytes', at most two bursts a run and as many as its bytes fill; all lies in a few pages.
        assert (
            counted.activation_read_bytes / 6.4e9
            <= times.activation_s
            <= 1.3 * (2 * counted.activation_runs + counted.activation_read_bytes / 32) * 5e-9 + 1e-6
        )
    assert all(np.all(t == 0) for t in dram_times(None, a, lowering.numbers, tiling, counted))


def test_short_runs_share_pages():
    """Many runs a row apart cost their bursts, not an activation (12.5 ns) each."""
    config, part = load_design("small"), load_dram_part("lpddr3_1600_x32")
    shape = LayerShape(name="narrow", kind="conv", in_channels=32, out_channels=4, in_h=16, in_w=16, kernel_h=3, kernel_w=3)
    lowering, a = lower(config, shape), architecture(config)
    tiling = Tiling(0, 2, 2, 4, lowering.numbers.c_groups)
    counted = measure(a, lowering.numbers, tiling)
    assert counted.problem == 0 and counted.activation_read_bytes / counted.activation_runs < 32
    # Each run takes at least a burst (5 ns), however few of its bytes are wanted.
    assert 5e-9 <= dram_times(part, a, lowering.numbers, tiling, counted).activation_s / counted.activation_runs < 0.9 * 12.5e-9


def test_coefficients_are_found_from_the_table(table):
    model, comparisons = fit_cycles(table, held_out=["large"])
    values = {n.name: n for n in model.parameters}
    for name in ("step", "load_gap", "program", "outside"):
        assert values[name].value == pytest.approx(getattr(TABLE_TRUTH, name), rel=0.1, abs=0.1), name
    # Latencies of core and memory differ with the ratio of the clocks only.
    for ratio in (0.25, 4):
        latency = values["load_latency_core"].value + ratio * values["load_latency_memory"].value
        assert latency == pytest.approx(TABLE_TRUTH.load_latency_core + ratio * TABLE_TRUTH.load_latency_memory, rel=0.1)
    # There is no DRAM in this table, so nothing is said about it.
    assert values["dram"].status == "assumed" and values["dram"].standard_error is None
    by_split = {c.split: c for c in comparisons}
    assert set(by_split) == {"layers in turn", "held-out designs"}
    for comparison in comparisons:
        assert comparison.model.mean < 0.003 and comparison.model.worst < 0.1 and comparison.ideal.mean > 0.1
    assert by_split["held-out designs"].model.groups == 1


def test_the_held_out_design_takes_no_part(table):
    spoiled = table.copy()
    spoiled.loc[spoiled["design"] == "large", "core_cycles"] *= 3
    assert fit_cycles(table, held_out=["large"])[0] == fit_cycles(spoiled, held_out=["large"])[0]
    assert fit_cycles(table)[0] != fit_cycles(spoiled)[0]


def test_rows_become_the_configuration_they_came_from(table):
    for name in ("small", "large"):
        row = table[table["design"] == name].iloc[0]
        expected = load_design(name)
        assert config_of(row).model_dump(exclude={"name", "clock_gating"}) == expected.model_dump(exclude={"name", "clock_gating"})
    cases = cases_of(table)
    assert predict_cases(cases, np.array(TRUTH)).shape == (len(table), 3)


def test_rows_that_contradict_the_tiling_are_refused(table):
    wrong = table.iloc[:2].copy()
    wrong["compute_busy"] += 1
    with pytest.raises(ConfigError, match="compute_busy must be the tiling's"):
        cases_of(wrong)
    wrong = table.iloc[:2].copy()
    wrong["tile_k"] = 3
    with pytest.raises(ConfigError, match="tiling must fit the"):
        cases_of(wrong)
    with pytest.raises(ConfigError, match="rows of cycles.csv must include designs that are not held out"):
        fit_cycles(table, held_out=["small", "medium", "large"])


@settings(derandomize=True, max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(config=configurations(), shape=operators(), pick=st.integers(0, 1000), core_ps=st.sampled_from([300, 1000, 4000, 30000]))
def test_cycles_are_bounded_below_and_grow_with_work_and_periods(config, shape, pick, core_ps):
    """Never below the peak rate or the read port's; not fewer for two images than for one, nor in less time with a slower clock on either side."""
    k = Coefficients(*(c.start for c in COEFFICIENTS))
    try:
        lowered = lower(config, shape).numbers
        legal = enumerate_tilings(config, lower(config, shape))
        twice = lower(config, shape, batch=2).numbers
    except ConfigError:
        assume(False)
    assume(legal)
    tiling, a, part = legal[pick % len(legal)], architecture(config), load_dram_part("lpddr3_1600_x32")
    core = core_ps * 1e-12

    def time_s(numbers, core_s, memory_s):
        counted = measure(a, numbers, tiling)
        dram = DramTimes(*(float(x) for x in dram_times(part, a, numbers, tiling, counted)))
        return counted, layer_cycles(a, numbers, tiling, counted, dram, core_s, memory_s, k).total * core_s

    counted, took = time_s(lowered, core, 1e-9)
    reads = counted.activation_read_bytes + counted.weight_read_bytes + counted.parameter_read_bytes + counted.program_read_bytes
    assert took >= counted.pixel_steps * core and took >= max(core, 1e-9) * reads / config.axi_bytes * 0.999
    assert took >= counted.pixel_drains * core * 0.999
    for slower in ((2 * core, 1e-9), (core, 2e-9)):
        assert time_s(lowered, *slower)[1] >= took * (1 - 1e-9)
    if measure(a, twice, tiling).problem == 0:
        assert time_s(twice, core, 1e-9)[1] >= took * (1 - 1e-9)


def test_instructions_are_those_of_the_program():
    """LOADs, FILLs and STOREs in closed form beside those the compiler emits; the split into loads and fills may be off where padding is uneven."""
    for config, _, lowered, tiling, program in programs(seed=2):
        counted = measure(architecture(config), lowered, tiling)
        found = instructions(architecture(config), lowered, tiling, counted)
        first = program.program_address - program.base_address
        stream = [decode(bytes(program.image[i : i + 32])) for i in range(first, first + program.program_bytes, 32)]
        emitted = Counter((opcode, f["target"] if opcode == Opcode.LOAD else None) for opcode, f in stream)
        assert found.stores == emitted[Opcode.STORE, None] and found.weight_loads == emitted[Opcode.LOAD, Target.WEIGHT]
        assert found.activation_loads + found.fills == emitted[Opcode.LOAD, Target.ACTIVATION] + emitted[Opcode.FILL, None]
        assert found.activation_loads == pytest.approx(emitted[Opcode.LOAD, Target.ACTIVATION], rel=0.35, abs=2)


def test_loads_that_begin_with_an_idle_engine_wait_two_by_two():
    """An engine with two loads in hand, gone through one by one: each asks for its data when the one two before is written."""
    latency, service = 30.0, 4.0
    for loads in range(1, 12):
        written: list[float] = []
        for i in range(loads):
            asked = written[i - 2] if i >= 2 else 0.0
            written.append(max(asked + latency, written[-1] if i else 0.0) + service)
        assert written[-1] == latency + loads * service + _waits_after_first(float(loads)) * (latency - service)


def test_refreshes_and_turns_show_where_the_layer_waits_for_the_dram():
    """Not in a compute-bound layer; in one that waits for its loads, by their share of the time; a layer that ends before the first sees none."""
    config, part = load_design("medium"), load_dram_part("lpddr3_1600_x32")
    a, k = architecture(config), Coefficients(*(c.start for c in COEFFICIENTS))._replace(refresh=1.0, turn=0.0)

    def took(shape, core_s, **changed):
        lowered = lower(config, shape).numbers
        tiling = choose_tiling(config, lower(config, shape))
        counted = measure(a, lowered, tiling)
        dram = DramTimes(*(float(x) for x in dram_times(part, a, lowered, tiling, counted)))._replace(**changed)
        return layer_cycles(a, lowered, tiling, counted, dram, core_s, 1.25e-9, k).total * core_s

    large = LayerShape(name="fc", kind="fc", in_channels=4096, out_channels=256)
    share = part.cycles["rfc"] / part.cycles["refi"]
    waiting = took(large, 0.3e-9) / took(large, 0.3e-9, refresh_each_s=0.0) - 1
    assert share < waiting < 2 * share
    dense = LayerShape(name="dense", kind="conv", in_channels=64, out_channels=64, in_h=28, in_w=28, kernel_h=3, kernel_w=3)
    assert took(dense, 20e-9) / took(dense, 20e-9, refresh_each_s=0.0) - 1 < 0.1 * share
    tiny = LayerShape(name="tiny", kind="conv", in_channels=4, out_channels=4, in_h=2, in_w=2)
    assert took(tiny, 1e-9) == took(tiny, 1e-9, refresh_each_s=0.0)
    assert took(large, 0.3e-9, turn_s=0.0) == took(large, 0.3e-9)
    k = k._replace(turn=1.0)
    assert took(large, 0.3e-9) > took(large, 0.3e-9, turn_s=0.0)
