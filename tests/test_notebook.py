"""The notebook of the documents, run from its first cell to its last as a reader would, in a folder of its own."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from flow.plan import load_plan

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "first-hour.ipynb"

ASK = """
import json
told = {
    "split_j": split.sum(axis=1).mul(1e-3).tolist(), "power_w": best["power_w"].tolist(), "latency_s": best["latency_s"].tolist(),
    "dram_j": split[[part for part in split if part.startswith("DRAM")]].sum(axis=1).mul(1e-3).tolist(), "effectiveness": best["effectiveness"].tolist(),
    "validation": {f"{c.split}: {c.quantity}": c.model.mean for c in model.validation}, "verilog": [str(Path(path).resolve()) for path in bundle.verilog],
    "time_s": table.time_s.tolist(), "energy_j": table.energy_j.tolist(), "deadline_s": deadline_s, "idle_w": table.idle_w,
    "change": [Transitions().transition_s, Transitions().transition_j],
    "strategies": {s.name: {"points": s.plan.points, "period_j": s.period_j, "time_s": s.plan.time_s} for s in found},
}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What the notebook's values were at its end, and the notebook with its outputs."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(ASK))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        for library in ("OMP", "OPENBLAS"):  # beside other tests, more threads only wait for each other
            patch.setenv(f"{library}_NUM_THREADS", "1")
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return json.loads(notebook.cells[-1].outputs[0]["text"]), notebook, folder


def test_it_is_kept_without_outputs_and_its_links_lead_to_files():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    links = [part.split(")")[0] for cell in notebook.cells if cell.cell_type == "markdown" for part in cell.source.split("](")[1:]]
    assert links and all((NOTEBOOK.parent / link).is_file() for link in links)


def test_it_runs_and_writes_only_below_build(ran):
    told, notebook, folder = ran
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    assert {path.name for path in folder.iterdir()} == {"build", "ipython"}
    assert [Path(path).name for path in told["verilog"]] == ["accelerator.v", "memories.v"]
    assert all(Path(path).is_relative_to(folder) and "module" in Path(path).read_text() for path in told["verilog"])


def test_its_model_predicts_designs_that_no_fit_saw(ran):
    validation = ran[0]["validation"]
    assert load_plan("quick").held_out
    for quantity in ("cycles", "fmax", "leakage", "area", "energy per core cycle"):
        assert 0 < validation[f"held-out designs: {quantity}"] < 0.1, quantity


def test_parts_of_the_energy_add_up_and_the_memory_does_not_scale(ran):
    told = ran[0]
    assert told["split_j"] == pytest.approx([p * t for p, t in zip(told["power_w"], told["latency_s"], strict=True)], rel=1e-6)
    core_j = [whole - dram for whole, dram in zip(told["split_j"], told["dram_j"], strict=True)]
    assert core_j[0] < 0.5 * core_j[-1] and told["dram_j"][0] >= told["dram_j"][-1]
    assert told["effectiveness"][0] > 0


def test_its_schedule_is_the_cheapest_of_all_single_points_and_keeps_the_deadline(ran):
    """Costs worked out with plain loops from the table of layers and operating points."""
    told = ran[0]
    time_s, energy_j, deadline_s, idle_w = (told[name] for name in ("time_s", "energy_j", "deadline_s", "idle_w"))
    change_s, change_j = told["change"]

    def period_j(points):
        changes = sum(a != b for a, b in zip(points, points[1:], strict=False))
        spent_s = sum(row[p] for row, p in zip(time_s, points, strict=True)) + changes * change_s
        spent_j = sum(row[p] for row, p in zip(energy_j, points, strict=True)) + changes * change_j
        return spent_j + idle_w * (deadline_s - spent_s) if spent_s <= deadline_s else float("inf")

    found = told["strategies"]
    single = [period_j([p] * len(time_s)) for p in range(len(time_s[0]))]
    assert found["best single point"]["period_j"] == pytest.approx(min(single), rel=1e-9)
    best = found["schedule"]
    assert best["period_j"] == pytest.approx(period_j(best["points"]), rel=1e-9) and best["time_s"] <= deadline_s
    assert best["period_j"] < min(single) and len(set(best["points"])) <= 4
    # No change of one layer, or of two neighbours to the same point, makes it cheaper.
    for i in range(len(time_s)):
        for p in range(len(time_s[0])):
            for end in (i + 1, i + 2):
                other = [p if i <= k < end else q for k, q in enumerate(best["points"])]
                assert len(set(other)) > 4 or period_j(other) >= best["period_j"] * (1 - 1e-9)
