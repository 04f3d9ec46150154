"""Evaluation against a hand calculation, against single calls of the models it is made of, and against all tilings."""

from dataclasses import replace

import numpy as np
import pytest
from made_up import conditions, model, space

from explore.evaluate import QUANTITIES, Task, clock_hz, evaluate, predict_designs, prepare, total
from explore.tilings import KEPT_EACH
from fit.cycles import BOUNDS
from hw.dram import dram_transfer, load_dram_part, read_latency_s
from hw.errors import ConfigError, ModelError
from hw.layers import LayerShape, load_network
from hw.tiling_choice import choose_tiling

TINY = LayerShape(name="tiny", kind="conv", in_channels=8, out_channels=8, in_h=4, in_w=4)
VDD_V = np.array([0.6, 1.0])


def evaluated(tasks, architectures, given=None, vdd_v=VDD_V, fitted=None):
    """(results, designs, prepared) at fmax less margin."""
    given, fitted = given or conditions(), fitted or model()
    prepared, designs = prepare(fitted, architectures, tasks, given), predict_designs(fitted, architectures, vdd_v)
    return evaluate(fitted, prepared, designs, given, clock_hz(designs, given), np.arange(len(vdd_v))), designs, prepared


def test_a_layer_by_hand():
    """4 x 4 pixels, 8 channels to 8 channels, on 2 rows x 8 columns x 8 lanes, 2 post lanes, beats of 8 bytes; 1 GHz and 400 MHz.

    One tile: two stripes of 2 x 4 pixels, one step each. Everything is loaded, computed once, stored.
    """
    architecture = space(rows=[2], lanes=[8], multiplier_stages=[1]).architectures()
    given, fitted, part = conditions(mem_clk_hz=400e6), model(), load_dram_part("lpddr3_1600_x32")
    prepared, designs = prepare(fitted, architecture, [Task(shape=TINY, batch=1)], given), predict_designs(fitted, architecture, np.array([1.0]))
    results = evaluate(fitted, prepared, designs, given, np.array([[1e9]]), np.array([0]))
    got = dict(zip(QUANTITIES, results.values[0, 0, 0], strict=True))
    assert prepared.tilings.tilings[results.row[0, 0, 0]].tolist() == [0, 2, 4, 8, 1]

    # Traffic. 16 pixels of 8 bytes in two LOADs; 8 x 8 weights; 8 parameters of 8 bytes; 8 instructions (CONFIGURE, COMPUTE, 4 loads, 2
    # stores) of 32 bytes; 16 pixels of 8 bytes in two STOREs.
    assert got["dram_read_bytes"] == 128 + 64 + 64 + 8 * 32 and got["dram_write_bytes"] == 128

    # Cycles of 1 ns, memory cycles of 2.5 ns. Each transfer is bound by its beats and half a memory cycle a run, and pauses 3 cycles an instruction.
    latency = read_latency_s(part, None) * 1e9
    activations, weights, parameters = (16 + 2 * 0.5) * 2.5 + 2 * 3, (8 + 0.5) * 2.5 + 3, (8 + 0.5) * 2.5 + 3
    outputs = (16 + 2 * 0.5) * 2.5 + 2 * 3
    drain = 8 * 8 / 2  # 8 pixels of 8 columns, 2 a cycle: longer than 8 steps
    compute = (drain + 4) + (8 + drain)  # issue; tail and the drain of the last block
    cycles = 60 + (20 + 10 * 2.5 + latency + activations + weights + parameters) + compute + outputs + (20 + 10 * 2.5 + latency)
    assert got["core_cycles"] == pytest.approx(cycles) and got["latency_s"] == pytest.approx(cycles * 1e-9)

    # Energy of the chip: clocks, events as counted by hand, leakage.
    counts = {
        "accumulator_accesses": 16 * 8, "compute_busy": 8, "post_outputs": 16 * 8, "load_items": 16 + 8 + 8, "write_beats": 16, "read_beats": 64,
        "instructions": 8, "activation_reads": 16, "activation_writes": 16, "weight_reads": 8, "weight_writes": 8, "parameter_reads": 8 * 8,
        "parameter_writes": 8, "output_reads": 16, "output_writes": 16,
    }  # fmt: skip
    seconds, memory_cycles = cycles * 1e-9, cycles / 2.5
    leakage = designs.core_leakage_w[0, 0] * seconds
    core = cycles * designs.core_cycle_j[0, 0] + memory_cycles * designs.crossing_cycle_j[0, 0] + leakage
    core += sum(counts[name] * energy[0, 0] for name, energy in designs.core_event_j.items())
    memory = memory_cycles * designs.memory_cycle_j[0] + designs.memory_leakage_w[0] * seconds
    memory += sum(counts[name] * energy[0] for name, energy in designs.memory_event_j.items())
    assert got["core_energy_j"] == pytest.approx(core) and got["core_leakage_energy_j"] == pytest.approx(leakage)
    assert got["memory_side_energy_j"] == pytest.approx(memory)

    # Energy of the DRAM. Everything read lies in 1 + 1 + 1 + 8/4 runs; it is in standby while it is busy and powers down for the rest.
    transfer = dram_transfer(part, read_bytes=512, write_bytes=128, read_run_bytes=512 / 5, write_run_bytes=128)
    busy = float(transfer.time_s)
    assert busy < seconds
    assert got["dram_core_energy_j"] == pytest.approx(transfer.activates * part.activate_j + 8 * (512 * part.read_j_per_bit + 128 * part.write_j_per_bit))
    assert got["dram_io_energy_j"] == pytest.approx(8 * 640 * part.io_j_per_bit)
    assert got["dram_phy_energy_j"] == pytest.approx(8 * 640 * part.interface.phy_j_per_bit + seconds * part.interface.phy_static_w)
    standby = busy * part.background_w("active_standby") + (seconds - busy) * part.background_w("power_down")
    assert got["dram_background_energy_j"] == pytest.approx(standby) and got["dram_refresh_energy_j"] == pytest.approx(seconds * part.refresh_w)


def test_kept_tilings_hold_nearly_the_best():
    """Latency with the few kept tilings, over latency with all candidates, for layers of all kinds and clocks between and beyond those ranked at."""
    tasks = [Task(shape=shape, batch=batch, first=i == 0) for batch in (1, 16) for i, shape in enumerate(load_network("alexnet").layers)]
    architectures = space(rows=[1, 4], cols=[8], lanes=[8, 32], multiplier_stages=[1], activation_bank_bytes=[32768], weight_bank_bytes=[32768]).architectures()
    designs, found, rows = predict_designs(model(), architectures, np.array([1.0])), [], []
    for kept_each in (KEPT_EACH, 512):
        prepared = prepare(model(), architectures, tasks, conditions(), kept_each=kept_each)
        clocks = np.array([[30e6, 80e6, 250e6, 800e6, 2e9]])
        found.append(evaluate(model(), prepared, designs, conditions(), clocks, np.zeros(5, dtype=int)).values[..., 0])
        rows.append(len(prepared.tilings.layer))
    worse = found[0] / found[1]
    assert rows[1] > 4 * rows[0] and worse.min() >= 1 - 1e-12 and worse.max() < 1.02 and worse.mean() < 1.001


def test_objectives_choose_what_they_name():
    tasks = [Task(shape=shape, batch=1) for shape in load_network("alexnet").layers]
    found = {name: evaluated(tasks, space().architectures(), conditions(objective=name))[0].values for name in ("latency", "energy", "edp")}
    dram = [f"dram_{part}_energy_j" for part in ("core", "io", "phy", "background", "refresh")]
    parts = [QUANTITIES.index(name) for name in ("core_energy_j", "memory_side_energy_j", *dram)]
    latency = {name: v[..., 0] for name, v in found.items()}
    energy = {name: v[..., parts].sum(axis=-1) for name, v in found.items()}
    for name in found:
        assert np.all(latency["latency"] <= latency[name]) and np.all(energy["energy"] <= energy[name] * (1 + 1e-12))
        assert np.all(energy["edp"] * latency["edp"] <= energy[name] * latency[name] * (1 + 1e-12))
    assert np.any(energy["energy"] < energy["latency"])


def test_variants_that_share_tilings_are_evaluated_alike():
    """Pipeline stages change clock and energy, not traffic; one architecture by itself gives the same numbers."""
    architectures = space().architectures()
    results, _, prepared = evaluated([Task(shape=TINY, batch=4)], architectures)
    assert len(np.unique(prepared.group)) == len(architectures) // 2
    for i in (0, 3):
        np.testing.assert_array_equal(evaluated([Task(shape=TINY, batch=4)], architectures[[i]])[0].values[0], results.values[i])


def test_misfits_are_marked_not_dropped():
    wide = LayerShape(name="wide", kind="conv", in_channels=8, out_channels=8, in_h=64, in_w=64, kernel_h=64, kernel_w=64)
    architectures = space(lanes=[8]).architectures()
    results, _, prepared = evaluated([Task(shape=TINY, batch=1), Task(shape=wide, batch=1)], architectures)
    with pytest.raises(ConfigError, match="least tile of layer wide fits"):
        choose_tiling(architectures.config(0), lower_of(architectures, wide))
    assert np.all(prepared.tilings.count[:, 1] == 0) and np.isnan(results.values[:, 1]).all() and np.all(results.bound[:, 1] == -1)
    assert np.isnan(total(results, [0, 1]).values).all() and np.isfinite(total(results, [0]).values).all()


def lower_of(architectures, shape):
    from hw.lowering import lower

    return lower(architectures.config(0), shape)


def test_totals_add_up_and_name_what_takes_longest():
    tasks = [Task(shape=shape, batch=1) for shape in load_network("alexnet").layers[4:7]]
    results, *_ = evaluated(tasks, space().architectures())
    found = total(results, [0, 2])
    np.testing.assert_allclose(found.values, results.values[:, 0] + results.values[:, 2])
    for i, p in np.ndindex(found.bound.shape):
        seconds = np.zeros(len(BOUNDS))
        for task in (0, 2):
            seconds[results.bound[i, task, p]] += results.values[i, task, p, 0]
        assert found.bound[i, p] == seconds.argmax()


def test_fully_connected_weights_make_the_dram_dominate_one_image():
    fc6 = load_network("alexnet").layers[5]
    results, *_ = evaluated([Task(shape=fc6, batch=1), Task(shape=fc6, batch=16)], space(lanes=[16]).architectures())
    assert np.all(results.bound[:, 0] == BOUNDS.index("dram"))
    assert np.all(results.values[:, 1, :, 0] < 16 * results.values[:, 0, :, 0] / 2)  # weights are read once for 16 images


def test_bad_conditions_are_refused():
    for change in ({"objective": "speed"}, {"margin": 1.0}, {"margin": -0.1}, {"mem_clk_hz": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            conditions(**change)
    with pytest.raises(ModelError, match="must hold fitted cycles"):
        evaluated([Task(shape=TINY, batch=1)], space().architectures(), fitted=model().model_copy(update={"cycles": None}))
    with pytest.raises(ModelError, match="vdd_v must be within the fitted range"):
        evaluated([Task(shape=TINY, batch=1)], space().architectures(), vdd_v=np.array([0.4]))
    assert replace(conditions(), margin=0.2).margin == 0.2
