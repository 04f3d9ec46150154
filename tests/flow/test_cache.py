"""The step cache: what makes a key, what survives a kill, and what is rebuilt."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow.cache import run_step, step, step_key
from hw.errors import ConfigError, ToolError
from hw.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str
    effort: int = 1


class Choice(Settings):
    names: tuple[str, ...]
    file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    text: Path
    lines: tuple[int, ...]
    choice: Choice


@pytest.fixture
def calls():
    _CALLS.clear()
    return _CALLS


_CALLS: list[str] = []


@step(version=1)
def count_lines(folder: Path, *, source: Path, recipe: Recipe) -> Report:
    _CALLS.append(recipe.name)
    text = folder / "text"
    text.write_text(source.read_text() * recipe.effort)
    return Report(text=text, lines=tuple(len(line) for line in text.read_text().splitlines()), choice=Choice(names=(recipe.name,), file=text))


@step(version=1)
def fail(folder: Path, *, kind: str) -> int:
    (folder / "half").write_text("half")
    raise {"tool": ToolError("it broke"), "other": RuntimeError("it broke"), "disk": OSError(28, "No space left on device")}[kind]


@step(version=1)
def anything(folder: Path, *, value) -> int:
    return 0


def folders(cache: Path) -> list[str]:
    return sorted(path.name for shelf in cache.iterdir() for path in shelf.iterdir())


def test_a_second_run_reads_what_the_first_computed(tmp_path, calls):
    source = tmp_path / "source"
    source.write_text("one\nthree\n")
    first = run_step(count_lines, cache=tmp_path / "cache", source=source, recipe=Recipe(name="a", effort=2))
    second = run_step(count_lines, cache=tmp_path / "cache", source=source, recipe=Recipe(name="a", effort=2))
    assert calls == ["a"]
    assert first == second
    assert first.lines == (3, 5, 3, 5) and first.choice.names == ("a",)
    assert first.text == first.choice.file and first.text.read_text() == "one\nthree\none\nthree\n"


def test_a_file_counts_by_content_not_by_place(tmp_path, calls):
    here, there = tmp_path / "here", tmp_path / "there"
    here.write_text("x\n")
    there.write_text("x\n")
    run_step(count_lines, cache=tmp_path / "cache", source=here, recipe=Recipe(name="a"))
    run_step(count_lines, cache=tmp_path / "cache", source=there, recipe=Recipe(name="a"))
    assert calls == ["a"]
    there.write_text("y\n")
    run_step(count_lines, cache=tmp_path / "cache", source=there, recipe=Recipe(name="a"))
    assert calls == ["a", "a"]


def test_a_changed_field_version_or_tool_is_another_key(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_text("x")
    recipe = Recipe(name="a")
    key = step_key(count_lines, source=source, recipe=recipe)
    assert key != step_key(count_lines, source=source, recipe=replace(recipe, effort=2))
    declaration = count_lines.step_declaration
    with monkeypatch.context() as patch:
        patch.setattr(count_lines, "step_declaration", replace(declaration, version=2))
        assert key != step_key(count_lines, source=source, recipe=recipe)
    monkeypatch.setattr(count_lines, "step_declaration", replace(declaration, tools=("sta",)))
    keys = set()
    for version in ("1", "2"):
        monkeypatch.setattr("flow.cache.tool_version", lambda name, version=version: version)
        keys.add(step_key(count_lines, source=source, recipe=recipe))
    assert len(keys | {key}) == 3


def test_a_changed_source_of_the_step_is_another_key(tmp_path, monkeypatch):
    module = tmp_path / "some_step.py"
    text = "from pathlib import Path\nfrom flow.cache import step\n@step(version=1)\ndef f(folder: Path) -> int:\n    return {}\n"
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for value in (1, 2222):
        module.write_text(text.format(value))
        sys.modules.pop("some_step", None)
        __import__("importlib").invalidate_caches()
        __import__("linecache").clearcache()
        keys.append(step_key(__import__("some_step").f))
    assert keys[0] != keys[1]


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([-1.0, 0.0, 1.0, 0.1]) | st.sampled_from(["", "1", "None", "a"]),
    lambda inner: st.lists(inner, max_size=2).map(tuple) | st.dictionaries(st.sampled_from(["a", "1"]), inner, max_size=2),
    max_leaves=4,
)


def spelled(value) -> str:
    """An independent spelling of a value that tells types apart; keys of a mapping have no order."""
    if isinstance(value, tuple):
        return f"({''.join(spelled(item) + ';' for item in value)})"
    if isinstance(value, dict):
        return f"{{{''.join(f'{key!r}:{spelled(value[key])};' for key in sorted(value))}}}"
    return f"{type(value).__name__} {value!r}"


@settings(derandomize=True, max_examples=200, deadline=None)
@given(plain, plain)
def test_two_arguments_share_a_key_only_if_equal_in_value_and_type(one, other):
    same_key = step_key(anything, value=one) == step_key(anything, value=other)
    assert same_key == (spelled(one) == spelled(other))


@pytest.mark.parametrize("value", [{1, 2}, [1], np.float64(1.0), object(), 1j, float("nan"), Recipe])
def test_an_argument_without_stable_content_is_refused(value):
    with pytest.raises(TypeError, match="value must be"):
        step_key(anything, value=value)


def test_a_missing_input_file_is_the_users_error(tmp_path):
    with pytest.raises(ConfigError, match="input file must be readable, not .*absent"):
        run_step(count_lines, cache=tmp_path / "cache", source=tmp_path / "absent", recipe=Recipe(name="a"))


@pytest.mark.parametrize("damage", ["change", "remove", "manifest", "value"])
def test_a_damaged_entry_is_noticed_and_rebuilt(tmp_path, calls, damage):
    source = tmp_path / "source"
    source.write_text("one\n")
    arguments = {"cache": tmp_path / "cache", "source": source, "recipe": Recipe(name="a")}
    first = run_step(count_lines, **arguments)
    entry = first.text.parent
    if damage == "change":
        first.text.write_text("two\n")
    elif damage == "remove":
        first.text.unlink()
    elif damage == "manifest":
        (entry / "manifest.json").write_text("{")
    else:
        (entry / "value.json").write_text((entry / "value.json").read_text().replace("3", "4"))
    assert run_step(count_lines, **arguments) == first
    assert calls == ["a", "a"] and first.text.read_text() == "one\n"
    assert folders(tmp_path / "cache") == [entry.name]


def test_a_failed_tool_leaves_its_folder_and_any_other_failure_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        run_step(fail, cache=tmp_path, kind="other")
    with pytest.raises(ToolError, match="must be writable .*No space left"):
        run_step(fail, cache=tmp_path, kind="disk")
    assert folders(tmp_path) == []
    with pytest.raises(ToolError, match="it broke"):
        run_step(fail, cache=tmp_path, kind="tool")
    (left,) = tmp_path.glob("*/.*")
    assert (left / "half").read_text() == "half"


def test_a_value_that_is_not_what_the_step_promises_is_refused(tmp_path):
    @step(version=1)
    def wrong(folder: Path) -> tuple[int, ...]:
        return ("a",)

    @step(version=1)
    def not_finite(folder: Path) -> float:
        return float("nan")

    @step(version=1)
    def elsewhere(folder: Path) -> Path:
        return tmp_path / "elsewhere"

    for function in (wrong, not_finite, elsewhere):
        with pytest.raises(TypeError):
            run_step(function, cache=tmp_path / "cache")
    assert folders(tmp_path / "cache") == []


def test_an_unwritable_cache_folder_is_the_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cache folder must be writable"):
        run_step(anything, cache=tmp_path / "file", value=1)


STEPS = """
    import os, sys, time
    from pathlib import Path
    from flow.cache import run_step, step

    @step(version=1)
    def slow(folder: Path, *, number: int) -> dict[str, int]:
        (folder / "big").write_bytes(b"x" * 100_000)
        print("start", number, flush=True)
        time.sleep(float(os.environ["SLEEP_S"]))
        return {"number": number * number}

    if __name__ == "__main__":
        print(sum(run_step(slow, cache=Path(sys.argv[1]), number=n)["number"] for n in range(1, 4)))
"""


def start(tmp_path: Path, sleep_s: float) -> subprocess.Popen:
    script = tmp_path / "steps.py"
    if not script.exists():
        script.write_text(textwrap.dedent(STEPS))
    environment = {**os.environ, "SLEEP_S": str(sleep_s), "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, script, tmp_path / "cache"], env=environment, stdout=subprocess.PIPE, text=True)


def test_a_kill_loses_only_the_running_step(tmp_path):
    process = start(tmp_path, 0.3)
    for line in process.stdout:
        if line == "start 2\n":
            break
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    names = folders(tmp_path / "cache")
    assert [bool(re.fullmatch("[0-9a-f]{64}", name)) for name in names] == [False, True]
    again = start(tmp_path, 0)
    output = again.communicate(timeout=300)[0].split("\n")
    assert output == ["start 2", "start 3", "14", ""]
    assert all(re.fullmatch("[0-9a-f]{64}", name) for name in folders(tmp_path / "cache"))


def test_two_runs_side_by_side_agree_and_leave_one_entry_each(tmp_path):
    runs = [start(tmp_path, 0.1) for _ in range(2)]
    outputs = [run.communicate(timeout=300)[0].splitlines()[-1] for run in runs]
    assert outputs == ["14", "14"] and [run.returncode for run in runs] == [0, 0]
    assert len(folders(tmp_path / "cache")) == 3
