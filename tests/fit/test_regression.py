"""Regression against synthetic rows with known truth: recovery, held-out errors, interval coverage, what data cannot determine."""

from dataclasses import replace

import numpy as np
import pytest

from fit.estimation import compare_delay_laws
from fit.laws import DELAY_LAWS, VOLTAGE_LAWS, Corners, alpha_power_delay, ekv_delay, leakage_power, resistive_ekv_delay, saturated_ekv_delay, switching_energy
from fit.regression import Samples, Start, estimate, estimate_with_errors, leave_out, leave_voltages_out
from hw.errors import ModelError

REFERENCE = Corners(np.float64(1.0), np.float64(25.0), np.float64(0.0))
VOLTAGES = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
TRUTH = np.array([1.5e-15, 4e-16, 3e-14])


def variants(count, rng):
    """Terms [count, 3] of made-up blocks: a product, a sum, a constant."""
    lanes = rng.choice([2, 4, 8, 16, 32, 64], count)
    return np.column_stack([lanes * 64.0, lanes * 16.0 * rng.integers(0, 4, count), np.ones(count)])


def at(vdd_v, temperature_c=25.0, back_bias_v=0.0):
    """Corners at supplies."""
    return Corners(*(np.asarray(x, dtype=float) for x in np.broadcast_arrays(vdd_v, temperature_c, back_bias_v)))


def full(law, *values):
    """Corner parameters: those given, then the assumed ones."""
    return np.append(values, law.assumed()[len(values) :])


def rows(terms, voltages, law, values, rng, *, variant_sd=0.0, row_sd=0.0, truth=TRUTH):
    """Every variant at every voltage, with errors shared by the rows of a variant and errors of each row."""
    number = np.repeat(np.arange(len(terms)), len(voltages))
    vdd_v = np.tile(voltages, len(terms))
    value = terms[number] @ truth * law.relative(at(vdd_v), REFERENCE, full(law, *values))
    value = value * np.exp(rng.normal(0, variant_sd, len(terms)) if variant_sd else np.zeros(len(terms)))[number]
    value = value * np.exp(rng.normal(0, row_sd, len(value)) if row_sd else 0.0)
    return Samples(
        terms=terms[number], wires=np.zeros((len(value), 0)), corners=at(vdd_v), value=value, offset=np.zeros(len(value)),
        sampling_log_sd=np.full(len(value), row_sd), curve=number, variant=number,
    )  # fmt: skip


@pytest.mark.parametrize(
    "name, values",
    [
        ("ekv", (0.33, 1.25)),
        ("saturated_ekv", (0.36, 1.45, 1.3)),
        ("alpha_power", (0.3, 1.4)),
        ("resistive_ekv", (0.33, 0.2, 1.25)),
        ("switching", (0.15, 0.0, 0.0, 0.05, 6.5)),
        ("leakage", (3.0, 0.4)),
        ("constant", ()),
    ],
)
def test_exact_rows_give_back_the_truth(name, values):
    rng = np.random.default_rng(1)
    fit = estimate(rows(variants(9, rng), VOLTAGES, VOLTAGE_LAWS[name], values, rng), VOLTAGE_LAWS[name], REFERENCE)
    np.testing.assert_allclose(fit.coefficients, TRUTH, rtol=1e-4)
    np.testing.assert_allclose(fit.corner_values[: len(values)], values, rtol=2e-3)
    assert set(fit.coefficient_status) <= {"fitted"}
    varied = ["fitted" if p.axis == "vdd_v" else "assumed" for p in VOLTAGE_LAWS[name].parameters]
    assert list(fit.corner_status) == varied


def test_formulas_against_numbers_worked_out_by_hand():
    none = (0.0, 0.0, 0.0)  # no dependence on temperature and bias
    # kT/q at 25 C is 25.6926 mV; far above the threshold ln(1 + e^x) = x.
    assert ekv_delay(1.0, 25.0, 0.0, 0.4, 1.2, *none) == pytest.approx(1.0 / (0.6 / (2 * 1.2 * 0.02569258)) ** 2, rel=1e-4)
    # At the threshold ln 2; with alpha = 2 the two EKV forms are one, as without resistance.
    assert saturated_ekv_delay(0.4, 25.0, 0.0, 0.4, 1.5, 1.2, *none) == pytest.approx(0.4 / np.log(2) ** 1.5)
    assert saturated_ekv_delay(0.7, 25.0, 0.0, 0.4, 2.0, 1.2, *none) == pytest.approx(ekv_delay(0.7, 25.0, 0.0, 0.4, 1.2, *none))
    assert resistive_ekv_delay(0.7, 25.0, 0.0, 0.4, 0.0, 1.2, *none) == pytest.approx(ekv_delay(0.7, 25.0, 0.0, 0.4, 1.2, *none))
    assert alpha_power_delay(0.9, 25.0, 0.0, 0.4, 1.5, *none) == pytest.approx(0.9 / 0.5**1.5)
    # One decade a 60 n mV below the threshold: V / current with current x10 over n kT/q ln 10.
    volts = np.array([0.05, 0.05 + 1.2 * 0.02569258 * np.log(10)])
    low, high = ekv_delay(volts, 25.0, 0.0, 0.6, 1.2, *none) / volts
    assert low / high == pytest.approx(10, rel=1e-3)
    assert switching_energy(0.5, 25.0, 0.0, *none, *none) == pytest.approx(0.25)
    assert switching_energy(0.5, 25.0, 0.5, *none, 0.1, 4.0, 2.0) == pytest.approx(0.25 * (1 + 0.1 * np.exp(-1.0)))
    assert leakage_power(0.5, 25.0, 0.0, 2.0, 0.0, 0.3, 2.0) == pytest.approx(0.5 * np.e)


def test_temperature_and_bias_by_hand():
    """0.1 V of forward bias at 0.1 V/V, or 10 K at 1 mV/K, act like 10 mV less threshold; slower carriers with (T/T0)^m; leakage by Arrhenius."""
    biased = alpha_power_delay(0.9, 25.0, 0.1, 0.4, 1.5, 0.0, 0.1, 0.0)
    assert biased == pytest.approx(0.9 / 0.51**1.5)
    assert alpha_power_delay(0.9, 35.0, 0.0, 0.4, 1.5, 1e-3, 0.0, 0.0) == pytest.approx(biased)
    assert alpha_power_delay(0.9, 25.0 + 298.15, 0.0, 0.4, 1.5, 0.0, 0.0, 1.2) == pytest.approx(0.9 / 0.5**1.5 * 2**1.2)
    # 0.3 eV over kT0/q, times 1 - T0/T = 1/2 at twice the temperature.
    assert leakage_power(1.0, 25.0 + 298.15, 0.0, 0.0, 0.0, 0.3, 0.0) == pytest.approx(np.exp(0.3 / 0.02569258 / 2), rel=1e-5)


def test_temperature_and_bias_are_fitted_as_soon_as_they_vary():
    rng = np.random.default_rng(8)
    law = VOLTAGE_LAWS["saturated_ekv"]
    values = np.array([0.36, 1.45, 1.3, 1.1e-3, 0.09, 1.4])
    samples = rows(variants(6, rng), VOLTAGES, law, values, rng)
    parts = []
    for temperature_c, bias in ((25.0, 0.0), (85.0, 0.0), (125.0, 0.0), (25.0, 0.5)):
        corners = at(samples.corners.vdd_v, temperature_c, bias)
        parts.append(replace(samples, corners=corners, value=samples.terms @ TRUTH * law.relative(corners, REFERENCE, values)))
    names = ("terms", "wires", "value", "offset", "sampling_log_sd", "curve", "variant")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    every = Samples(corners=Corners(*(np.concatenate(axis) for axis in zip(*(part.corners for part in parts), strict=True))), **joined)
    fit = estimate(every, law, REFERENCE)
    np.testing.assert_allclose(fit.corner_values, values, rtol=5e-3)
    assert set(fit.corner_status) == {"fitted"}


def test_a_known_offset_keeps_its_own_shape():
    """A memory's access before the logic: value = access(V) + logic(V)."""
    rng = np.random.default_rng(9)
    law = VOLTAGE_LAWS["ekv"]
    samples = rows(variants(6, rng), VOLTAGES, law, (0.36, 1.3), rng)
    offset = 0.5 * np.median(samples.value) / samples.corners.vdd_v
    fit = estimate(replace(samples, value=samples.value + offset, offset=offset), law, REFERENCE)
    np.testing.assert_allclose(fit.coefficients, TRUTH, rtol=1e-3)
    np.testing.assert_allclose(fit.predict(replace(samples, offset=offset)), samples.value + offset, rtol=1e-4)


def test_wires_are_told_from_gates_by_what_the_supply_does_not_change():
    """value = wires + logic(V): given back with six supplies; with four, or without a start that knows them, there are none."""
    rng = np.random.default_rng(10)
    law, values = VOLTAGE_LAWS["resistive_ekv"], (0.4, 0.5, 1.2)
    gates = rows(variants(8, rng), VOLTAGES, law, values, rng)
    lengths = rng.uniform(0.1, 1.0, 8)[gates.curve]
    wire = 0.4 * np.median(gates.value)
    samples = replace(gates, wires=lengths[:, None], value=gates.value + wire * lengths)
    fit = estimate(samples, law, REFERENCE)
    assert fit.wires == pytest.approx([wire], rel=0.02) and fit.wire_status == ("fitted",)
    np.testing.assert_allclose(fit.coefficients, TRUTH, rtol=0.02)
    np.testing.assert_allclose(fit.predict(samples), samples.value, rtol=2e-3)
    few = samples.take(np.isin(samples.corners.vdd_v, [0.5, 0.6, 0.8, 1.0]))
    assert estimate(few, law, REFERENCE).wire_status == ("assumed",) and estimate(few, law, REFERENCE).wires == [0.0]
    shared = estimate(few, law, REFERENCE, near=Start(fit.corner_values, fit.wires))
    assert shared.wire_status == ("shared",) and shared.wires == fit.wires
    without = estimate(gates, law, REFERENCE)
    np.testing.assert_allclose(without.predict(gates), gates.value, rtol=1e-3)


def test_terms_that_only_follow_the_noise_are_not_used():
    rng = np.random.default_rng(10)
    law = VOLTAGE_LAWS["constant"]
    terms = np.column_stack([np.ones(9), rng.choice([1.0, 2.0, 3.0, 4.0], 9), rng.choice([1.0, 2.0, 3.0, 4.0, 5.0], 9)])
    samples = rows(terms, VOLTAGES[:1], law, (), rng, variant_sd=0.02, truth=np.array([5.0, 1.0, 0.0]))
    chosen = estimate(samples, law, REFERENCE, select=True)
    assert chosen.coefficient_status == ("fitted", "fitted", "unused")
    assert estimate(samples, law, REFERENCE).coefficient_status.count("unused") == 0


def test_standard_errors_cover_the_truth_and_intervals_cover_variants_not_measured():
    rng = np.random.default_rng(2)
    law, values = VOLTAGE_LAWS["switching"], (0.15,)
    inside_coefficient, inside_prediction, half_widths, errors = [], [], [], []
    for _ in range(60):
        fit, _ = estimate_with_errors(rows(variants(9, rng), VOLTAGES, law, values, rng, variant_sd=0.03, row_sd=0.01), law, REFERENCE)
        known = np.isfinite(fit.coefficient_errors) & (fit.coefficients > 0)
        inside_coefficient += list((np.abs(fit.coefficients - TRUTH) < 2.3 * fit.coefficient_errors)[known])
        fresh = rows(variants(5, rng), VOLTAGES[3:4], law, values, rng, variant_sd=0.03)
        log_error = np.log(fit.predict(fresh) / fresh.value)
        inside_prediction += list(np.abs(log_error) < 1.645 * fit.log_sd)
        half_widths.append(1.645 * fit.log_sd)
        errors += list(np.abs(log_error))
    assert 0.85 <= np.mean(inside_coefficient) <= 0.99
    assert 0.85 <= np.mean(inside_prediction) <= 0.97
    assert np.median(half_widths) < 3 * np.mean(errors)


def test_left_out_variants_are_predicted_within_the_noise():
    rng = np.random.default_rng(3)
    law = VOLTAGE_LAWS["saturated_ekv"]
    samples = rows(variants(10, rng), VOLTAGES, law, (0.36, 1.45, 1.3), rng, variant_sd=0.02, row_sd=0.005)
    errors, fits = leave_out(samples, samples.variant, law, REFERENCE)
    assert len(fits) == 10
    assert 0.005 < np.mean(np.abs(errors)) < 0.04


def test_one_wild_variant_does_not_spoil_the_rest():
    rng = np.random.default_rng(4)
    law = VOLTAGE_LAWS["switching"]
    samples = rows(variants(10, rng), VOLTAGES, law, (0.15,), rng, row_sd=0.01)
    samples.value[samples.variant == 3] *= 3.0
    fit = estimate(samples, law, REFERENCE)
    good = samples.variant != 3
    assert np.median(np.abs(fit.predict(samples) / samples.value - 1)[good]) < 0.03


def test_what_the_data_cannot_determine_is_said():
    rng = np.random.default_rng(5)
    law = VOLTAGE_LAWS["leakage"]
    terms = variants(9, rng)
    doubled = np.column_stack([terms, 3 * terms[:, 0]])
    samples = rows(doubled, VOLTAGES[:2], law, (3.0, 0.0), rng, truth=np.append(TRUTH, 0.0))
    fit = estimate(samples, law, REFERENCE)
    assert fit.coefficient_status[3] == "undetermined" and fit.coefficients[3] == 0
    assert fit.corner_status == ("fitted", "assumed", "assumed", "assumed")
    # Two variants carry one coefficient, because leaving one out must leave a fit.
    pair = samples.take(samples.variant < 2)
    assert estimate(pair, law, REFERENCE).coefficient_status.count("undetermined") == 3
    with pytest.raises(ModelError, match="structural terms must have one that is not zero"):
        estimate(rows(np.zeros((3, 2)), VOLTAGES, law, (3.0, 0.0), rng, truth=np.ones(2)), law, REFERENCE)


def test_a_term_that_does_not_help_sits_on_its_bound():
    rng = np.random.default_rng(6)
    law = VOLTAGE_LAWS["constant"]
    samples = rows(variants(9, rng), VOLTAGES[:1], law, (), rng, truth=np.array([2.0, 0.0, 5.0]))
    fit = estimate(samples, law, REFERENCE)
    assert fit.coefficient_status == ("fitted", "at_bound", "fitted") and fit.coefficients[1] == 0


def test_alpha_power_fails_near_the_threshold_where_ekv_holds():
    """The reason for a smooth law: leave out each voltage of a curve that goes down to the threshold."""
    rng = np.random.default_rng(7)
    low = np.array([0.35, 0.4, 0.45, 0.5, 0.6, 0.8, 1.0])
    samples = rows(variants(6, rng), low, VOLTAGE_LAWS["saturated_ekv"], (0.36, 1.45, 1.3), rng)
    worst = {name: np.max(np.abs(leave_voltages_out(samples, VOLTAGE_LAWS[name], REFERENCE))) for name in ("saturated_ekv", "alpha_power")}
    assert worst["saturated_ekv"] < 0.01 < 0.1 < worst["alpha_power"]


def test_a_parameter_of_a_share_that_is_not_there_keeps_its_value():
    """Two supplies determine the exponent only; without a share of short-circuit current nothing can grow with the bias, however many there are."""
    rng = np.random.default_rng(6)
    law = VOLTAGE_LAWS["switching"]
    parts = [rows(variants(6, rng), VOLTAGES[[0, 5]], law, (0.15,), rng) for _ in range(3)]
    corners = at(np.concatenate([part.corners.vdd_v for part in parts]), back_bias_v=np.repeat([0.0, 0.5, 1.0], len(parts[0].value)))
    merged = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("terms", "wires", "value", "offset", "sampling_log_sd")}
    number = np.concatenate([part.curve + 6 * i for i, part in enumerate(parts)])
    fit = estimate(Samples(corners=corners, curve=number % 6, variant=number % 6, **merged), law, REFERENCE)
    known = dict(zip((p.name for p in law.parameters), fit.corner_status, strict=True))
    assert known["deviation"] == known["per_v"] == "fitted" and known["short_circuit"] == "assumed"
    assert known["short_circuit_bias_per_v"] == "assumed"


def test_delays_at_one_voltage_a_curve_compare_no_laws():
    rng = np.random.default_rng(1)
    every = rows(variants(6, rng), VOLTAGES, VOLTAGE_LAWS["ekv"], (0.33, 1.25), rng)
    diagonal = every.take(np.unique(every.curve) * (len(VOLTAGES) + 1))
    key = ("pe", "pe", "core")
    found = compare_delay_laws({key: diagonal}, {key: 1.0}, REFERENCE)
    assert found.left_out_voltages == {} and found.chosen in DELAY_LAWS
