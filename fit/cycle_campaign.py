"""`python -m fit.cycle_campaign`: random (design, layer, clock ratio) cases on the RTL, and the fitted closed form beside them.

The RTL simulation is the truth; the model under test has seen none of the cases. Cases come from a seed, so that a longer run begins with
the shorter one's; finished ones are in the cache. The table (docs/cycles.csv) is what docs/validation.md quotes.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pandas as pd

from fit.cycle_fit import cases_of, predict_cases
from fit.model import read_model
from flow.characterize import cycle_row, source_commit
from flow.plan import Run, Window, load_plan
from flow.simulation import simulate_window
from flow.table import CYCLE_COLUMNS
from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.layers import NETWORKS, load_network
from hw.lowering import folds, lower
from hw.tiling import architecture, measure
from hw.tiling_choice import choose_tiling

COLUMNS = {
    "design": "name of the design",
    "layer": "network, layer and window",
    "kind": "kind of layer",
    "core_period_ps": "core clock period",
    "mem_period_ps": "memory-side clock period",
    "core_cycles": "on the RTL",
    "predicted_cycles": "by the closed form",
    "stalled": "share of core cycles in which the array waits for loads, stores or the program",
}
MOST_CYCLES = 30_000
"""Array steps and beats of a case at most, so that it simulates in seconds."""


def cases(designs: list[AcceleratorConfig], seed: int) -> Iterator[tuple[AcceleratorConfig, Run]]:
    """Random cases without end: each kind of layer as often as any other, clock periods spread evenly over their logarithms."""
    rng = random.Random(seed)
    layers: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(NETWORKS.glob("*.yaml")):
        for layer in load_network(path.stem).layers:
            kind = "depthwise" if layer.kind == "conv" and layer.groups == layer.in_channels > 1 else layer.kind
            layers.setdefault(kind, []).append((path.stem, layer.name))
    while True:
        config = rng.choice(designs)
        network, layer = rng.choice(layers[rng.choice(sorted(layers))])
        window = Window(network=network, layer=layer, rows=rng.choice((1, 2)), blocks=rng.choice((1, 2)), batch=rng.choice((1, 1, 2)))
        core, memory = round(10 ** rng.uniform(2.8, 3.8)), rng.choice((1250, 2500))
        try:
            shape = window.shape(config)
            lowering = lower(config, shape, batch=window.batch, fold=folds(shape, config.array.lanes))
            t = measure(architecture(config), lowering.numbers, choose_tiling(config, lowering))
        except ConfigError:
            continue  # no tiling of this layer fits the design's buffers
        read = t.activation_read_bytes + t.weight_read_bytes + t.parameter_read_bytes
        if t.pixel_steps + (read + t.output_write_bytes) // config.axi_bytes <= MOST_CYCLES:
            yield config, Run(window=window, core_period_ps=core, mem_period_ps=memory)


@click.command()
@click.option("--cases", "count", default=200, show_default=True)
@click.option("--model", "model_path", type=click.Path(path_type=Path), default="build/models/fdsoi28p.json", show_default=True)
@click.option("--plan", default="quick", show_default=True, help="Plan whose designs are simulated.")
@click.option("--most-multipliers", default=128, show_default=True, help="Designs with more are left out.")
@click.option("--seed", default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="docs/cycles.csv", show_default=True)
def main(count: int, model_path: Path, plan: str, most_multipliers: int, seed: int, out: Path) -> None:
    """Simulate random cases and compare the model's cycles with theirs. Interrupt at any time: the table holds what is finished."""
    model = read_model(model_path)
    if model.cycles is None:
        raise ConfigError(f"model must have cycles, not only corners ({model_path}); fit with the table of cycles")
    coefficients = np.array([number.value for number in model.cycles.parameters])
    designs = [config for config in load_plan(plan).all_designs() if config.multipliers <= most_multipliers]
    rows: list[dict] = []
    for config, run in cases(designs, seed):
        if len(rows) == count:
            break
        row = cycle_row(config, run, simulate_window(config, run))
        frame = pd.DataFrame([row])[list(CYCLE_COLUMNS)]
        predicted = predict_cases(cases_of(frame), coefficients)[0, 0]
        stalled = (row["stall_load"] + row["stall_store"] + row["stall_program"]) / row["core_cycles"]
        rows.append(
            {"design": config.name, "layer": run.window.name, "kind": row["kind"], "core_period_ps": run.core_period_ps, "mem_period_ps": run.mem_period_ps,
             "core_cycles": row["core_cycles"], "predicted_cycles": round(predicted), "stalled": round(stalled, 3)}
        )  # fmt: skip
        error = predicted / row["core_cycles"] - 1
        click.echo(f"{len(rows):4} {config.name:8} {run.window.name:70} {run.core_period_ps:5} ps {row['core_cycles']:7} cycles, model {100 * error:+.2f} %")
        text = f"# make validate-cycles, seed {seed}, source tree {source_commit()}\n" + pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False)
        out.with_suffix(".tmp").write_text(text, encoding="utf-8")
        out.with_suffix(".tmp").replace(out)


if __name__ == "__main__":
    main()
