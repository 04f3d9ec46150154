"""Evaluation against a hand calculation, against single calls of the models it is made of, and against all tilings."""

from dataclasses import replace

import numpy as np
import pytest
from made_up import conditions, model, space

from explore.curves import CLOCKS_HZ, EDGES_S, SHORTEST_S, layer_s, nearest_clock, time_s
from explore.evaluate import (
    QUANTITIES,
    Conditions,
    Task,
    chip_laws,
    clock_hz,
    coefficients,
    evaluate,
    layer_rows,
    lower_all,
    predict_designs,
    search_all,
    total,
    wanted_clocks,
)
from explore.sweep import sweep
from explore.tilings import TIE
from fit.compose import design_laws, predict
from fit.cycles import BOUNDS, DramTimes, dram_times, dram_use
from hw.dram import DramPolicy, dram_transfer, load_dram_part, read_latency_s
from hw.errors import ConfigError, ModelError
from hw.layers import LayerShape, load_network
from hw.lowering import LoweredLayer
from hw.tile_plan import Architecture, Tiling, architecture
from hw.tiling import Traffic, measure
from hw.tiling_choice import choose_tiling, enumerate_tilings

TINY = LayerShape(name="tiny", kind="conv", in_channels=8, out_channels=8, in_h=4, in_w=4)
VDD_V = np.array([0.6, 1.0])


def evaluated(tasks, architectures, given=None, vdd_v=VDD_V, fitted=None):
    """(results, designs) at fmax less margin."""
    given, fitted = given or conditions(), fitted or model()
    designs = predict_designs(fitted, architectures, vdd_v)
    return evaluate(fitted, architectures, tasks, given, vdd_v, clock_hz(designs, given), np.arange(len(vdd_v))), designs


def test_a_layer_by_hand():
    """4 x 4 pixels, 8 channels to 8 channels, on 2 rows x 8 columns x 8 lanes, 2 post lanes, beats of 8 bytes; 1 GHz and 400 MHz.

    One tile: two stripes of 2 x 4 pixels, one step each. Everything is loaded, computed once, stored.
    """
    architecture = space(rows=[2], lanes=[8], multiplier_stages=[1]).architectures()
    given, fitted, part = conditions(mem_clk_hz=400e6), model(), load_dram_part("lpddr3_1600_x32")
    designs = predict_designs(fitted, architecture, np.array([1.0]))
    results = evaluate(fitted, architecture, [Task(shape=TINY, batch=1)], given, np.array([1.0]), np.array([[1e9]]), np.array([0]))
    got = dict(zip(QUANTITIES, results.values[0, 0, 0], strict=True))
    assert results.tilings[0, 0, 0].tolist() == [0, 2, 4, 8, 1]

    # Traffic. 16 pixels of 8 bytes in two LOADs; 8 x 8 weights; 8 parameters of 8 bytes; 8 instructions (CONFIGURE, COMPUTE, 4 loads, 2
    # stores) of 32 bytes; 16 pixels of 8 bytes in two STOREs.
    assert got["dram_read_bytes"] == 128 + 64 + 64 + 8 * 32 and got["dram_write_bytes"] == 128

    # Cycles of 1 ns, memory cycles of 2.5 ns. Each transfer is bound by its beats and half a memory cycle a run, and pauses 3 cycles an instruction.
    latency = read_latency_s(part, None) * 1e9
    activations, weights, parameters = (16 + 2 * 0.5) * 2.5 + 2 * 3, (8 + 0.5) * 2.5 + 3, (8 + 0.5) * 2.5 + 3
    outputs = (16 + 2 * 0.5) * 2.5 + 2 * 3
    first = activations + weights + parameters
    # One latency for the program, one for the first load; of the four loads two are in hand, so that the third waits for one of its own, in which the
    # second is written.
    load_latency = 20 + 10 * 2.5 + latency
    waiting = load_latency - first / 4
    assert waiting > 0 and load_latency > 8 * 32 / 8 * 2.5  # longer than fetching the program
    drain = 8 * 8 / 2  # 8 pixels of 8 columns, 2 a cycle: longer than 8 steps
    compute = (drain + 4) + (8 + 8)  # draining and the step; the tail and the steps before the first drain
    cycles = 20 + 2 * load_latency + first + waiting + compute + outputs + (20 + 10 * 2.5)
    assert got["core_cycles"] == pytest.approx(cycles, rel=2e-4) and got["latency_s"] == pytest.approx(cycles * 1e-9, rel=2e-4)
    cycles = got["core_cycles"]  # of its curve, exact but for the tolerance above

    # Energy of the chip: clocks, events as counted by hand, leakage.
    counts = {
        "accumulator_accesses": 16 * 8, "compute_busy": 8, "post_outputs": 16 * 8, "load_items": 16 + 8 + 8, "write_beats": 16, "read_beats": 64,
        "instructions": 8, "activation_reads": 16, "activation_writes": 16, "weight_reads": 8, "weight_writes": 8, "parameter_reads": 8 * 8,
        "parameter_writes": 8, "output_reads": 16, "output_writes": 16,
        "weight_beats": 8, "useful_multiplications": 16 * 8 * 8,
    }  # fmt: skip
    seconds, memory_cycles = cycles * 1e-9, cycles / 2.5
    leakage = designs.core_leakage_w[0, 0] * seconds
    core = cycles * designs.core_cycle_j[0, 0] + leakage
    core += sum(counts[name] * energy[0, 0] for name, energy in designs.core_event_j.items())
    memory = cycles * designs.crossing_cycle_j[0] + memory_cycles * designs.memory_cycle_j[0] + designs.memory_leakage_w[0] * seconds
    memory += sum(counts[name] * energy[0] for name, energy in designs.memory_event_j.items())
    assert got["core_energy_j"] == pytest.approx(core) and got["core_leakage_energy_j"] == pytest.approx(leakage)
    assert got["memory_side_energy_j"] == pytest.approx(memory)

    # Energy of the DRAM. Everything read lies in 1 + 1 + 1 + 1 pages; it is in standby while it is busy and powers down for the rest.
    transfer = dram_transfer(part, read_bytes=512, write_bytes=128, read_run_bytes=512 / 4, write_run_bytes=128)
    busy = float(transfer.time_s)
    assert busy < seconds
    assert got["dram_core_energy_j"] == pytest.approx(transfer.activates * part.activate_j + 8 * (512 * part.read_j_per_bit + 128 * part.write_j_per_bit))
    assert got["dram_io_energy_j"] == pytest.approx(8 * 640 * part.io_j_per_bit)
    assert got["dram_phy_energy_j"] == pytest.approx(8 * 640 * part.interface.phy_j_per_bit + seconds * part.interface.phy_static_w)
    standby = busy * part.background_w("active_standby") + (seconds - busy) * part.background_w("power_down")
    standby += 7.5e-9 * (part.background_w("precharge_standby") - part.background_w("power_down"))  # one pause
    assert got["dram_background_energy_j"] == pytest.approx(standby) and got["dram_refresh_energy_j"] == pytest.approx(seconds * part.refresh_w)


@pytest.mark.parametrize("core_hz", [80e6, 500e6, 2e9])
def test_the_chosen_tilings_are_nearly_the_best(core_hz):
    """Latency at the tiling chosen, over the least of the cycle model over all candidates, for layers of all kinds and clocks between those ranked at."""
    tasks = [Task(shape=shape, batch=batch, first=i == 0) for batch in (1, 16) for i, shape in enumerate(load_network("alexnet").layers)]
    architectures = space(rows=[1, 4], cols=[8], lanes=[8, 32], multiplier_stages=[1], activation_bank_bytes=[32768], weight_bank_bytes=[32768]).architectures()
    found = evaluate(model(), architectures, tasks, conditions(), np.array([1.0]), np.array([[core_hz]]), np.array([0])).values[:, :, 0, 0]
    k, part = coefficients(model()), load_dram_part("lpddr3_1600_x32")
    worse = []
    for i in range(len(architectures)):
        a, lowered = architecture(architectures.config(i)), lower_all(architectures[[i]], tasks)
        for j, task in enumerate(tasks):
            l, least = LoweredLayer(*(int(x) for x in lowered[j])), np.inf  # noqa: E741
            for t in enumerate_tilings(architectures.config(i), lower_of(architectures[[i]], task)):
                n = Traffic(*measure(a, l, t))
                times = DramTimes(*(float(x) for x in dram_times(part, a, l, t, n)))
                least = min(least, layer_s(a, l, t, n, times, 1 / core_hz, 1 / 800e6, k))
            worse.append(found[i, j] / least)
    worse = np.array(worse)
    assert worse.min() >= 1 - 2e-4 and worse.mean() < 1.02 and worse.max() < 1.25, (worse.mean(), worse.max())


def test_curves_are_the_cycle_model():
    """At random clocks of every half octave, for every tiling chosen, of layers of all kinds; what it moves and the DRAM takes is that of its architecture."""
    tasks = [Task(shape=shape, batch=batch, first=i == 0) for batch in (1, 16) for i, shape in enumerate(load_network("alexnet").layers)]
    several = space(lanes=[16], multiplier_stages=[1], acc_depth=[1, 8, 16], post_lanes=[1, 4], axi_data_bits=[32, 128]).architectures()
    several = several[several.by_array()[0]]
    searched, lowered = search_all(model(), several, tasks, conditions(), VDD_V)
    rows, part, rng, k = searched.rows, load_dram_part("lpddr3_1600_x32"), np.random.default_rng(1), coefficients(model())
    assert len({(a[3], a[4], a[11]) for a in rows.numbers}) == 12
    for row, clock in np.argwhere(searched.curve >= 0)[::3]:
        a, l = Architecture(*rows.numbers[row]), LoweredLayer(*lowered[rows.layer[row]])  # noqa: E741
        t, n, times = Tiling(*rows.tilings[row]), Traffic(*rows.traffic[row]), DramTimes(*rows.times[row])
        assert measure(a, l, t) == n
        np.testing.assert_allclose(times, dram_times(part, a, l, t, n))
        kinks, lines = searched.kinks[searched.curve[row, clock]], searched.lines[searched.curve[row, clock]]
        for core_s in np.exp(rng.uniform(*np.log(EDGES_S[[clock + 1, clock]]), 4)):
            assert nearest_clock(core_s) == clock
            expected = layer_s(a, l, t, n, times, core_s, 1 / 800e6, k)
            assert time_s(kinks, lines, core_s) == pytest.approx(expected, rel=1e-3), (row, clock)


def test_of_tilings_as_fast_the_one_that_moves_least_is_taken():
    """Of all that were kept, at each clock, by brute force over the candidates of one design where the DRAM sets the time."""
    tasks = [Task(shape=shape, batch=1) for shape in load_network("alexnet").layers]
    one = space(rows=[4], lanes=[16], multiplier_stages=[1]).architectures()
    given, k, part = conditions(), coefficients(model()), load_dram_part("lpddr3_1600_x32")
    searched, lowered = search_all(model(), one, tasks, given, VDD_V)
    a, ties = architecture(one.config(0)), 0
    for j, task in enumerate(tasks):
        l, found = LoweredLayer(*(int(x) for x in lowered[j])), []  # noqa: E741
        for t in enumerate_tilings(one.config(0), lower_of(one, task)):
            n = Traffic(*measure(a, l, t))
            times, use = dram_use(part, a, l, t, n)
            times = DramTimes(*(float(x) for x in times))
            found.append((float(use.read_bytes + use.write_bytes), [layer_s(a, l, t, n, times, 1 / clock, 1 / 800e6, k) for clock in CLOCKS_HZ]))
        for clock in range(len(CLOCKS_HZ)):
            row = searched.choice[0, j, clock]
            took = time_s(searched.kinks[searched.curve[row, clock]], searched.lines[searched.curve[row, clock]], 1 / CLOCKS_HZ[clock])
            moved = searched.rows.use.read_bytes[row] + searched.rows.use.write_bytes[row]
            least = min(times[clock] for _, times in found)
            if took > least * (1 + 2 * TIE):
                continue  # the best was not among those kept: see the test before
            ties += 1
            assert moved <= min(size for size, times in found if times[clock] <= least * (1 + TIE / 2)) * (1 + 1e-9)
    assert ties > 100


def test_only_wanted_clocks_are_searched():
    tasks = [Task(shape=shape, batch=1) for shape in load_network("alexnet").layers]
    one = space(rows=[4], lanes=[16]).architectures()
    every, _ = search_all(model(), one, tasks, conditions(), VDD_V)
    few, _ = search_all(model(), one, tasks, conditions(), VDD_V, wanted=wanted_clocks(1 / np.array([[100e6, 300e6]])))
    wanted = [clock for clock in range(len(CLOCKS_HZ)) if 2**-0.25 * 100e6 < CLOCKS_HZ[clock] < 2**0.25 * 300e6]
    assert np.flatnonzero((few.choice >= 0).any(axis=(0, 1))).tolist() == wanted and few.fits.all()
    np.testing.assert_array_equal(few.rows.tilings[few.choice[:, :, wanted]], every.rows.tilings[every.choice[:, :, wanted]])
    assert len(few.rows.layer) < len(every.rows.layer)


def test_tilings_are_known_again_where_nothing_that_decides_them_differs():
    tasks, one, known = [Task(shape=TINY, batch=1)], space(rows=[4], lanes=[16]).architectures(), {}
    wanted = wanted_clocks(1 / np.array([[100e6, 300e6]]))
    first = search_all(model(), one, tasks, conditions(), VDD_V, wanted, known)[0]
    louder = load_dram_part("lpddr3_1600_x32").model_copy(update={"interface": load_dram_part("lpddr4_3200_x16").interface})
    for given, again in (
        ({}, True), ({"dram": louder}, True), ({"margin": 0.2}, True), ({"dram": load_dram_part("lpddr2_1066_x32")}, False), ({"channels": 2}, False),
        ({"free_memory": True}, False), ({"mem_clk_hz": 4e8}, False), ({"objective": "energy"}, False),
    ):
        found = search_all(model(), one, tasks, Conditions(**{"dram": load_dram_part("lpddr3_1600_x32")} | given), VDD_V, wanted, known)[0]
        assert (found is first) == again, given
    assert search_all(model(), one, tasks, conditions(), VDD_V, None, known)[0] is not first
    assert search_all(model(), one[:1], tasks, conditions(), VDD_V, wanted, known)[0] is not first


@pytest.mark.parametrize("objective", ["latency", "energy", "edp"])
@pytest.mark.parametrize("policy", [DramPolicy(), DramPolicy(idle_state="self_refresh", timeout_s=3e-6)])
def test_the_fast_path_is_the_evaluation_of_single_architectures(objective, policy):
    """Whole networks over a mixed space, against layers of one architecture at a time added up here."""
    given = conditions(objective=objective, policy=policy, channels=2)
    tasks = [Task(shape=shape, batch=2, first=i == 0) for i, shape in enumerate(load_network("alexnet").layers)]
    several = space(acc_depth=[8, 16], post_lanes=[1, 2], axi_data_bits=[64, 128], activation_bank_bytes=[8192, 16384], weight_bank_bytes=[8192, 32768])
    architectures = several.architectures()
    architectures = architectures[architectures.by_array()[1]]
    repeats = np.array([[1, 2, 0, 1, 1, 0, 3, 1], [0, 0, 1, 0, 0, 1, 0, 0]])
    searched, _ = search_all(model(), architectures, tasks, given, VDD_V)
    chip = chip_laws(design_laws(model(), architectures.parameters(), VDD_V), given)
    found = sweep(searched, layer_rows(searched.rows, given, coefficients(model()).dram, tasks), chip, given, repeats)
    chosen = [0, 17, len(architectures) - 1] if objective == "latency" else [0]  # others are chosen with the first architecture's energies
    for i in chosen:
        one = architectures[[i]]
        results, designs = evaluated(tasks, one, given)
        np.testing.assert_allclose(chip.period_s[i], 1 / clock_hz(designs, given)[0])
        for case, times in enumerate(repeats):
            sums = (results.values[0] * times[:, None, None]).sum(axis=0)
            np.testing.assert_allclose(found.latency_s[case, i], sums[:, 0])
            np.testing.assert_allclose(found.core_energy_j[case, i], sums[:, 2])
            np.testing.assert_allclose(found.energy_j[case, i], sums[:, 2] + sums[:, 4] + sums[:, 6:11].sum(axis=1))
    assert found.uncovered == 0 and not found.misfits.any()


def test_no_layer_is_shorter_than_its_dram_is_busy():
    tasks = [Task(shape=shape, batch=1, first=i == 0) for i, shape in enumerate(load_network("alexnet").layers)]
    one = space(lanes=[16], multiplier_stages=[2]).architectures()
    searched, _ = search_all(model(), one, tasks, conditions(), VDD_V)
    rows = layer_rows(searched.rows, conditions(), 1.0)
    at = searched.curve[:, -1]
    fast = searched.lines[at, 0, 0] + searched.lines[at, 0, 1] * SHORTEST_S
    assert np.all((fast >= rows.busy_s * (1 - 1e-9))[at >= 0]) and np.any(at >= 0)


def test_a_free_memory_takes_neither_time_nor_energy():
    tasks = [Task(shape=shape, batch=1) for shape in load_network("alexnet").layers]
    (free, _), (real, _) = (evaluated(tasks, space(lanes=[16]).architectures(), conditions(free_memory=x)) for x in (True, False))
    dram = [QUANTITIES.index(f"dram_{part}_energy_j") for part in ("core", "io", "phy", "background", "refresh")]
    assert np.all(free.values[..., dram] == 0) and np.all(real.values[..., dram] > 0)
    assert np.all(free.values[..., 0] <= real.values[..., 0] * (1 + 1e-9)) and free.values[..., 0].sum() < real.values[..., 0].sum()


def test_objectives_choose_what_they_name():
    tasks = [Task(shape=shape, batch=1) for shape in load_network("mobilenet_v1").layers]
    found = {name: evaluated(tasks, space().architectures(), conditions(objective=name))[0].values for name in ("latency", "energy", "edp")}
    dram = [f"dram_{part}_energy_j" for part in ("core", "io", "phy", "background", "refresh")]
    parts = [QUANTITIES.index(name) for name in ("core_energy_j", "memory_side_energy_j", *dram)]
    latency = {name: v[..., 0] for name, v in found.items()}
    energy = {name: v[..., parts].sum(axis=-1) for name, v in found.items()}
    for name in found:  # chosen at the nearest of a list of clocks and with one architecture's energies, and clocks here lie beyond the list
        assert latency["latency"].sum() <= latency[name].sum() * 1.01
        assert energy["energy"].sum() <= energy[name].sum() * 1.001
        assert (energy["edp"] * latency["edp"]).sum() <= (energy[name] * latency[name]).sum() * 1.01
    assert np.any(energy["energy"] < energy["latency"])


def test_an_architecture_is_evaluated_the_same_alone_and_among_others():
    architectures = space().architectures()
    results, _ = evaluated([Task(shape=TINY, batch=4)], architectures)
    for i in (0, 3, len(architectures) - 1):
        np.testing.assert_array_equal(evaluated([Task(shape=TINY, batch=4)], architectures[[i]])[0].values[0], results.values[i])


def test_misfits_are_marked_not_dropped():
    wide = LayerShape(name="wide", kind="conv", in_channels=8, out_channels=8, in_h=64, in_w=64, kernel_h=64, kernel_w=64)
    architectures = space(lanes=[8]).architectures()
    results, _ = evaluated([Task(shape=TINY, batch=1), Task(shape=wide, batch=1)], architectures)
    with pytest.raises(ConfigError, match="least tile of layer wide fits"):
        choose_tiling(architectures.config(0), lower_of(architectures, Task(shape=wide, batch=1)))
    assert np.isnan(results.values[:, 1]).all() and np.all(results.bound[:, 1] == -1)
    assert np.isnan(total(results, [0, 1]).values).all() and np.isfinite(total(results, [0]).values).all()


def lower_of(architectures, task):
    from hw.lowering import folds, lower

    return lower(architectures.config(0), task.shape, batch=task.batch, fold=task.first and folds(task.shape, architectures.config(0).array.lanes))


def test_totals_add_up_and_name_what_takes_longest():
    tasks = [Task(shape=shape, batch=1) for shape in load_network("alexnet").layers[4:7]]
    results, *_ = evaluated(tasks, space().architectures())
    np.testing.assert_allclose(total(results, [0, 2], [3, 2]).values, 3 * results.values[:, 0] + 2 * results.values[:, 2])
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


def test_memories_on_a_rail_of_their_own():
    """Held at 0.8 V while the core is at 0.6 V: time and energy are those of the laws at these two supplies; above 0.8 V nothing changes."""
    fitted, architectures, held = model(), space().architectures(), conditions(sram_vdd_v=0.8)
    tasks, supplies = [Task(shape=TINY, batch=1)], np.array([0.6, 0.8, 1.0])
    designs = predict_designs(fitted, architectures, supplies, held)
    alone = predict(fitted, architectures.parameters(), [0.6, 0.8, 1.0], sram_vdd_v=[0.8, 0.8, 1.0])
    for name in ("fmax_hz", "core_leakage_w", "core_cycle_j"):
        np.testing.assert_array_equal(getattr(designs, name), getattr(alone, name))
    frequency, points = np.full((len(architectures), 3), 2e8), np.arange(3)
    default, raised = (evaluate(fitted, architectures, tasks, given, supplies, frequency, points).values for given in (conditions(), held))
    np.testing.assert_array_equal(default[:, :, 1:], raised[:, :, 1:])
    # As if they worked at no less.
    narrower = fitted.model_copy(update={"sram_voltage_range_v": (0.8, 1.0)})
    np.testing.assert_array_equal(evaluate(narrower, architectures, tasks, conditions(), supplies, frequency, points).values, raised)
    names = dict(zip(QUANTITIES, np.moveaxis(raised[:, 0, 0] - default[:, 0, 0], -1, 0), strict=True))
    assert np.all(names["core_energy_j"] > names["core_leakage_energy_j"]) and np.all(names["core_leakage_energy_j"] > 0)
    assert np.all(names["latency_s"] == 0) and np.all(designs.fmax_hz[:, 0] >= predict_designs(fitted, architectures, supplies).fmax_hz[:, 0])


def test_a_rail_that_is_none_is_refused():
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="sram_vdd_v must be above 0"):
            conditions(sram_vdd_v=value)


def test_a_model_with_other_cycle_coefficients_is_refused():
    older = model().cycles.model_copy(update={"parameters": model().cycles.parameters[1:]})
    with pytest.raises(ModelError, match=f"differ in {model().cycles.parameters[0].name}; run `voltfront fit` again"):
        coefficients(model().model_copy(update={"cycles": older}))
