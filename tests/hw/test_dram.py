"""DRAM parts, the cycle-level model against the standard's timing rules, and the closed forms against the model."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import yaml

from hw.dram import DramController, DramPolicy, dram_energy_j, dram_parts, dram_transfer, load_dram_part, read_latency_s
from hw.dram_part import PARTS_DIR
from hw.errors import ConfigError, ModelError
from hw.sim.trace import DramCommand, run_trace


@pytest.fixture(scope="module")
def part():
    return load_dram_part("lpddr3_1600_x32")


def test_energies_equal_the_hand_calculation(part):
    # Charges in pC (mA x ns) for each rail, by the vendor's method, then times the rail's voltage.
    activate_pj = (8 * 60 - 2 * 42 - 0.8 * 18) * 1.8 + (60 * 60 - 34 * 42 - 26 * 18) * 1.2
    assert part.activate_j == pytest.approx(activate_pj * 1e-12)
    assert part.activate_j == pytest.approx(2.73e-9, rel=2e-3)
    assert part.read_j_per_bit == pytest.approx((230 - 34) * 1.2 * 5 / 256 * 1e-12)
    assert part.read_j_per_bit == pytest.approx(4.59e-12, rel=2e-3)
    assert part.write_j_per_bit == pytest.approx(4.83e-12, rel=2e-3)
    assert part.background_w("precharge_standby") == pytest.approx(32.6e-3, rel=2e-3)
    assert part.background_w("power_down") == pytest.approx(3.6e-3)
    assert part.background_w("self_refresh") == pytest.approx(3.06e-3)
    assert part.background_w("active_standby") == pytest.approx((2 * 1.8 + 34 * 1.2) * 1e-3)
    assert part.background_w("active_power_down") == pytest.approx((1.4 * 1.8 + 11 * 1.2) * 1e-3)
    assert part.refresh_w == pytest.approx(6.6e-3, rel=2e-3)
    assert part.io_j_per_bit == pytest.approx(1.8e-12)


def test_peak_bandwidth_and_capacity(part):
    assert part.peak_bandwidth_bytes_per_s == pytest.approx(6.4e9)
    assert part.capacity_bytes == 4 * 2**30 // 8
    assert part.burst_bytes == 32


@pytest.mark.parametrize("name", dram_parts())
def test_every_number_of_every_part_has_a_source(name):
    part = load_dram_part(name)
    for group in ("geometry", "bus", "bank", "refresh", "currents", "interface"):
        for key in type(getattr(part, group)).model_fields:
            assert len(part.sources[f"{group}.{key}"]) > 10, (group, key)


def _edited(tmp_path, edit):
    data = yaml.safe_load((PARTS_DIR / "lpddr3_1600_x32.yaml").read_text())
    edit(data)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["bank"].update(trcd_ns=18), r"bank\.trcd_ns must be \[value, source\] with a source out of .*, not 18"),
        (lambda d: d["bank"].update(trcd_ns=[18]), r"bank\.trcd_ns must be \[value, source\]"),
        (lambda d: d["bank"].update(trcd_ns=[18, "hearsay"]), r"bank\.trcd_ns must be \[value, source\]"),
        (lambda d: d["bank"].update(trcd_ns=["18 ns", "gem5"]), r"bank\.trcd_ns must be a number or a list of numbers, not '18 ns'"),
        (lambda d: d["bank"].update(trcd_ns=[-18, "gem5"]), r"bank\.trcd_s must be greater than 0, not -1\.8"),
        (lambda d: d["bank"].update(tricd_ns=[18, "gem5"]), r"bank\.tricd_s must be a known key"),
        (lambda d: d["bank"].pop("trcd_ns"), r"bank\.trcd_s must be given"),
        (lambda d: d["currents"].update(idd0_ma=[[8], "gem5"]), r"one figure per rail \(2\) for every current; idd0_a has 1"),
        (lambda d: d["geometry"].update(banks=[6, "gem5"]), r"banks must be a power of two"),
        (lambda d: d["sources"].update(gem5=""), r"sources must be a mapping of keys to texts"),
        (lambda d: d.pop("sources"), r"sources must be a mapping of keys to texts"),
        (lambda d: d.update(version=2), r"version must be 1, not 2"),
    ],
)
def test_a_part_with_a_fault_is_refused_in_one_line_that_names_it(tmp_path, edit, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_dram_part(_edited(tmp_path, edit))
    assert "mine.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_users_own_part_is_read_from_its_path(tmp_path, part):
    mine = load_dram_part(_edited(tmp_path, lambda d: d["bank"].update(trcd_ns=[15, "gem5"])))
    assert (mine.name, mine.bank.trcd_s) == ("mine", pytest.approx(15e-9))


def test_an_unknown_part_lists_what_exists():
    with pytest.raises(ConfigError, match="lpddr3_1600_x32.*not 'ddr9'"):
        load_dram_part("ddr9")


# --- the cycle-level model --------------------------------------------------------------------

SAME_BANK = 0o1000 * 8 * 4096 + 4096
"""An address in row 0o1000, bank field 1: the row's octal digits XORed with it give bank 0, that of address 0."""


def test_one_read_takes_trcd_and_read_latency_and_the_burst(part):
    run = run_trace(part, time_s=[100e-9], address=[4096], size_bytes=[32], write=[0])
    by_hand_s = (math.ceil(18 / 1.25) + 12 + 4) * 1.25e-9 + 20e-9
    assert run.completion_s[0] - 100e-9 == pytest.approx(by_hand_s)
    assert read_latency_s(part) == pytest.approx(by_hand_s)


def test_rows_stay_open_and_a_conflict_costs_a_precharge(part):
    run = run_trace(part, time_s=[0, 1e-6, 2e-6], address=[0, 64, SAME_BANK], size_bytes=[32, 32, 32], write=0, record_commands=9)
    kinds = [DramCommand(command) for command in run.commands[:, 1]]
    A, P, R = DramCommand.ACTIVATE, DramCommand.PRECHARGE, DramCommand.READ
    assert kinds == [A, R, R, P, A, R]
    assert len(set(run.commands[:, 2])) == 1
    latency_s = run.completion_s - [0, 1e-6, 2e-6]
    assert latency_s[0] - latency_s[1] == pytest.approx(15 * 1.25e-9)  # hit: no tRCD
    assert latency_s[2] - latency_s[0] == pytest.approx(15 * 1.25e-9)  # conflict: tRP too


def _random_trace(part, seed, requests=1500):
    rng = np.random.default_rng(seed)
    size = rng.choice([4, 32, 64, 100, 256, 1024, 5000], requests)
    local = rng.random() < 0.5
    span = 1 << 20 if local else part.capacity_bytes - 8192
    address = rng.integers(0, span, requests) // 4 * 4
    time_s = np.cumsum(rng.exponential(rng.choice([1e-9, 50e-9, 500e-9]), requests))
    return time_s, address, size, rng.random(requests) < rng.choice([0.1, 0.5])


@pytest.mark.parametrize("seed", range(8))
def test_the_model_keeps_every_timing_rule(part, seed):
    """An independent check in seconds, from the data sheet's times, over the commands that a random trace caused."""
    time_s, address, size, write = _random_trace(part, seed)
    run = run_trace(part, time_s=time_s, address=address, size_bytes=size, write=write, record_commands=10**6)
    _check_timing_rules(part, run.commands)
    bursts = (address + size - 1) // 32 - address // 32 + 1
    assert run.counters.read_bursts == bursts[~write].sum() == np.sum(run.commands[:, 1] == DramCommand.READ)
    assert run.counters.write_bursts == bursts[write].sum() == np.sum(run.commands[:, 1] == DramCommand.WRITE)
    assert run.counters.activates == np.sum(run.commands[:, 1] == DramCommand.ACTIVATE)
    assert run.counters.refreshes in (run.counters.cycles // 3120 - 1, run.counters.cycles // 3120)
    least_s = np.where(write, 6 + 4, 12 + 4 + 16) * 1.25e-9
    assert np.all(run.completion_s >= time_s + least_s - 1.25e-9)


def _check_timing_rules(part, commands):
    C = DramCommand
    tck, bank_times, bus, burst_s = part.bus.tck_s, part.bank, part.bus, 5e-9
    rl_s, wl_s = bus.read_latency_cycles * tck, bus.write_latency_cycles * tck
    never = -1.0
    open_row = dict.fromkeys(range(8))
    activated, precharged = dict.fromkeys(range(8), never), dict.fromkeys(range(8), never)
    last_read, last_write = dict.fromkeys(range(8), never), dict.fromkeys(range(8), never)
    activations, ready_after_refresh, precharge_delay, last_cycle = [], never, bank_times.trp_s, -1
    slack = 1e-13  # float rounding

    def at_least(now, before, apart, rule):
        assert now - before >= apart - slack, f"{rule}: {(now - before) * 1e9:.3f} ns at {now * 1e9:.2f} ns"

    for cycle, command, bank, row in commands:
        assert cycle > last_cycle, "one command a clock"
        last_cycle, now = cycle, cycle * tck
        at_least(now, ready_after_refresh, 0, "tRFC")
        if command == C.ACTIVATE:
            assert open_row[bank] is None
            at_least(now, precharged[bank], precharge_delay if precharged[bank] == max(precharged.values()) else bank_times.trp_s, "tRP")
            at_least(now, activated[bank], bank_times.trc_s, "tRC")
            if activations:
                at_least(now, activations[-1], bank_times.trrd_s, "tRRD")
            if len(activations) >= 4:
                at_least(now, activations[-4], bank_times.tfaw_s, "tFAW")
            activations.append(now)
            open_row[bank], activated[bank] = row, now
        elif command in (C.READ, C.WRITE):
            assert open_row[bank] == row
            at_least(now, activated[bank], bank_times.trcd_s, "tRCD")
            reads, writes = max(last_read.values()), max(last_write.values())
            at_least(now, max(reads, writes), bus.tccd_cycles * tck, "tCCD")
            if command == C.READ:
                at_least(now, writes, wl_s + burst_s + bus.twtr_s if writes >= 0 else 0, "tWTR")
                last_read[bank] = now
            else:
                at_least(now + wl_s, reads + rl_s + burst_s, bus.trtw_s if reads >= 0 else -1, "tRTW")
                last_write[bank] = now
        elif command in (C.PRECHARGE, C.PRECHARGE_ALL):
            closing = range(8) if command == C.PRECHARGE_ALL else [bank]
            for b in closing:
                if open_row[b] is None:
                    continue
                at_least(now, activated[b], bank_times.tras_s, "tRAS")
                at_least(now, last_read[b], bank_times.trtp_s, "tRTP")
                if last_write[b] >= 0:
                    at_least(now, last_write[b] + wl_s + burst_s, bank_times.twr_s, "tWR")
                open_row[b], precharged[b] = None, now
            precharge_delay = bank_times.trp_all_s if command == C.PRECHARGE_ALL else bank_times.trp_s
        else:
            assert all(row is None for row in open_row.values())
            at_least(now, max(precharged.values()), precharge_delay, "tRPab before refresh")
            ready_after_refresh = now + part.refresh.trfc_s


def test_the_timing_checker_notices_a_rule_broken(part):
    """The check above is worth something: made with a shorter tRCD, tFAW or tRC, commands break the part's rules."""
    time_s, address, size, write = _random_trace(part, 1)
    for shorter in ({"trcd_s": 15e-9}, {"trp_s": 12e-9, "trc_s": 40e-9}, {"tfaw_s": 30e-9, "trrd_s": 2.5e-9}, {"twr_s": 0.0}, {"trtp_s": 0.0, "tras_s": 20e-9}):
        hasty = part.model_copy(update={"bank": part.bank.model_copy(update=shorter)})
        run = run_trace(hasty, time_s=time_s * 0, address=address, size_bytes=size, write=write, record_commands=10**6)
        with pytest.raises(AssertionError, match="tR|tF|tW"):
            _check_timing_rules(part, run.commands)


def test_an_idle_dram_is_refreshed_and_not_busy(part):
    run = run_trace(part, time_s=[0, 1e-3], address=[0, 0], size_bytes=[32, 32], write=[0, 0])
    assert run.counters.refreshes == math.floor(1e-3 / 3.9e-6)
    assert run.counters.busy_cycles < 100
    assert run.counters.activates == 2


def test_a_request_that_others_keep_overtaking_is_served_in_time(part):
    """A hammered row does not starve another row of the same bank."""
    count = 4000
    address = np.zeros(count, np.int64) + 32 * (np.arange(count) % 128)
    address[10] = SAME_BANK
    run = run_trace(part, time_s=0.0, address=address, size_bytes=32, write=0)
    assert run.completion_s[10] < 3e-6
    assert run.completion_s.max() > 19e-6


@pytest.mark.parametrize(("field", "value"), [("address", -32), ("size_bytes", 0), ("time_s", -1.0)])
def test_a_bad_trace_is_refused(part, field, value):
    with pytest.raises(ConfigError, match="trace"):
        run_trace(part, **({"time_s": [0.0], "address": [0], "size_bytes": [32], "write": [0]} | {field: [value]}))


# --- closed forms -----------------------------------------------------------------------------

RUNS = [32, 64, 96, 256, 1024, 4096, 65536]
MIXES = [(0.0, r, r) for r in RUNS] + [(1.0, r, r) for r in RUNS] + [(w, r, r) for w in (0.1, 0.5) for r in RUNS]
MIXES += [(0.25, 4096, 128), (0.25, 128, 4096), (0.5, 32, 4096), (0.75, 65536, 256)]


def _run_pattern(part, seed, write_share, read_run_bytes, write_run_bytes, total_bytes=1 << 20):
    rng = np.random.default_rng(seed)
    address, size, write = [], [], []
    for is_write, run_bytes in ((False, read_run_bytes), (True, write_run_bytes)):
        count = round(total_bytes * (write_share if is_write else 1 - write_share) / run_bytes)
        address.append(rng.integers(0, (part.capacity_bytes - run_bytes) // 32, count) * 32)
        size.append(np.full(count, run_bytes))
        write.append(np.full(count, is_write))
    return tuple(map(np.concatenate, (address, size, write)))


@pytest.mark.parametrize("name", dram_parts())
def test_closed_form_time_is_within_3_percent_of_the_model(name):
    """Addresses drawn afresh, not those that the form's two numbers were set with."""
    part = load_dram_part(name)
    for write_share, read_run_bytes, write_run_bytes in MIXES:
        address, size, write = _run_pattern(part, 15, write_share, read_run_bytes, write_run_bytes, total_bytes=1 << 21)
        run = run_trace(part, time_s=0.0, address=address, size_bytes=size, write=write)
        predicted = dram_transfer(
            part, read_bytes=size[~write].sum(), write_bytes=size[write].sum(), read_run_bytes=read_run_bytes, write_run_bytes=write_run_bytes
        )  # fmt: skip
        measured_s, case = run.completion_s.max() - read_latency_s(part) * (write_share < 1), (write_share, read_run_bytes, write_run_bytes)
        assert predicted.time_s == pytest.approx(measured_s, rel=0.03), case
        assert predicted.activates == pytest.approx(run.counters.activates, rel=0.06 if write_share in (0.0, 1.0) else 0.25), case


@pytest.mark.parametrize("run_bytes", [256, 4096, 1 << 16])
def test_channels_share_the_pages(part, run_bytes):
    """Each of two channels by itself on its own pages, by the cycle-level model; the slower one ends last."""
    address, size, write = _run_pattern(part, 7, 0.3, run_bytes, run_bytes, total_bytes=1 << 22)
    page, requests = part.geometry.page_bytes, []
    for start, length, is_write in zip(address, size, write, strict=True):
        while length:
            piece = min(length, page - start % page)
            requests.append((start // page % 2, start // page // 2 * page + start % page, piece, is_write))
            start, length = start + piece, length - piece
    ends, activates = [], 0
    for channel in range(2):
        own = np.array([r[1:] for r in requests if r[0] == channel])
        run = run_trace(part, time_s=0.0, address=own[:, 0], size_bytes=own[:, 1], write=own[:, 2])
        ends.append(run.completion_s.max() - read_latency_s(part))
        activates += run.counters.activates
    predicted = dram_transfer(
        part, read_bytes=size[~write].sum(), write_bytes=size[write].sum(), read_run_bytes=run_bytes, write_run_bytes=run_bytes, channels=2
    )  # fmt: skip
    assert predicted.time_s == pytest.approx(np.mean(ends), rel=0.06) and predicted.activates == pytest.approx(activates, rel=0.25)


@pytest.mark.parametrize(("queue", "tolerance"), [(32, 0.06), (128, 0.05)])
def test_closed_form_follows_the_controller_and_the_part(part, queue, tolerance):
    controller = DramController(queue_bursts=queue, write_high_bursts=queue // 2, batch_bursts=queue // 2)
    slow = part.model_copy(update={"bank": part.bank.model_copy(update={"tfaw_s": 90e-9}), "refresh": part.refresh.model_copy(update={"trfc_s": 210e-9})})
    for write_share, run_bytes in itertools.product((0.0, 0.5), (32, 4096)):
        address, size, write = _run_pattern(part, 6, write_share, run_bytes, run_bytes)
        run = run_trace(slow, time_s=0.0, address=address, size_bytes=size, write=write, controller=controller)
        predicted = dram_transfer(
            slow,
            read_bytes=size[~write].sum(),
            write_bytes=size[write].sum(),
            read_run_bytes=run_bytes,
            write_run_bytes=run_bytes,
            controller=controller,
        )
        assert predicted.time_s == pytest.approx(run.completion_s.max(), rel=tolerance), (write_share, run_bytes)


def test_sequential_reads_by_hand(part):
    """1 MiB: 32,768 bursts of 4 clocks; a refresh every 3,120 clocks costs tRTP 6 + tRPab 17 + tRFC 104 + tRCD 15."""
    transfer = dram_transfer(part, read_bytes=1 << 20, write_bytes=0, read_run_bytes=1 << 20, write_run_bytes=32)
    assert transfer.time_s == pytest.approx(32768 * 4 / (1 - 142 / 3120) * 1.25e-9)
    refreshes = 32768 * 4 / (1 - 142 / 3120) / 3120
    rows_in_use = 8 * (1 - (7 / 8) ** (1 + 64 * (1 + 32767 / 128) / 32768))
    assert transfer.activates == pytest.approx(1 + 32767 / 128 + refreshes * rows_in_use)


def test_closed_forms_take_arrays_and_nothing_costs_nothing(part):
    read = np.array([[0.0], [4096.0]])
    write = np.array([0.0, 64.0, 128.0])
    transfer = dram_transfer(part, read_bytes=read, write_bytes=write, read_run_bytes=4096, write_run_bytes=64)
    assert transfer.time_s.shape == transfer.activates.shape == (2, 3)
    assert transfer.time_s[0, 0] == transfer.activates[0, 0] == 0
    one = dram_transfer(part, read_bytes=4096, write_bytes=128, read_run_bytes=4096, write_run_bytes=64)
    assert transfer.time_s[1, 2] == one.time_s and transfer.activates[1, 2] == one.activates


def test_energy_of_a_transfer_by_hand(part):
    energy = dram_energy_j(part, read_bytes=1e6, write_bytes=5e5, activates=400, busy_s=300e-6, total_s=1e-3)
    by_hand = {
        "activate_j": 400 * 2.73168e-9,
        "read_j": 8e6 * 4.59375e-12,
        "write_j": 4e6 * 4.828125e-12,
        "io_j": 12e6 * 1.8e-12,
        "phy_j": 12e6 * 1e-12 + 10e-3 * 1e-3,
        "background_j": 300e-6 * 44.4e-3 + 7.5e-9 * 32.64e-3 + (700e-6 - 7.5e-9) * 3.6e-3,
        "refresh_j": 1e-3 * (27.2 * 1.8 + 124 * 1.2) * 1e-3 * 130 / 3900,
    }
    for name, value in by_hand.items():
        assert getattr(energy, name) == pytest.approx(value), name
    assert energy.total_j == pytest.approx(sum(by_hand.values()))
    assert {field.name for field in dataclasses.fields(energy)} == set(by_hand)


def test_self_refresh_has_its_refresh_in_its_own_current(part):
    idle = dram_energy_j(part, read_bytes=0, write_bytes=0, activates=0, busy_s=0, total_s=1.0, policy=DramPolicy(idle_state="self_refresh"))
    assert idle.refresh_j == pytest.approx(140e-9 * part.refresh_w, rel=1e-6) and idle.background_j == pytest.approx(3.06e-3, rel=1e-5)


@pytest.mark.parametrize("change", [{"busy_s": 2e-3}, {"read_bytes": -1}, {"activates": float("nan")}])
def test_energy_of_the_impossible_is_refused(part, change):
    arguments = {"read_bytes": 1, "write_bytes": 1, "activates": 1, "busy_s": 1e-3, "total_s": 1e-3}
    with pytest.raises(ModelError, match="busy_s <= total_s"):
        dram_energy_j(part, **(arguments | change))


def test_policies_by_hand(part):
    """Two gaps of 1 us after 2 us of work: rows open 300 ns, tXP 7.5 ns, the rest powered down; gaps shorter than the timeout never are."""
    one = {"read_bytes": 0, "write_bytes": 0, "activates": 0, "busy_s": 2e-6, "total_s": 4e-6}
    active_w, precharged_w, down_w = 44.4e-3, 32.64e-3, 3.6e-3
    energy = dram_energy_j(part, **one, gaps=2, policy=DramPolicy(timeout_s=300e-9))
    assert energy.background_j == pytest.approx((2e-6 + 600e-9) * active_w + 15e-9 * precharged_w + 1385e-9 * down_w)
    for policy, watts in ((DramPolicy(timeout_s=2e-6), active_w), (DramPolicy(idle_state="precharge_standby"), precharged_w)):
        assert dram_energy_j(part, **one, gaps=2, policy=policy).background_j == pytest.approx(2e-6 * active_w + 2e-6 * watts)
    # Two hundred gaps of 10 ns leave 2.5 ns each beside tXP; self-refresh, which takes 140 ns to leave, is never reached.
    assert dram_energy_j(part, **one, gaps=200).background_j == pytest.approx(2e-6 * active_w + 1.5e-6 * precharged_w + 0.5e-6 * down_w)
    never = dram_energy_j(part, **one, gaps=200, policy=DramPolicy(idle_state="self_refresh"))
    assert never.background_j == pytest.approx(2e-6 * (active_w + precharged_w)) and never.refresh_j == pytest.approx(4e-6 * part.refresh_w)
    double = dram_energy_j(part, **one, gaps=2, channels=2)
    assert double.total_j == pytest.approx(2 * dram_energy_j(part, **one, gaps=2).total_j)


@pytest.mark.parametrize("channels", [0, 17])
def test_channels_that_do_not_exist_are_refused(part, channels):
    with pytest.raises(ConfigError, match="channels must be 1 to 16"):
        dram_transfer(part, read_bytes=1, write_bytes=1, read_run_bytes=32, write_run_bytes=32, channels=channels)


def test_transfers_without_a_run_are_refused(part):
    with pytest.raises(ModelError, match="runs of more than 0 bytes"):
        dram_transfer(part, read_bytes=1, write_bytes=1, read_run_bytes=0, write_run_bytes=32)
