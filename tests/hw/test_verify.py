"""The verification campaign: a small part of it, and what its generator and its page promise."""

import json
from collections import Counter
from dataclasses import replace

import pytest

import hw.verify.campaign as campaign
from hw.errors import ToolError
from hw.verify.cases import BINS, LIMITS, OPERATORS, case, configuration, impossible
from hw.verify.page import page

DESIGN, CASES = 3, 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def result(folder):
    return campaign.run_design(DESIGN, CASES, folder, covered=False)


def test_a_part_of_the_campaign(result):
    """Every operator, through the RTL, bit by bit, with programs that fail in between."""
    assert Counter(one["operator"] for one in result["cases"]).keys() == set(OPERATORS)
    assert len(result["cases"]) == CASES and len(result["faults"]) == -(-CASES // campaign.PROGRAMS)
    text = page([result], "this test")
    assert f"{CASES} random cases" in text and all(parameter in text for parameter in BINS) and "Not counted in this campaign" in text


def test_results_are_kept_and_used_again(result, folder, monkeypatch):
    (kept,) = folder.iterdir()
    assert json.loads(kept.read_text()) == result
    monkeypatch.setattr(campaign, "build", None)  # nothing is built again
    assert campaign.run_design(DESIGN, CASES, folder, covered=False) == result


def test_a_difference_ends_the_campaign(tmp_path, monkeypatch):
    """The golden model is given another bias than the machine."""
    honest = campaign.Case.workload

    def bent(self, config, base_address):
        workload = honest(self, config, base_address)
        layer = workload.layers[0]
        return replace(workload, layers=(replace(layer, bias=layer.bias + (1 << 24)), *workload.layers[1:]))

    monkeypatch.setattr(campaign.Case, "workload", bent)
    with pytest.raises(ToolError, match="outputs of first must equal the golden model's, not differ .*drawn_3 0, case"):
        campaign.run_design(DESIGN, CASES, tmp_path, covered=False)
    assert not list(tmp_path.iterdir())


def test_an_error_with_another_cause_ends_the_campaign(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "FAULTS", (campaign.Fault(name="unknown opcode", cause=campaign.Cause.MISALIGNED),))
    with pytest.raises(ToolError, match="program . must end with MISALIGNED, not ILLEGAL_INSTRUCTION"):
        campaign.run_design(DESIGN, CASES, tmp_path, covered=False)


def test_designs_and_cases_follow_from_their_numbers():
    for index in (3, 20):
        config = configuration(index)
        assert configuration(index) == config != configuration(index + 1)
        assert [case(config, number) for number in (5, 2)] == [case(config, number) for number in (5, 2)]


def test_limits_are_reached():
    """Every design of the list is legal and holds what it is there for."""
    for index, fixed in enumerate(LIMITS):
        found = configuration(index).model_dump()
        flat = {key: value for section in ("array", "precision", "buffers", "memory") for key, value in found[section].items()}
        assert {key: flat[key] for key in fixed} == fixed


def test_every_bin_has_a_name_and_most_are_reached_soon():
    """What a bin's function returns is one of its names; impossible ones do not occur; some cases on five designs reach half."""
    hits = set()
    for index in range(0, 40, 8):
        config = configuration(index)
        for number in range(12):
            hits |= {tuple(found) for found in campaign._describe(config, case(config, number))["bins"]}
    assert all(name in BINS[parameter][0] for _, parameter, name in hits)
    assert not {(operator, parameter, name) for operator, parameter, name in hits if (parameter, name) in impossible(operator)}
    possible = {(o, p, name) for o in OPERATORS for p, (names, _) in BINS.items() for name in names if (p, name) not in impossible(o)}
    assert len(hits) > len(possible) / 2
