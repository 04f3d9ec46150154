"""A design's calibrated numbers, part by part: what each component's area, leakage, idle cycle and events cost at an operating point.

These are the laws of the fitted model before they are summed, so that other tools can sum them their own way. For a layer whose
events are counted by `fit.compose.event_counts`,

    dynamic energy = sum over components of clock cycles x instances x idle energy + sum over actions of count x energy
"""

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fit.blocks import term_values
from fit.compose import Use, design_parameters, modelled_uses, predict, terms_by_statistic
from fit.model import FittedBlock, FittedModel, reference_corner
from hw.config import AcceleratorConfig
from hw.dram import dram_energy_j
from hw.dram_part import DramPart

COMPONENT_COLUMNS: dict[str, str] = {
    "component": "role of the block in the design; dram for the DRAM part",
    "block": "kind of block, see corners.csv",
    "domain": "core (scales) or memory (nominal)",
    "clocks": "clock domains that reach it, separated by +",
    "instances": "instances in the design",
    "words": "words of one instance, 0 for logic",
    "bits": "bits of a word, 0 for logic",
    "vdd_v": "supply of one instance, V",
    "area_um2": "area of one instance, um2",
    "leakage_w": "leakage of one instance, W",
    "idle_energy_per_cycle_j": "energy of a clock cycle without event, one instance, J",
    "provisional": "whether the numbers come from provisional constants",
}

ACTION_COLUMNS: dict[str, str] = {
    "component": "see components.csv",
    "action": "the event",
    "counter": "what counts it: see hw.registers.EVENTS and fit.compose.event_counts; bytes, activates or seconds for dram",
    "actions_per_count": "actions for each of these counts",
    "energy_per_action_j": "energy of an action beyond the idle energy of its cycle, J (dram: for each byte, activate or second)",
    "energy_log_sd": "standard deviation of its logarithm for a design that was not measured, 0 where unknown",
}


@dataclass(frozen=True, kw_only=True)
class CalibratedDesign:
    """A design at an operating point: `components` and `actions` have the columns above; `point` are the numbers of the whole by name and unit."""

    config: AcceleratorConfig
    part: DramPart
    point: dict[str, Any]
    components: pd.DataFrame
    actions: pd.DataFrame

    def energy_per_action_j(self, component: str, action: str) -> float:
        """Of one action."""
        rows = self.actions[(self.actions["component"] == component) & (self.actions["action"] == action)]
        return float(rows["energy_per_action_j"].iloc[0])


def calibrate(model: FittedModel, config: AcceleratorConfig, part: DramPart, *, vdd_v: float, margin: float, mem_clk_hz: float) -> CalibratedDesign:
    """The numbers of `config` with the DRAM `part` at supply `vdd_v`; `ModelError` outside the fitted range."""
    parameters = design_parameters(config)
    whole = predict(model, parameters, np.array([vdd_v]))  # refuses what the fit does not cover
    sram_vdd_v = max(vdd_v, model.sram_voltage_range_v[0])
    components, actions = [], []
    for use in modelled_uses(model, parameters):
        block = model.blocks[use.block]
        supply = model.reference_vdd_v if use.domain == "memory" else {"vdd_v": vdd_v, "sram_vdd_v": sram_vdd_v}[block.supply]

        def value(quantity: str, names: Container[str] | None = None, use: Use = use, block: FittedBlock = block, supply: float = supply) -> float:
            law = block.laws.get(quantity)
            if law is None:  # `absent`: zero in every measurement
                return 0.0
            structure = np.asarray(law.structure(term_values(tuple(t.name for t in law.terms), use.parameters), names)).ravel()[0]
            reference = reference_corner(model)
            return float(structure * law.factor(reference._replace(vdd_v=np.asarray(supply)), reference))

        parts = terms_by_statistic(block, "idle_energy_j")
        idle = value("idle_energy_j", parts[""])
        for statistic in [name for name in use.statistics if name in parts]:
            counter, divisor = use.statistics[statistic]
            actions.append(
                {"component": use.role, "action": statistic, "counter": counter, "actions_per_count": float(1 / divisor[0]),
                 "energy_per_action_j": value("idle_energy_j", parts[statistic]), "energy_log_sd": block.laws["idle_energy_j"].log_sd}
            )  # fmt: skip
        size = {name: int(use.parameters[name][0]) if use.block in ("sram", "two_clock_fifo") else 0 for name in ("words", "bits")}
        components.append(
            {"component": use.role, "block": use.block, "domain": use.domain, "clocks": "+".join(use.clocks), "instances": int(round(use.count[0]))}
            | size | {"vdd_v": supply, "area_um2": value("area_um2"), "leakage_w": value("leakage_w"), "idle_energy_per_cycle_j": idle,
                      "provisional": block.provisional}
        )  # fmt: skip
        for event, (counter, divisor) in use.events.items():
            quantity = f"{event}_energy_j"
            law, parts = block.laws.get(quantity), terms_by_statistic(block, quantity)
            # What only a part of the events does is an action of its own, with a counter of its own.
            for statistic, (counts, per) in {"": (counter, divisor), **use.statistics}.items():
                if statistic and statistic not in parts:
                    continue
                energy_j = value(quantity, parts[statistic]) - (0.0 if statistic else idle)
                actions.append(
                    {"component": use.role, "action": f"{event}_{statistic}" if statistic else event, "counter": counts,
                     "actions_per_count": float(1 / per[0]), "energy_per_action_j": energy_j, "energy_log_sd": law.log_sd if law else 0.0}
                )  # fmt: skip
    components.append(
        {"component": "dram", "block": part.name, "domain": "dram", "clocks": "", "instances": 1, "words": 0, "bits": part.geometry.data_bits,
         "vdd_v": part.currents.supply_v[-1], "area_um2": 0.0, "leakage_w": 0.0, "idle_energy_per_cycle_j": 0.0, "provisional": part.provisional}
    )  # fmt: skip
    nothing: dict[str, Any] = {"read_bytes": 0, "write_bytes": 0, "activates": 0, "busy_s": 0, "total_s": 0}
    for action, counter, given in (
        ("read", "bytes", {"read_bytes": 1}), ("write", "bytes", {"write_bytes": 1}), ("activate", "activates", {"activates": 1}),
        ("busy", "seconds", {"busy_s": 1, "total_s": 1}), ("wait", "seconds", {"total_s": 1}),
    ):  # fmt: skip
        energy = float(dram_energy_j(part, **nothing | given).total_j)
        actions.append(
            {"component": "dram", "action": action, "counter": counter, "actions_per_count": 1.0, "energy_per_action_j": energy, "energy_log_sd": 0.0}
        )
    point = {
        "design": config.name, "technology": model.technology, "process": model.process, "temperature_c": model.temperature_c,
        "back_bias_v": model.back_bias_v, "vdd_v": vdd_v, "sram_vdd_v": sram_vdd_v, "memory_vdd_v": model.reference_vdd_v,
        "fmax_hz": float(whole.fmax_hz[0, 0]), "freq_hz": float(whole.fmax_hz[0, 0] * (1 - margin)), "margin": margin, "mem_clk_hz": mem_clk_hz,
        "area_um2": float(whole.area_um2[0]), "core_leakage_w": float(whole.core_leakage_w[0, 0]), "memory_leakage_w": float(whole.memory_leakage_w[0]),
        "dram": part.name, "provisional": list(model.provisional),
    }  # fmt: skip
    return CalibratedDesign(
        config=config, part=part, point=point, components=pd.DataFrame(components)[list(COMPONENT_COLUMNS)], actions=pd.DataFrame(actions)[list(ACTION_COLUMNS)]
    )
