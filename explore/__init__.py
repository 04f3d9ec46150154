"""From the fitted model, networks and a DRAM to Pareto points, DVFS sweeps and the report."""

import hw as _hw  # noqa: F401 - says where compiled code is kept, before anything is compiled
