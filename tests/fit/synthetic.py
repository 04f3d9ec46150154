"""Tables made from a known truth, in the format of `flow.table`: what the fit must find again."""

from collections import Counter

import numpy as np
import pandas as pd

from fit.blocks import BLOCKS, DELAYS, path_group, path_terms, term_values
from fit.compose import uses, with_sides
from fit.laws import VOLTAGE_LAWS, Corners
from flow.table import CORNER_COLUMNS, PARAMETERS, PATH_COLUMNS, TABLE_VERSION

VOLTAGES = (0.5, 0.65, 0.8, 1.0)
SIZE = {"area_um2": 2.0, "leakage_w": 1e-9, "min_period_s": 60e-12, "input_to_register_s": 25e-12, "register_to_output_s": 20e-12}
VOLTAGE = {
    "area_um2": ("constant", ()), "leakage_w": ("leakage", (3.0, 0.3, 0.3, 2.0)), "delay": ("saturated_ekv", (0.36, 1.45, 1.3, 0.7e-3, 0.08, 1.0)),
    "energy": ("switching", (0.12, 0.0, 0.0, 0.03, 6.0, 1.0)),
}  # fmt: skip
PATHS = {("pe_row", "pe_accumulator"): 60e-12, ("sequencer", "sequencer"): 55e-12, ("compute", "post"): 45e-12, ("sram_weight", "pe_row"): 30e-12}
"""Slowest paths of made-up designs, by start and end, and about how long they are; the last one after the memory's access."""
REFERENCE = Corners(np.float64(1.0), np.float64(25.0), np.float64(0.0))


def design_rows(count, rng):
    """Parameters of `count` designs that differ in everything the blocks depend on."""
    choices = {
        "rows": (1, 2, 4, 8, 16), "cols": (2, 4, 8, 16), "lanes": (4, 8, 16, 32), "acc_depth": (4, 8, 16, 32), "acc_bits": (32, 40, 48),
        "multiplier_stages": (0, 1, 2, 3), "post_lanes": (1, 2), "depthwise_taps": (0, 3), "activation_bits": (4, 8, 16), "weight_bits": (4, 8, 16),
        "activation_words": (512, 1024, 2048, 4096), "weight_words": (256, 1024, 4096), "output_words": (64, 128, 256), "parameter_words": (256, 512),
        "axi_data_bits": (32, 64, 128, 256), "max_burst_beats": (8, 16), "read_fifo_beats": (32, 64),
    }  # fmt: skip
    p = {name: rng.choice(choices[name], count).astype(float) for name in choices}
    return {name: p[name] for name in PARAMETERS}


def all_uses(p):
    """`uses` of designs whose blocks have the made-up areas."""
    return with_sides(uses(p), lambda use: truth(use.block, "area_um2", use.parameters, 1.0))


def recorded(use):
    """In how many of a row's cycles the array works: what lies between the blocks has rows for both phases together, which are equally long."""
    return {"steps": np.full(np.shape(use.count), 0.5)} if use.block == "glue" else {}


def truth(block, quantity, parameters, vdd_v, warmth_c=25.0, bias_v=0.0, process="tt"):
    """The made-up law: its first two terms share the value a typical block has."""
    names = BLOCKS[block].terms_of(quantity)[:2]
    terms = np.array([v.astype(float) for v in term_values(names, parameters).values()])
    typical = {"one": 1.0, "storage": 5e4, "word": 64.0, "trunk": 100.0, "row_wires": 1e5, "activation_wires": 1e5}
    scale = np.array([typical.get(name, 100.0) for name in names])[:, None]
    kind = "delay" if quantity in DELAYS else quantity if quantity in VOLTAGE else "energy"
    size = SIZE.get(quantity, 0.3e-12 if quantity == "idle_energy_j" else 2e-12)
    law, values = VOLTAGE[kind]
    return size * (terms / scale).sum(axis=0) * corner_factor(law, vdd_v, values, warmth_c, bias_v, process)


def corner_factor(law, vdd_v, values, warmth_c=25.0, bias_v=0.0, process="tt"):
    """A corner law over that at 1 V, 25 C, no bias and typical process. The slow one has 30 mV more of threshold, a tenth less current and half the leakage."""
    slow = process == "ss"
    own = (values[0] + 0.03, *values[1:]) if slow and law.endswith("ekv") else values
    size = {"leakage": 0.5, "saturated_ekv": 1.1, "ekv": 1.1}.get(law, 1.0) if slow else 1.0
    corners = Corners(np.asarray(vdd_v, dtype=float), warmth_c, bias_v)
    return size * VOLTAGE_LAWS[law].function(*corners, *own) / VOLTAGE_LAWS[law].function(*REFERENCE, *values)


def module_of(use, d):
    """Module of a role in design `d`; roles of the same size share one, as in an emitted design."""
    words, bits = (int(np.broadcast_to(use.parameters.get(k, 0), use.count.shape)[d]) for k in ("words", "bits"))
    return {"sram": f"sram_1r1w_{words}x{bits}", "two_clock_fifo": f"two_clock_fifo_w{bits}_d{words}"}.get(use.block, f"{use.block}_{d}")


def path_truth(start, end, p, vdd_v, *where):
    """The made-up delay of a path: a constant and its first two structural terms, wires by their lengths."""
    p = next(use.parameters for use in all_uses(p) if use.block == "glue")
    names = path_terms(*path_group(start, end))[:3]
    scale = {"trunk": 200.0, "trunk_rc": 400.0**2, "row_span": 50.0, "row_rc": 100.0**2}
    terms = np.array([v / scale.get(name, 1.0) for name, v in term_values(names, p).items()])
    law, values = VOLTAGE["delay"]
    own = PATHS[start, end] * (1 + 0.1 * terms[1:].sum(axis=0)) * corner_factor(law, vdd_v, values, *where)
    if not start.startswith("sram_"):
        return own
    memory = next(use for use in uses(p) if use.role == start)
    return own + truth("sram", "register_to_output_s", memory.parameters, vdd_v, *where)


def corners(count=14, whole=4, *, seed=0, noise=0.0, voltages=VOLTAGES, more=()):
    """Tables of corners and paths of `count` designs, the first `whole` of them as whole designs; `noise` is each block's own log error. `more` are corners
    (supply, temperature, back bias, process) beside the typical ones at `voltages`."""
    points = [*((v, 25.0, 0.0, "tt") for v in voltages), *more]
    rng = np.random.default_rng(seed)
    p = design_rows(count, rng)
    rows, periods, instances = [], {}, Counter()
    for use in all_uses(p):
        for d in range(count):
            instances[d, module_of(use, d)] += int(use.count[d])
    for use in all_uses(p):
        block = BLOCKS[use.block]
        errors = {}
        for point in points:
            supply, where = 1.0 if block.domain == "memory" else point[0], columns(point)

            def value(quantity, use=use, supply=supply, errors=errors, point=point):
                error = errors.setdefault(quantity, np.exp(rng.normal(0, noise, count)))
                return truth(use.block, quantity, use.parameters | recorded(use), supply, *point[1:]) * error

            fixed = {q: value(q) for q in ("area_um2", "leakage_w", *DELAYS)}
            periods[use.role, point] = fixed
            for phase, event in [*(("active", e) for e in use.events), ("idle", next(iter(use.events), "cycle"))]:
                energy = value("idle_energy_j" if phase == "idle" else f"{event}_energy_j")
                for d in range(count):
                    module = module_of(use, d)
                    rows.append(
                        base(p, d) | where | {k: v[d] for k, v in fixed.items()}
                        | {"design": f"d{d}", "block": use.block, "module": module, "domain": block.domain, "instances": instances[d, module], "vdd_v": supply,
                           "sram_vdd_v": supply, "phase": phase, "event": event, "energy_per_cycle_j": energy[d], "energy_internal_per_cycle_j": energy[d] / 2,
                           "energy_switching_per_cycle_j": energy[d] / 4, "energy_clock_per_cycle_j": energy[d] / 4, "energy_per_cycle_lo_j": 0.99 * energy[d],
                           "energy_per_cycle_hi_j": 1.01 * energy[d], "provisional": use.block == "sram"}
                    )  # fmt: skip
    paths = []
    path_errors = {key: np.exp(rng.normal(0, noise, count)) for key in PATHS}
    for d in range(whole):
        for point in points:
            vdd_v = point[0]
            found = {key: (path_truth(*key, p, *point) * path_errors[key])[d] for key in PATHS}
            corner = base(p, d) | columns(point) | {"design": f"d{d}", "vdd_v": vdd_v, "sram_vdd_v": vdd_v}
            pins = {"start_pin": "a/Q", "end_pin": "b/D"}
            paths += [corner | pins | {"domain": "core", "start": a, "end": b, "delay_s": x} for (a, b), x in found.items()]
            inner = {"domain": "memory", "start": "axi_lite", "end": "axi_lite"}
            paths.append(corner | pins | inner | {"delay_s": 50e-12 * corner_factor("ekv", vdd_v, EKV, *point[1:])})
            total = {q: sum(u.count[d] * periods[u.role, point][q][d] for u in all_uses(p)) for q in ("area_um2", "leakage_w")}
            energies = dict.fromkeys((name for name in CORNER_COLUMNS if name.startswith("energy_")), 0.0)
            whole_design = {"design": f"d{d}", "block": "accelerator", "module": f"accelerator_{d}", "domain": "core", "instances": 1, "vdd_v": vdd_v,
                            "sram_vdd_v": vdd_v, "phase": "active", "event": "step", "provisional": True}  # fmt: skip
            delays = {"min_period_s": max(found.values()), "input_to_register_s": 0.0, "register_to_output_s": 0.0}
            rows.append(base(p, d) | columns(point) | total | whole_design | delays | energies)
    return pd.DataFrame(rows)[list(CORNER_COLUMNS)].drop_duplicates(ignore_index=True), pd.DataFrame(paths)[list(PATH_COLUMNS)]


def columns(point):
    """What a corner has in the tables beside its supply."""
    return dict(zip(("temperature_c", "back_bias_v", "process"), point[1:], strict=True))


EKV = (0.36, 1.3, 0.7e-3, 0.08, 1.0)


def base(p, d):
    """Columns that are the same in every row of a design."""
    fixed = {
        "table_version": TABLE_VERSION, "technology": "synthetic", "process": "tt", "temperature_c": 25.0, "back_bias_v": 0.0, "layout": "fanout",
        "workload": "alexnet.fc8[rows=1/row,blocks=1,batch=1]", "batch": 1, "precision": "a8w8", "cycles": 1000, "annotated_fraction": 1.0,
        "hold_slack_s": 1e-11, "clock_latency_s": 0.0, "critical_path": "", "glitch_factor": 1.0, "glitch_factor_lo": 1.0, "glitch_factor_hi": 1.0,
    }  # fmt: skip
    return fixed | {name: int(p[name][d]) for name in PARAMETERS}
