"""What the report says about schedules, against the exploration's own totals and plain sums."""

import json

import numpy as np
import pandas as pd
import pytest
from made_up import model, space

from explore.exploration import cases_of, explore_all
from explore.report_schedules import COLUMNS, SLACK, explored_schedules
from explore.schedules import Transitions
from fit.model import write_model
from hw.layers import load_network


@pytest.fixture(scope="module")
def explored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schedules")
    write_model(model(), folder / "model.json")
    explore_all(model_path=folder / "model.json", space=space(), cases=cases_of(["mobilenet_v1"], [1, 2]), out=folder / "explore", workers=1)
    return folder


def test_every_way_keeps_the_deadline_and_the_schedule_takes_least(explored):
    found = explored_schedules(explored / "explore", explored / "model.json")
    sweeps, layers = pd.read_csv(explored / "explore" / "dvfs.csv"), pd.read_csv(explored / "explore" / "layers.csv")
    assert tuple(found) == COLUMNS
    chosen = layers[layers["choice"].isin(["balanced", "fastest", "most efficient"])]
    for key in ("network", "batch", "architecture"):
        assert set(found[key]) == set(chosen[key])
    names = [layer.name for layer in load_network("mobilenet_v1").layers]
    for (batch, architecture), own in found.groupby(["batch", "architecture"]):
        deadline_s = own["deadline_s"].iloc[0]
        ways = {name: rows for name, rows in own.groupby("strategy", sort=False)}
        assert all(list(rows["layer"]) == names for rows in ways.values())
        swept = sweeps[(sweeps["batch"] == batch) & (sweeps["architecture"] == architecture) & (sweeps["sweep"] == "dvfs")]
        if len(swept):  # the exploration's own latency at the highest voltage
            assert deadline_s == pytest.approx(SLACK * swept.loc[swept["vdd_v"].idxmax(), "latency_s"], rel=1e-9)
        changes = (np.diff(ways["schedule"]["vdd_v"]) != 0).sum() * Transitions().transition_s
        assert ways["schedule"]["time_s"].sum() + changes <= deadline_s * (1 + 1e-9)
        for name, rows in ways.items():
            assert rows["period_j"].nunique() == 1 and rows["time_s"].sum() <= deadline_s * (1 + 1e-9), name
            assert rows["period_j"].iloc[0] >= ways["schedule"]["period_j"].iloc[0] * (1 - 1e-9), name
            assert rows["energy_j"].sum() <= rows["period_j"].iloc[0], name
        assert set(ways["frequency only"]["vdd_v"]) == {1.0} and ways["frequency only"]["freq_hz"].nunique() == 1


def test_a_network_that_is_not_known_by_its_name_has_none(explored, tmp_path):
    """Nor one that has the name of another."""
    for old, new in ((b"mobilenet_v1", b"mine"), (b"mobilenet_v1", b"alexnet")):
        folder = tmp_path / new.decode()
        folder.mkdir()
        for name in ("pareto.csv", "layers.csv", "run.json"):
            (folder / name).write_bytes((explored / "explore" / name).read_bytes().replace(old, new))
        assert json.loads((folder / "run.json").read_text())["results"][0]["network"] == new.decode()
        assert explored_schedules(folder, explored / "model.json").empty
