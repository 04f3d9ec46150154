"""Time and peak memory of each stage of the characterization, one `METRIC name value unit` a line.

    python benchmarks/flow_bench.py small medium large

Each design goes through all stages and corners with the quick plan's windows, in a cache of its own, in this process alone. `wall` and
`cpu` are seconds over all runs of a stage; `peak` is the largest memory of any process until the stage's last run ended.
"""

import resource
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import flow.cache
from flow import block_power, glitch, mapped_design, measure, placement, simulation, sta, synth, tech
from flow.characterize import measure_shard, table_corners
from flow.plan import load_plan
from flow.tech import load_technology
from hw.config import load_design

MODULES = (block_power, glitch, mapped_design, measure, placement, simulation, sta, synth, tech)


def usage() -> tuple[float, float, float]:
    """Wall and processor seconds until now, and the largest memory of this process or one that it waited for, MB."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(p.ru_utime + p.ru_stime for p in parts), max(p.ru_maxrss for p in parts) / 1024


def main(names: list[str]) -> None:
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    plain = flow.cache.run_step

    def measured(step, **arguments):
        before = usage()
        value = plain(step, **arguments)
        after = usage()
        total = spent[step.__name__.strip("_")]
        total[0], total[1], total[2] = total[0] + after[0] - before[0], total[1] + after[1] - before[1], max(total[2], after[2])
        return value

    for module in MODULES:
        if hasattr(module, "run_step"):
            module.run_step = measured
    plan, technology = load_plan("quick"), load_technology("fdsoi28p")
    for name in names:
        config = load_design(name)
        spent.clear()
        with tempfile.TemporaryDirectory() as folder:
            begun = usage()
            measure_shard(config, plan, technology, table_corners(technology), Path(folder), {})
            ended = usage()
        for stage, (wall_s, cpu_s, peak_mb) in sorted(spent.items(), key=lambda item: -item[1][1]):
            for kind, value, unit in (("wall", wall_s, "s"), ("cpu", cpu_s, "s"), ("peak", peak_mb, "MB")):
                print(f"METRIC {name}_{config.multipliers}.{stage}.{kind} {value:.4g} {unit}", flush=True)
        print(f"METRIC {name}_{config.multipliers}.all.wall {ended[0] - begun[0]:.4g} s")
        print(f"METRIC {name}_{config.multipliers}.all.cpu {ended[1] - begun[1]:.4g} s")


if __name__ == "__main__":
    main(sys.argv[1:] or ["small"])
