"""Designs as the fit composes them are the designs that are emitted."""

from collections import Counter

import numpy as np
import pytest

from fit.blocks import BLOCKS, DERIVED, term_values
from fit.compose import EVENT_COUNTS, design_parameters, event_counts, uses
from fit.model import ErrorSummary, fields
from hw.config import load_design
from hw.emit import emit
from hw.errors import ModelError
from hw.layers import LayerShape
from hw.lowering import lower
from hw.tiling import architecture, measure
from hw.tiling_choice import choose_tiling


@pytest.mark.parametrize("name", ["small", "medium"])
def test_roles_are_the_instances_of_the_emitted_design(name, tmp_path):
    config = load_design(name)
    bundle = emit(config, tmp_path)
    expected = Counter()
    for block in bundle.blocks:
        sizes = (block.parameters["d"], block.parameters["w"]) if block.name == "two_clock_fifo" and block.parameters else ()
        if block.name == "two_clock_fifo" and not sizes:
            width, depth = block.module.removeprefix("two_clock_fifo_w").split("_d")
            sizes = (int(depth), int(width))
        expected[block.name, *sizes] += len(block.instances)
    for memory in bundle.memories:
        expected["sram", memory.words, memory.bits] += len(memory.instances)
    got = Counter()
    for use in uses(design_parameters(config)):
        sizes = (int(use.parameters["words"][0]), int(use.parameters["bits"][0])) if use.block in ("sram", "two_clock_fifo") else ()
        got[use.block, *sizes] += int(use.count[0])
    expected["glue",] = 1  # what lies between the blocks is no block of the hardware's description
    # Queues and burst splitters are parts of the blocks they stand in.
    assert got == Counter({key: count for key, count in expected.items() if key[0] not in ("queue", "burst_splitter")})


def test_what_stands_on_the_memory_sides_supply_is_what_the_power_intent_says(tmp_path):
    emit(load_design("small"), tmp_path)
    element = next(line for line in (tmp_path / "accelerator.upf").read_text().splitlines() if line.startswith("create_power_domain pd_mem"))
    instances = {path.split("/")[-1].split(".")[-1] for path in element.split("{")[1].split("}")[0].split()}
    assert {use.role for use in uses(design_parameters(load_design("small"))) if use.domain == "memory"} == instances
    assert "read_beats" in instances and "op_ack_synchronizer" not in instances


def test_event_counts_of_a_layer_by_hand():
    """4 output words (2 x 2 pixels of 4 channels) from 4 channels of 2 x 2 pixels on 2 rows x 2 columns x 4 lanes, a beat a word."""
    config = load_design("small")
    lowering = lower(config, LayerShape(name="tiny", kind="conv", in_channels=4, out_channels=4, in_h=2, in_w=2))
    counts = event_counts(design_parameters(config), measure(architecture(config), lowering.numbers, choose_tiling(config, lowering)))
    assert counts["accumulator_accesses"] == 2 * 2 * 4  # each of 16 sums takes one step
    assert counts["post_outputs"] == 16 and counts["output_reads"] == 4
    assert counts["weight_writes"] == 4 and counts["parameter_writes"] == 4 and counts["activation_writes"] == 4
    assert counts["load_items"] == 4 + 4 + 4
    assert counts["write_beats"] == 4
    assert counts["read_beats"] == 4 + 4 + 2 * 4 + 8 * counts["instructions"]
    padded = lower(config, LayerShape(name="padded", kind="conv", in_channels=4, out_channels=4, in_h=2, in_w=2, kernel_h=3, kernel_w=3,
                                      pad_top=1, pad_bottom=1, pad_left=1, pad_right=1))  # fmt: skip
    traffic = measure(architecture(config), padded.numbers, choose_tiling(config, padded))
    counts = event_counts(design_parameters(config), traffic)
    # Each of two stripes fills its row of padding (4 words); the columns at left and right (3 rows) are filled for both at once. The image is read once.
    assert traffic.fill_words == 2 * 4 + 3 * 2 and counts["load_items"] == 4 + traffic.fill_words + 4 * 9 + 4
    assert set(counts) == set(EVENT_COUNTS)
    assert set(counts) >= {counter for use in uses(design_parameters(config)) for counter, _ in (*use.events.values(), *use.statistics.values())}


def test_terms_by_hand():
    p = design_parameters(load_design("large"))
    assert term_values(("multipliers", "accumulators", "drain"), p)["multipliers"] == 8 * 8 * 8
    assert term_values(("accumulators",), p)["accumulators"] == 16 * 32
    with pytest.raises(ModelError, match="parameters must include words, not only"):
        term_values(("storage",), p)
    derived = dict.fromkeys(DERIVED, np.ones(1))
    assert all(np.all(v >= 0) for block in BLOCKS.values() for v in term_values(block.area, p | derived).values())


def test_summaries_and_the_file_say_what_they_are():
    summary = ErrorSummary.of([0.1, -0.3, np.nan, 0.2], ["a", "a", "b", "c"])
    assert (summary.mean, summary.median, summary.worst, summary.rows, summary.groups) == (pytest.approx(0.2), pytest.approx(0.2), 0.3, 3, 2)
    assert ErrorSummary.of([np.nan], ["a"]) is None
    assert all(fields().values()) and fields()["blocks.*.laws.*.terms.*.unit"].startswith("Its unit")
