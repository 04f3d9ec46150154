"""Shards and the campaign: whole or absent, stale when an input changed, resumed after a kill, the same on any number of workers."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cloudpickle
import pytest

from flow import characterize as campaign
from flow.plan import Plan, load_plan
from flow.sampling import plan_text
from flow.shards import Shard, assemble, assemble_folder, read_shard, shard_inputs, stale_inputs, write_shard
from flow.table import CORNER_COLUMNS, CYCLE_COLUMNS, PATH_COLUMNS, TABLE_VERSION, read_table
from flow.tech import load_technology
from hw.errors import ConfigError, ToolError

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def made_up(design: str, value: float = 1.0, inputs: dict | None = None) -> Shard:
    """A shard of one row in each table whose numbers are all `value`."""
    rows = {
        kind: [{name: design if name == "design" else TABLE_VERSION if name == "table_version" else value for name in columns}]
        for kind, columns in (("corners", CORNER_COLUMNS), ("paths", PATH_COLUMNS), ("cycles", CYCLE_COLUMNS))
    }
    return Shard(design=design, commit="c", command="test", tools={"sta": "1"}, inputs=inputs or {"rtl": "r", "technology": "t"}, **rows)


def test_a_shard_comes_back_as_it_was_and_its_bytes_depend_on_nothing_else(tmp_path):
    shard = made_up("c01", 0.1 + 0.2)
    first, second = write_shard(shard, tmp_path / "a"), write_shard(shard, tmp_path / "b")
    assert read_shard(first) == shard and first.read_bytes() == second.read_bytes()
    assert os.listdir(tmp_path / "a") == ["c01.json.gz"]


def test_broken_shards_and_those_of_other_columns_are_refused(tmp_path):
    path = write_shard(made_up("c01"), tmp_path)
    whole = path.read_bytes()
    for broken in (whole[:-20], b"", b"no gzip at all"):
        path.write_bytes(broken)
        with pytest.raises(ConfigError, match=r"shard must be a readable table of this version, not .*c01\.json\.gz"):
            read_shard(path)
    row = made_up("c01").corners[0]
    with pytest.raises(ConfigError, match="differ in area_um2"):
        write_shard(replace(made_up("c01"), corners=[{name: value for name, value in row.items() if name != "area_um2"}]), tmp_path)


def test_tables_hold_the_shards_in_order_and_say_where_they_come_from(tmp_path):
    corners, cycles = assemble([made_up("b", 2.0), made_up("a", 1.0)], technology="fdsoi28p", tables=tmp_path)
    frame, provenance = read_table(corners, CORNER_COLUMNS)
    assert list(frame["design"]) == ["b", "a"] and list(frame["area_um2"]) == [2.0, 1.0]
    assert provenance.inputs == {"rtl:a": "r", "rtl:b": "r", "technology:fdsoi28p": "t"}
    assert list(read_table(cycles, CYCLE_COLUMNS)[0]["design"]) == ["b", "a"]
    assert list(read_table(tmp_path / "fdsoi28p" / "paths.csv", PATH_COLUMNS)[0]["design"]) == ["b", "a"]
    with pytest.raises(ConfigError, match="shards of technology fdsoi28p must exist, not be none"):
        assemble_folder(tmp_path / "nothing", technology="fdsoi28p", tables=tmp_path)


def test_a_shard_is_stale_when_its_design_windows_rtl_or_technology_change():
    plan, technology = load_plan("quick"), load_technology("fdsoi28p")
    design = plan.designs[0]
    inputs = shard_inputs(design, plan, technology, "rtl")
    shard = made_up(design.name, inputs=inputs)
    assert not stale_inputs(shard, shard_inputs(design, plan.model_copy(update={"designs": plan.designs[:1], "name": "other"}), technology, "rtl"))
    changes = {
        "design": shard_inputs(design.model_copy(update={"clock_gating": False}), plan, technology, "rtl"),
        "plan": shard_inputs(design, plan.model_copy(update={"activity_cycles": 300}), technology, "rtl"),
        "rtl": shard_inputs(design, plan, technology, "other"),
        "technology": shard_inputs(design, plan, technology.model_copy(update={"dont_use": ()}), "rtl"),
    }
    assert {name: stale_inputs(shard, changed) for name, changed in changes.items()} == {name: (name,) for name in changes}


def test_a_design_of_supplies_only_is_measured_at_every_supply_of_each_process_and_is_another_measurement():
    plan, technology = load_plan("quick"), load_technology("fdsoi28p")
    design, corners = plan.designs[0], campaign.table_corners(technology)
    few = plan.model_copy(update={"supplies_only": [design.name]})
    assert campaign.design_corners(design, plan.model_copy(update={"supplies_only": []}), technology, corners) == corners
    kept = campaign.design_corners(design, few, technology, corners)
    assert kept == tuple(c for c in corners if c.temperature_c == 25 and c.back_bias_v == 0) and {c.process for c in kept} == {"tt", "ss"}
    shard = made_up(design.name, inputs=shard_inputs(design, plan, technology, "rtl"))
    assert stale_inputs(shard, shard_inputs(design, few, technology, "rtl")) == ("plan",)
    with pytest.raises(ValueError, match="supplies_only names its designs"):
        Plan(**(few.model_dump() | {"supplies_only": ["nobody"]}))


def test_the_check_lists_missing_and_stale_shards(tmp_path):
    plan, technology = load_plan("full"), load_technology("fdsoi28p")
    plan = plan.model_copy(update={"designs": plan.designs[:2], "held_out": []})
    inputs = shard_inputs(plan.designs[0], plan, technology, "an older RTL")
    write_shard(made_up("b01", inputs=inputs), tmp_path / "shards" / "fdsoi28p")
    assert campaign.stale_shards(plan, technology, tmp_path / "shards", cache=tmp_path / "cache") == {"b01": ("rtl",), "b02": ()}
    fresh = inputs | {"rtl": campaign.emit_rtl(plan.designs[0], cache=tmp_path / "cache").content_hash}
    write_shard(made_up("b01", inputs=fresh), tmp_path / "shards" / "fdsoi28p")
    assert campaign.stale_shards(plan, technology, tmp_path / "shards", cache=tmp_path / "cache") == {"b02": ()}


def test_the_full_plan_is_the_one_that_the_sampling_draws():
    plan = load_plan("full")
    assert (Path(campaign.__file__).parent / "plans" / "full.yaml").read_text() == plan_text()
    calibrating = [d for d in plan.designs if d.name not in plan.held_out]
    pes = {(d.array.lanes, d.array.acc_depth, d.array.acc_bits, d.array.multiplier_stages, d.precision) for d in calibrating}
    assert len(pes) >= 24
    sizes = [d.array.rows * d.array.cols * d.array.lanes for d in plan.all_designs() if not d.name.startswith("b")]
    assert len(sizes) >= 16 and min(sizes) == 16 and max(sizes) == 1024 and len(plan.activity) >= 6


# --- the campaign, its measurement replaced by a quick one -----------------------------------------


def _quick(config, plan, technology, corners, cache, known, command=""):
    """Stands for a design's measurement: takes a moment, leaves a mark, and is fresh when its shard is."""
    inputs = {"rtl": config.name, "technology": "t"}
    if inputs in known:
        return known.index(inputs)
    with open(Path(cache) / "log", "a") as log:
        log.write(f"{config.name}\n")
    time.sleep(0.05 * (5 - int(config.name[-1]) % 5))
    if config.name == (Path(cache) / "fatal").read_text():
        marker = Path(cache) / "died"
        if not marker.exists():
            marker.touch()
            os._exit(9)
    if config.name == (Path(cache) / "wrong").read_text():
        raise ToolError("sta must finish within 900 s, not run on (design b02)")
    return made_up(config.name, float(config.name[-1]), inputs)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs a campaign of four designs; `fatal` names one that takes its worker down once, `wrong` one that fails."""
    monkeypatch.setattr(campaign, "measure_shard", _quick)
    plan = load_plan("full")
    plan = plan.model_copy(update={"designs": plan.designs[:4], "held_out": []})

    def start(workers: int, *, fatal: str = "", wrong: str = "", folder: str = "one", **options):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "fatal").write_text(fatal)
        (tmp_path / folder / "wrong").write_text(wrong)
        paths = campaign.characterize(
            plan, load_technology("fdsoi28p"), tables=tmp_path / folder / "tables", shards=tmp_path / folder / "shards", cache=tmp_path / folder,
            workers=workers, **options,
        )  # fmt: skip
        return [path.read_text() for path in paths], (tmp_path / folder / "log").read_text().split()

    return start


def test_any_number_of_workers_makes_the_same_tables_and_finished_designs_are_not_measured_again(run):
    one, log = run(1, folder="one")
    two, _ = run(2, folder="two")
    assert one == two and sorted(log) == ["b01", "b02", "b03", "b04"]
    again, log = run(1, folder="one")
    assert again == one and len(log) == 4


def test_fresh_shards_that_ship_are_taken_except_of_designs_to_be_measured_afresh(run, tmp_path):
    tables, _ = run(1, folder="one")
    shipped = tmp_path / "one" / "shards"
    write_shard(made_up("b02", 2.0, {"rtl": "of another time", "technology": "t"}), shipped / "fdsoi28p")
    again, log = run(2, folder="two", shipped=shipped, afresh=("b03",))
    assert again == tables and sorted(log) == ["b02", "b03"]


def test_what_is_measured_here_is_compared_with_what_ships(tmp_path):
    plan, technology = load_plan("quick"), load_technology("fdsoi28p")

    def difference() -> float | None:
        return campaign.shipped_difference("small", plan, technology, shards=tmp_path / "here", shipped=tmp_path / "shipped")

    write_shard(made_up("small", 1.0), tmp_path / "here" / "fdsoi28p")
    assert difference() is None
    write_shard(made_up("small", 0.98), tmp_path / "shipped" / "quick" / "fdsoi28p")
    assert difference() == pytest.approx(0.02, rel=1e-9)
    write_shard(made_up("small", 0.98, {"rtl": "other", "technology": "t"}), tmp_path / "shipped" / "quick" / "fdsoi28p")
    assert difference() is None


def test_a_lost_worker_costs_only_its_task(run):
    tables, log = run(2, fatal="b03")
    assert sorted(log) == ["b01", "b02", "b03", "b03", "b04"] and tables == run(1, folder="other")[0]


def test_a_failing_design_does_not_hold_up_the_others_and_the_campaign_ends_with_its_error(run, tmp_path):
    with pytest.raises(ToolError, match=r"1 of 4 designs must be measured, not fail \(b03\).* sta must finish within 900 s"):
        run(1, wrong="b03")
    kept = {path.name for path in (tmp_path / "one" / "shards" / "fdsoi28p").iterdir()}
    assert kept == {"b01.json.gz", "b02.json.gz", "b04.json.gz"}
    _, log = run(1)
    assert [log.count(name) for name in ("b01", "b02", "b03", "b04")] == [1, 1, 2, 1]


def test_a_scheduler_elsewhere_does_the_work_and_a_wrong_address_is_refused(run, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster:
        tables, _ = run(1, scheduler=cluster.scheduler_address)
    assert tables == run(1, folder="other")[0]


def test_a_killed_campaign_goes_on_where_it_was(tmp_path):
    """The real command in a process of its own, killed as `kill -9` does, between two designs."""
    script = tmp_path / "killed.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1]); import test_campaign as t, flow.characterize as c\n"
        "from pathlib import Path; from flow.plan import load_plan; from flow.tech import load_technology\n"
        "if __name__ == '__main__':\n"
        "    here = Path(sys.argv[2]); plan = load_plan('full'); c.measure_shard = t._quick\n"
        "    plan = plan.model_copy(update={'designs': plan.designs[:4], 'held_out': []})\n"
        "    c.characterize(plan, load_technology('fdsoi28p'), tables=here / 'tables', shards=here / 'shards', cache=here, workers=1)\n"
    )
    (tmp_path / "fatal").write_text("")
    (tmp_path / "wrong").write_text("")
    arguments = [sys.executable, script, str(Path(__file__).parent), str(tmp_path)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": os.environ | {"PYTHONPATH": str(Path(campaign.__file__).parents[1])}}
    process = subprocess.Popen(arguments, start_new_session=True, **quiet)
    deadline = time.monotonic() + 120
    while not (tmp_path / "shards" / "fdsoi28p" / "b01.json.gz").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path.name for path in (tmp_path / "shards" / "fdsoi28p").glob("b*.json.gz")}
    assert "b01.json.gz" in finished and not (tmp_path / "tables").exists()
    assert subprocess.run(arguments, timeout=120, **quiet).returncode == 0
    assert (tmp_path / "log").read_text().split().count("b01") == 1
    assert len(read_table(tmp_path / "tables" / "fdsoi28p" / "corners.csv", CORNER_COLUMNS)[0]) == 4
