"""From the fitted model, networks and a DRAM to Pareto points, DVFS sweeps and the report."""
