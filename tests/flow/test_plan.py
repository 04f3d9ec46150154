"""Plans and windows: a window is the first rows and channels of its layer, exactly."""

import numpy as np
import pytest

from flow.plan import Plan, Window, load_plan
from hw.config import load_design
from hw.errors import ConfigError
from hw.golden import random_layer, run_layer
from hw.layers import load_network
from hw.settings import parse


@pytest.mark.parametrize("layer", ["conv1", "conv2", "conv5"])
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_a_window_computes_the_first_rows_and_channels_of_its_layer(layer, rows):
    config, rng = load_design("small"), np.random.default_rng(0)
    window = Window(network="alexnet", layer=layer, rows=rows, blocks=1).shape(config)
    whole = next(x for x in load_network("alexnet").layers if x.name == layer)
    if layer != "conv1":  # one channel group, with few channels to keep the loops short
        window = window.model_copy(update={"in_channels": 2})
        whole = whole.model_copy(update={"in_channels": 2, "groups": 1, "out_channels": window.out_channels})
    else:
        whole = whole.model_copy(update={"out_channels": window.out_channels})
    full = random_layer(whole, rng)
    part = type(full)(**{**vars(full), "shape": window})
    x = rng.integers(-128, 128, (1, whole.in_channels, whole.in_h, whole.in_w))
    expected = run_layer(full, x)[:, :, : min(whole.out_h, rows * config.array.rows)]
    np.testing.assert_array_equal(run_layer(part, x[:, :, : window.in_h]), expected)


def test_the_quick_plan_covers_what_the_fit_needs():
    plan = load_plan("quick")
    pes = {(d.array.lanes, d.precision.weight_bits, d.array.multiplier_stages, d.array.acc_depth) for d in plan.designs}
    assert len(pes) >= 8
    assert plan.held_out == ["small", "medium", "large"]
    assert not {d.name for d in plan.designs} & set(plan.held_out)


def test_a_plan_that_names_a_design_twice_or_an_unknown_layer_is_refused():
    plan = load_plan("quick").model_dump()
    with pytest.raises(ConfigError, match="c01 stands twice"):
        parse(Plan, {**plan, "designs": [plan["designs"][0], plan["designs"][0]]}, "plan.yaml")
    with pytest.raises(ConfigError, match="conv9"):
        Window(network="alexnet", layer="conv9").shape(load_design("small"))
