"""The design space holds what the generator accepts, and nothing else."""

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import model, space

from explore.space import AXES, SPACES, Voltages, legal_combinations, load_space
from fit.compose import design_parameters
from hw.config import AcceleratorConfig
from hw.errors import ConfigError
from hw.tile_plan import architecture

NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 12, 16, 17, 32, 64, 128])
SIZES = st.sampled_from([32, 64, 96, 128, 512, 1000, 1024, 4096, 16384, 65536, 1 << 20, 1 << 21])
COMBINATION = st.fixed_dictionaries(
    {name: SIZES if name.endswith("bytes") else st.sampled_from([8, 32, 64, 100, 256, 512]) if name == "axi_data_bits" else NUMBERS for name in AXES}
    | {"parameter_words": st.sampled_from([16, 32, 64, 100, 256, 4096, 8192])}
    | {"activation_bits": st.sampled_from([4, 8, 16]), "weight_bits": st.sampled_from([4, 8, 16])}
)


def accepted(v):
    """Whether the generator's own validation takes the combination."""
    array = {name: v[name] for name in ("rows", "cols", "lanes", "acc_depth", "multiplier_stages", "post_lanes")}
    buffers = {name: v[name] for name in v if name.endswith("_bank_bytes") or name == "parameter_words"}
    try:
        precision = {name: v[name] for name in ("activation_bits", "weight_bits")}
        memory = {"axi_data_bits": v["axi_data_bits"]}
        AcceleratorConfig.model_validate({"version": 1, "name": "x", "array": array, "precision": precision, "buffers": buffers, "memory": memory})
    except ValueError:
        return False
    return True


@settings(max_examples=300, derandomize=True, deadline=None)
@given(COMBINATION, st.sampled_from([*AXES, "none"]))
def test_legality_is_that_of_the_generator(values, kept):
    base = {"rows": 4, "cols": 8, "lanes": 8, "acc_depth": 8, "multiplier_stages": 1, "post_lanes": 2, "activation_bank_bytes": 16384,
            "weight_bank_bytes": 16384, "output_bank_bytes": 4096, "axi_data_bits": 64, "parameter_words": 256,
            "activation_bits": 8, "weight_bits": 8}  # fmt: skip
    # Mostly one odd value among good ones, so that every rule decides some examples.
    values = values if kept == "none" else base | {kept: values[kept]}
    assert legal_combinations({name: np.array([value]) for name, value in values.items()})[0] == accepted(values)


def test_architectures_are_their_configs():
    found = space(lanes=[8, 16], post_lanes=[1, 2]).architectures()
    assert len(set(found.names())) == len(found) == 16
    configs = [found.config(i) for i in range(len(found))]
    for name, values in design_parameters(*configs).items():
        np.testing.assert_array_equal(found.parameters()[name], values, err_msg=name)
    np.testing.assert_array_equal(np.stack(found.numbers(), axis=1), [architecture(config) for config in configs])


def test_default_space_is_large():
    default = load_space("default")
    legal = sum(len(default.block(number)) for number in range(0, default.blocks, 10))
    assert default.combinations >= 10**6 and 10 * legal >= 10**6
    assert len(default.vdd_v.values()) == 28 and len(default.back_bias_v) == 3


def test_blocks_are_the_space():
    few = space(rows=[1, 3], lanes=[2, 8], weight_bank_bytes=[64, 16384])
    blocks = [few.block(number) for number in range(few.blocks)]
    assert np.concatenate([block.index for block in blocks]).tolist() == few.architectures().index.tolist()
    assert all(len(block.by_array()) == 1 for block in blocks if len(block)) and len(few.architectures().by_array()) == few.blocks
    np.testing.assert_array_equal(few.at(few.architectures().index).names(), few.architectures().names())
    assert space(activation_bits=4, weight_bits=4).architectures().config(0).activation_words == 2 * space().architectures().config(0).activation_words


def test_small_space_lies_in_the_calibrated_ranges():
    from fit.blocks import BLOCKS, SIDES
    from fit.compose import uses
    from flow.plan import load_plan

    calibrated = design_parameters(*load_plan("quick").designs)
    measured = {}
    for use in uses(calibrated):
        for name in set(BLOCKS[use.block].parameters) - set(SIDES):
            low, high = measured.get((use.block, name), (np.inf, -np.inf))
            measured[use.block, name] = min(low, use.parameters[name].min()), max(high, use.parameters[name].max())
    explored = load_space("small").architectures().parameters()
    inside = np.ones(len(explored["rows"]), dtype=bool)
    for use in uses(explored):
        for name in set(BLOCKS[use.block].parameters) - set(SIDES):
            low, high = measured[use.block, name]
            inside &= (use.parameters[name] >= low) & (use.parameters[name] <= high)
    assert inside.mean() > 0.5, inside.sum()


def test_bad_spaces_are_refused(tmp_path):
    good = yaml.safe_load((SPACES / "default.yaml").read_text())
    for change, message in (
        ({"rows": []}, "rows must be"), ({"colums": [4]}, "colums must be a known key"), ({"rows": [4, 4]}, "stands once"),
        ({"vdd_v": {"low": 1.0, "high": 0.5, "count": 3}}, "low < high"), ({"lanes": [-8]}, "lanes"),
    ):  # fmt: skip
        path = tmp_path / "space.yaml"
        path.write_text(yaml.safe_dump(good | change))
        with pytest.raises(ConfigError, match=message):
            load_space(path)
    with pytest.raises(ConfigError, match="space must be one of default, small"):
        load_space("nothing")
    with pytest.raises(ConfigError, match="at least one legal architecture"):
        space(lanes=[3]).architectures()


def test_names_are_design_names():
    assert space().architectures().config(0).name == "r2c8l8_d16s1p2_a16384w16384o2048_x64" and model().technology == "synthetic"


@pytest.mark.parametrize("count", [3, 4, 12, 28, 29])
def test_voltages_from_one_on_are_the_same_ones(count):
    voltages = Voltages(low=0.5, high=1.0, count=count)
    for least_v in (0.3, 0.5, 0.6, 0.666667, 0.7407):
        kept = [float(value) for value in voltages.values() if value >= least_v - 1e-9]
        assert voltages.at_least(least_v).values().tolist() == kept
    with pytest.raises(ConfigError, match="vdd_v must have two voltages of at least 0.99 V on a single rail, not 1"):
        voltages.at_least(0.99)
