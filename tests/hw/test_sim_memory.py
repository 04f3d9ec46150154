"""The simulated memory, its protocol monitor and the driver, with a traffic generator in the accelerator's place (traffic.sv)."""

import time
from pathlib import Path

import numpy as np
import pytest
import pywellen

from hw.dram import DramController, dram_transfer, load_dram_part, read_latency_s
from hw.errors import ConfigError, ToolError
from hw.registers import Cause
from hw.sim.run import IdealMemory, MemoryRegion, SimulationError, TraceRequest, build, simulate

TRAFFIC = Path(__file__).with_name("traffic.sv")
SOURCE, DESTINATION = 1 << 16, (1 << 16) + (1 << 20)
READ, WRITE, READ_AND_WRITE, COPY, CROSS_4K, WRAP, EARLY_LAST, UNSTABLE, OVERLAP, COPY_EVEN_BYTES = range(10)


@pytest.fixture(scope="module")
def part():
    return load_dram_part("lpddr3_1600_x32")


@pytest.fixture(scope="module")
def simulators(tmp_path_factory):
    """A function of the bus width (and whether to trace) that gives the simulator for it."""

    def simulator(axi_data_bits, trace=False):
        verilog = tmp_path_factory.mktemp("verilog") / "traffic.sv"
        verilog.write_text(TRAFFIC.read_text().replace("parameter int W = 64", f"parameter int W = {axi_data_bits}"))
        return build(verilog=[verilog], axi_data_bits=axi_data_bits, trace=trace)

    return simulator


def run(simulator, mode, *, size_bytes=1 << 16, beats=16, two_ids=False, image_bytes=None, **options):
    """Run one kind of traffic; returns the result and the source data."""
    image = np.random.default_rng(0).integers(0, 256, image_bytes or SOURCE + size_bytes, dtype=np.uint8)
    options = {
        "regions": [
            MemoryRegion(address=SOURCE, size_bytes=size_bytes),
            MemoryRegion(address=DESTINATION, size_bytes=size_bytes, read=True, write=True),
        ],
        "core_period_ps": 2000,
        "mem_period_ps": 2500,
        "timeout_cycles": 500_000,
        "memory": IdealMemory(),
        "output_address": DESTINATION,
        "output_bytes": size_bytes,
    } | options
    word = mode << 8 | two_ids << 12 | (beats - 1) << 16
    result = simulate(simulator=simulator, image=image, program_address=SOURCE | word << 32, program_bytes=size_bytes, **options)
    return result, image[SOURCE:]


def checksum(words):
    value = 0
    for word in words:
        value = (value * 31 + int(word)) & 0xFFFFFFFF
    return value


@pytest.mark.parametrize(
    ("axi_data_bits", "beats", "core_period_ps", "mem_period_ps", "stall_probability", "ideal"),
    [
        (64, 16, 2000, 2500, 0.0, False),
        (64, 1, 1234, 3217, 0.3, False),
        (64, 64, 9000, 1100, 0.6, True),
        (256, 16, 3217, 1234, 0.3, False),
        (32, 16, 1000, 1000, 0.2, True),
    ],
)
def test_a_copy_arrives_whole_at_any_width_clock_ratio_and_stall(
    simulators, part, axi_data_bits, beats, core_period_ps, mem_period_ps, stall_probability, ideal
):
    result, source = run(
        simulators(axi_data_bits),
        COPY,
        size_bytes=1 << 14,
        beats=beats,
        core_period_ps=core_period_ps,
        mem_period_ps=mem_period_ps,
        stall_probability=stall_probability,
        seed=axi_data_bits + beats,
        memory=IdealMemory(latency_s=50e-9) if ideal else part,
    )
    assert result.cause == Cause.NONE
    assert np.array_equal(result.output, source)
    assert result.memory["read_bytes"] == result.memory["write_bytes"] == 1 << 14
    assert result.memory["read_transactions"] == (1 << 14) * 8 // axi_data_bits // beats
    assert result.memory["open_transactions"] == 0
    if not ideal:
        assert result.memory["dram_read_bursts"] >= (1 << 14) / 32


def test_strobes_and_memory_never_written(simulators, part):
    """Only bytes with a strobe change; the others are neither zero nor the same everywhere, so that reading them shows."""
    size = 1 << 12
    result, source = run(simulators(64), COPY_EVEN_BYTES, size_bytes=size, memory=part, stall_probability=0.3)
    untouched, _ = run(simulators(64), READ, size_bytes=size)
    assert np.array_equal(result.output[0::2], source[0::2])
    assert np.array_equal(result.output[1::2], untouched.output[1::2])
    assert np.count_nonzero(untouched.output) > 0.98 * size and len(np.unique(untouched.output)) == 256


@pytest.mark.parametrize(("mode", "mem_period_ps"), [(READ, 1000), (WRITE, 1000), (READ_AND_WRITE, 1000)])
def test_streams_reach_the_bandwidth_of_the_closed_form(simulators, part, mode, mem_period_ps):
    """A bus wider than the DRAM: the DRAM decides. The engine streams 128-byte bursts of two sequential regions."""
    size = 1 << 19
    result, _ = run(simulators(64), mode, size_bytes=size, core_period_ps=1000, mem_period_ps=mem_period_ps, memory=part)
    predicted_s = dram_transfer(
        part,
        read_bytes=size * (mode != WRITE),
        write_bytes=size * (mode != READ),
        read_run_bytes=size,
        write_run_bytes=size,
    ).time_s
    measured_s = result.events["core_cycles"] * 1e-9
    assert measured_s == pytest.approx(predicted_s, rel=0.04)


def test_a_slow_bus_decides_the_bandwidth(simulators, part):
    result, _ = run(simulators(64), READ, size_bytes=1 << 17, core_period_ps=1000, mem_period_ps=5000, memory=part)
    assert result.events["core_cycles"] * 1e-9 == pytest.approx((1 << 17) / 8 * 5e-9, rel=0.06)


def test_latency_is_that_of_the_dram_and_its_controller(simulators, part):
    """One single read: the DRAM's own latency and a few memory clocks of handshakes; a slower controller adds its difference."""
    times_s = []
    for latency_s in (20e-9, 420e-9):
        controller = DramController(latency_s=latency_s)
        result, _ = run(simulators(64), READ, size_bytes=8, beats=1, core_period_ps=500, mem_period_ps=1000, memory=part, controller=controller)
        times_s.append(result.events["core_cycles"] * 0.5e-9 - read_latency_s(part, controller))
    assert 0 < times_s[0] < 8e-9
    assert times_s[1] == pytest.approx(times_s[0], abs=2e-9)


def test_ideal_memory_has_its_latency_and_no_bandwidth_limit(simulators):
    times_s = []
    for latency_s in (100e-9, 1100e-9):
        result, _ = run(simulators(64), READ, size_bytes=128, core_period_ps=1000, mem_period_ps=1000, memory=IdealMemory(latency_s=latency_s))
        times_s.append(result.events["core_cycles"] * 1e-9)
    assert times_s[1] - times_s[0] == pytest.approx(1e-6, abs=3e-9)
    long, _ = run(simulators(64), READ, size_bytes=1 << 17, core_period_ps=1000, mem_period_ps=500, memory=IdealMemory(latency_s=20e-9))
    assert long.events["core_cycles"] * 1e-9 == pytest.approx((1 << 17) / 8 * 0.5e-9, rel=0.03)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(simulators, part):
    cycles = [run(simulators(64), COPY, size_bytes=1 << 13, memory=part, stall_probability=0.4, seed=seed)[0].run_cycles for seed in (1, 1, 2)]
    assert cycles[0] == cycles[1] != cycles[2]


def test_ids_keep_their_own_order_and_overtake_each_other(simulators, part):
    """Bursts of 32 bytes from two pages, ids 0 and 1 in turn: each id's data comes in its order, some bursts out of turn."""
    size, beats = 1 << 14, 4
    result, image = run(simulators(64), READ, size_bytes=size, beats=beats, two_ids=True, memory=part, mem_period_ps=800, image_bytes=DESTINATION + size)
    words = np.stack([image[:size], image[DESTINATION - SOURCE :]]).view(np.uint32)[:, ::2].reshape(2, -1, beats)
    read_back = list(result.configuration.values())
    assert (result.error_address, read_back[0]) == (checksum(words[0, 0::2].ravel()), checksum(words[1, 1::2].ravel()))
    assert read_back[1] > 0


def test_beats_of_different_ids_interleave_when_asked_to(simulators):
    """Each id's data still comes in its order; half of the beats or so come after one of the other id, not one in four."""
    size, beats = 1 << 13, 4
    options = {"size_bytes": size, "beats": beats, "two_ids": True, "image_bytes": DESTINATION + size, "jitter_s": 50e-9}
    whole, image = run(simulators(64), READ, **options)
    mixed, _ = run(simulators(64), READ, interleave=True, **options)
    words = np.stack([image[:size], image[DESTINATION - SOURCE :]]).view(np.uint32)[:, ::2].reshape(2, -1, beats)
    for result in (whole, mixed):
        assert (result.error_address, list(result.configuration.values())[0]) == (checksum(words[0, 0::2].ravel()), checksum(words[1, 1::2].ravel()))
    assert list(mixed.configuration.values())[1] > list(whole.configuration.values())[1]


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (CROSS_4K, r"read burst at 0xffc0 of 128 bytes crosses a 4 KB boundary"),
        (WRAP, r"must be INCR, not burst type 2"),
        (EARLY_LAST, r"WLAST must come with beat 16, not with beat 15"),
        (UNSTABLE, r"AR payload changed while it waited"),
        (OVERLAP, r"overlaps a (read|write) that has not been"),
    ],
)
def test_the_monitor_ends_a_run_that_breaks_the_protocol(simulators, mode, message):
    with pytest.raises(SimulationError, match=message):
        run(simulators(64), mode, size_bytes=1 << 13, stall_probability=0.3)


def test_the_monitor_ends_a_run_that_leaves_its_windows(simulators):
    regions = [MemoryRegion(address=SOURCE, size_bytes=8192), MemoryRegion(address=DESTINATION, size_bytes=4096, write=True)]
    with pytest.raises(SimulationError, match=f"write.* lies outside every writable window|write to {DESTINATION + 4096:#x}"):
        run(simulators(64), COPY, size_bytes=8192, regions=regions)
    regions = [MemoryRegion(address=SOURCE, size_bytes=4096), MemoryRegion(address=DESTINATION, size_bytes=8192, write=True)]
    with pytest.raises(SimulationError, match=f"read burst at {SOURCE + 4096:#x} of 128 bytes lies outside every readable window"):
        run(simulators(64), COPY, size_bytes=8192, regions=regions)


@pytest.mark.parametrize("address", [SOURCE + 256, DESTINATION + 256])
def test_a_fault_region_answers_with_an_error_and_keeps_its_contents(simulators, address):
    result, source = run(simulators(64), COPY, size_bytes=4096, fault_regions=[MemoryRegion(address=address, size_bytes=8)])
    assert result.cause == Cause.READ_RESPONSE  # the generator has one cause for both
    changed = np.flatnonzero(result.output != source)
    if address >= DESTINATION:
        assert changed.size and 256 <= changed.min() and changed.max() < 384
    else:
        assert changed.size == 0


def test_a_run_that_does_not_end_is_ended(simulators):
    with pytest.raises(SimulationError, match="must end within 100 core cycles, and did not"):
        run(simulators(64), COPY, timeout_cycles=100)


def test_a_build_is_made_once_and_a_broken_one_leaves_nothing(simulators, tmp_path):
    started = time.perf_counter()
    assert simulators(64) == simulators(64)
    assert time.perf_counter() - started < 2
    broken = tmp_path / "broken.v"
    broken.write_text("module accelerator(input x); assign y = ; endmodule\n")
    with pytest.raises(ToolError, match="verilator must exit with 0.*syntax error"):
        build(verilog=[broken], axi_data_bits=64, out_dir=tmp_path / "sim")
    assert list((tmp_path / "sim").iterdir()) == []


def test_a_trace_holds_the_windows_and_scopes_asked_for(simulators, tmp_path):
    request = TraceRequest(path=tmp_path / "windows.vcd", windows=[(10, 14), (15, 19), (200, 204)], scopes={"dut": 1})
    run(simulators(64, trace=True), COPY, core_period_ps=2000, mem_period_ps=5000, trace=request)
    variables = {variable.full_name: variable for variable in pywellen.Waveform(str(request.path)).all_vars()}
    assert "tb.dut.m_axi_araddr" in variables and all(name.startswith("tb.dut.") for name in variables)
    rises = [when for when, value in variables["tb.dut.core_clk"].tv if value == 1]
    assert len(rises) == 10 + 5
    assert np.diff(rises).tolist() == [2000] * 9 + [2000 * (201 - 20)] + [2000] * 4


def test_a_trace_from_a_simulator_without_one_is_refused(simulators, tmp_path):
    with pytest.raises(ConfigError, match="must be built with trace=True"):
        run(simulators(64), READ, size_bytes=256, trace=TraceRequest(path=tmp_path / "none.vcd", windows=[(0, 9)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stall_probability": 1.0}, "stall_probability must be at least 0 and below 1, not 1.0"),
        ({"core_period_ps": 0}, "core_period_ps must be at least 2, not 0"),
        ({"regions": []}, "regions must be at least one"),
        ({"timeout_cycles": 0}, "timeout_cycles must be at least 1"),
        ({"trace": TraceRequest(path=Path("x.vcd"), windows=[(5, 9), (8, 12)])}, "trace windows must be ascending"),
    ],
)
def test_bad_arguments_are_refused(simulators, options, message):
    with pytest.raises(ConfigError, match=message):
        run(simulators(64), READ, **options)


def test_a_bus_width_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="axi_data_bits must be one of .*, not 48"):
        build(verilog=[TRAFFIC], axi_data_bits=48)
