"""From measured tables to an analytical performance-power model with stated errors.

`fit.fitting.fit` makes the model file from the tables; `fit.model.read_model` reads it; `fit.compose.predict` gives frequency,
energy, leakage and area of whole designs, `fit.cycles` the cycles of a layer; `fit.explain` prints the equations.
"""

import hw as _hw  # noqa: F401 - says where compiled code is kept, before anything is compiled
