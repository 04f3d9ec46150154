"""The files of a small exploration, written by hand, that the tests of the report read."""

import json

import pandas as pd

from explore.points import LAYER_COLUMNS, POINT_COLUMNS
from fit.model import Comparison, CycleModel, ErrorSummary, FittedBlock, FittedLaw, FittedModel, LawComparison, Number, Source, write_model

HOSTILE = "</script><script>alert(1)</script><a href=\"https://bad.example/\">$x_{1}$ & 'y'"
PARTS_J = {"core dynamic": 1e-3, "core leakage": 2e-4, "memory side": 3e-4, "DRAM core": 4e-3, "DRAM I/O": 1.5e-3}
PARTS_J |= {"DRAM PHY": 5e-4, "DRAM background": 2e-4, "DRAM refresh": 3e-4}


def point(network, batch, vdd_v, architecture="r4c8l8_d16s1p1", slower=1.0):
    """A made-up point; energies are those of PARTS_J, those of the core with V^2."""
    e = {name: value * batch * (vdd_v**2 if name.startswith("core") else 1) for name, value in PARTS_J.items()}
    freq_hz = 1e9 * (vdd_v - 0.3) / slower
    latency_s, total_j = batch * 5e6 / freq_hz, sum(e.values())
    names = {"core": "core", "io": "I/O", "phy": "PHY", "background": "background", "refresh": "refresh"}
    dram = {f"dram_{name}_energy_j": e[f"DRAM {part}"] for name, part in names.items()}
    gops_w = 1.45 * batch / total_j
    row = {
        "points_version": 3, "network": network, "batch": batch, "precision": "a8w8", "technology": "fdsoi28p", "dram": "lpddr3_1600_x32",
        "architecture": architecture,
        "rows": 8 if architecture.startswith("r8") else 4, "cols": 8, "lanes": 8, "acc_depth": 16, "multiplier_stages": 1, "post_lanes": 1,
        "activation_bank_bytes": 32768, "weight_bank_bytes": 16384, "output_bank_bytes": 2048, "axi_data_bits": 64, "process": "tt",
        "clock_process": "tt", "vdd_v": vdd_v,
        "back_bias_v": 0.0, "temperature_c": 25.0, "sram_vdd_v": max(vdd_v, 0.6), "freq_hz": freq_hz, "mem_clk_hz": 4e8, "margin": 0.1,
        "latency_s": latency_s, "latency_s_lo": 0.9 * latency_s, "latency_s_hi": 1.1 * latency_s, "throughput_ips": batch / latency_s,
        "throughput_gops": 1.45 * batch / latency_s, "efficiency_gops_w": gops_w, "efficiency_gops_w_lo": 0.9 * gops_w, "efficiency_gops_w_hi": 1.1 * gops_w,
        "core_efficiency_gops_w": 4 * gops_w, "power_w": total_j / latency_s, "core_energy_j": e["core dynamic"] + e["core leakage"],
        "core_leakage_energy_j": e["core leakage"], "memory_side_energy_j": e["memory side"], "dram_energy_j": sum(dram.values()), **dram,
        "area_um2": 1.25e6, "dram_read_bytes": 6e7, "dram_write_bytes": 1e6, "on_front": "yes", "bound": "dram", "provisional": True,
    }  # fmt: skip
    return {name: row[name] for name in POINT_COLUMNS}


def layer(network, batch, name, latency_s, bound):
    row = dict.fromkeys(LAYER_COLUMNS, 1.0) | {
        "network": network, "batch": batch, "dram": "lpddr3_1600_x32", "choice": "balanced", "architecture": "r4c8l8_d16s1p1",
        "vdd_v": 0.7, "layer": name, "order": "weights",
        "latency_s": latency_s, "bound": bound,
    }  # fmt: skip
    return {name: row[name] for name in LAYER_COLUMNS}


def model(block="pe"):
    """A model of one block with errors that can be found again in the page."""
    number = Number(name="one", formula="1", value=1.0, unit="J", standard_error=None, status="at_bound")
    errors = ErrorSummary(mean=0.0123, median=0.01, p90=0.0234, worst=0.0345, rows=40, groups=8)
    law = FittedLaw(
        quantity="step_energy_j", unit="J", terms=(number,), voltage_law="switching", voltage_parameters=(), reference_vdd_v=1.0, voltage_range_v=(0.5, 1.0),
        condition=1.0, residual_log_sd=0.01, log_sd=0.02, left_out=errors, rows=48, variants=8,
    )  # fmt: skip
    fitted = FittedBlock(domain="core", supply="vdd_v", ranges={"lanes": (4, 32)}, laws={"step_energy_j": law}, provisional=False)
    source = Source(path="corners.csv", sha256="ab" * 32, rows=48, commit="feedbeef", command="voltfront characterize", tools={"yosys": "0.70"}, inputs={})
    return FittedModel(
        technology="fdsoi28p", process="tt", temperature_c=25.0, back_bias_v=0.0, layout="fanout", reference_vdd_v=1.0, voltage_range_v=(0.5, 1.0),
        temperature_range_c=(25.0, 25.0), back_bias_range_v=(0.0, 0.0), paths={}, skew=None, path_ranges={"lanes": (4, 32)}, intervals={},
        sram_voltage_range_v=(0.6, 1.0), blocks={block: fitted}, delay_law=LawComparison(chosen="saturated_ekv", left_out_voltages={"saturated_ekv": errors}),
        cycles=CycleModel(parameters=(), log_sd=0.01, left_out=errors.model_copy(update={"mean": 0.0456}), rows=30, layers=10),
        validation=(Comparison(quantity="fmax", split="held-out designs", model=errors.model_copy(update={"mean": 0.0567}), ideal=None, rank_correlation=None,
                               interval_coverage=0.9, half_width=0.08, outside_range=0),),
        provisional=("sram",),
        sources=(source,),
    )  # fmt: skip


def schedules(networks=("alexnet", "alexnet_conv")):
    """Rows of `explore.report_schedules` for one architecture."""
    rows = []
    for network in networks:
        for batch in (1, 16):
            ways = ("schedule", (0.5, 0.7), 0.006), ("best single point", (0.7, 0.7), 0.0075), ("frequency only", (1.0, 1.0), 0.008)
            for strategy, volts, period_j in ways:
                same = {"network": network, "batch": batch, "dram": "lpddr3_1600_x32", "architecture": "r4c8l8_d16s1p1", "deadline_s": 0.03}
                same |= {"strategy": strategy, "period_j": period_j}
                for layer, v in zip(("conv1", "fc6"), volts, strict=True):
                    rows.append(same | {"layer": layer, "vdd_v": v, "freq_hz": 1e9 * (v - 0.3), "time_s": 0.01, "energy_j": 0.002})
    return pd.DataFrame(rows)


def inputs(folder, networks=("alexnet", "alexnet_conv"), commit="c0ffee1234567890", block="pe"):
    """The files of an exploration and a model in `folder`; returns write_report's arguments without out_dir."""
    points, sweeps, layers = [], [], []
    for network in networks:
        for batch in (1, 16):
            points += [point(network, batch, vdd_v) for vdd_v in (0.5, 0.7, 1.0)]
            for rank, name in enumerate((f"r8_of_{network}", "r4c8l8_d16s1p1"), start=1):
                head = {"rank": rank, "effectiveness": 0.25 / rank}
                sweeps += [{"sweep": "dvfs"} | head | point(network, batch, vdd_v, name, rank) for vdd_v in (1.0, 0.7, 0.5)]
                sweeps += [{"sweep": "frequency"} | head | point(network, batch, 1.0, name, rank * slower) for slower in (1, 2, 4)]
            layers += [layer(network, batch, "conv1", 0.0042, "compute"), layer(network, batch, "fc6", 0.0137, "dram")]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("pareto", points), ("dvfs", sweeps), ("layers", layers)):
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
    cloud = [
        point(network, batch, vdd_v, name, slower)
        for network in networks for batch in (1, 16) for name, slower in ((f"r8_of_{network}", 2), ("r4c8l8_d16s1p1", 1)) for vdd_v in (0.5, 0.7, 1.0)
    ]  # fmt: skip
    pd.DataFrame(cloud).to_parquet(folder / "points.parquet", index=False)
    (folder / "run.json").write_text(
        json.dumps({"commit": commit, "tools": {"numpy": "2.1"}, "inputs": {"model": "cd" * 32}, "counts": {"architectures": 12345}})
    )
    write_model(model(block), folder / "model.json")
    return {"explore_dir": folder, "model_path": folder / "model.json"}
