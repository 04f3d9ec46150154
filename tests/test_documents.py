"""Every command in the documents exists with all its options, and the quick ones are run; links lead somewhere; Python snippets run.

What counts as a command: in blocks (fenced or indented) each line that starts with a program below, in the text what stands in backquotes and starts with
one. A bare `voltfront fit` in the text names a command; whatever has options or arguments, or stands in a block, must be run here or be in NOT_RUN.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from explore import cli
from hw.tools import BUILD_DIR

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")))
PROGRAMS = ("voltfront", "make", "python", "pip", "export", ".ci/run")

NOT_RUN = {
    r"make (run|test|study|verify|cells|validate|characterize-full|bench-flow|check-tables|tables|torture|lint|setup)": "minutes to hours, or CI itself",
    r"make rtl .*": "calls `voltfront rtl` with these, as its recipe says, which is checked",
    r"voltfront (characterize|placement) .*": "synthesis and placement of whole designs, minutes",
    r"voltfront simulate --design small --layers conv3": "tests/hw/test_cli.py runs it",
    r"voltfront simulate .* --whole .*": "whole networks on a large design, minutes",
    r"voltfront technology my.yaml|export PDK_ROOT=.*": "tests/flow/test_own_pdk.py follows the page, where an open PDK is at hand",
    r"voltfront fit --technology my130 .*": "fits what the command before it measured",
    r"voltfront explore --space small": "minutes on the real model; the tutorial explores a space of its own",
    r"python -m (benchmarks|flow|hw.verify|fit)\..*|python benchmarks/.*": "campaigns, minutes to hours",
    r"voltfront verify .*": "minutes to hours; tests/explore/test_verification.py runs it on a small design",
    r"python tests/(robustness|torture)\.py .*": "campaigns, minutes to hours",
    r"python -m pytest .*": "the tests themselves",
    r"python -m explore.reference": "writes into docs; tests/test_rooms.py compares what it would write",
}
"""Commands (whole, as a pattern) that are only checked to exist with their options, and why."""


@dataclass(frozen=True, kw_only=True)
class Command:
    text: str
    document: str
    in_block: bool

    @property
    def reason_not_run(self) -> str | None:
        """Why it is only checked; None if it is to be run."""
        reasons = NOT_RUN if ALL else NOT_RUN | SLOW
        return next((reason for pattern, reason in reasons.items() if re.fullmatch(pattern, self.text)), None)

    @property
    def names_only(self) -> bool:
        """A command's name in the text, without anything to run."""
        return not self.in_block and (len(self.text.split()) <= 2 or self.document in GENERATED)


SLOW = {
    r"voltfront (tables|fit)": "a minute; a made-up model takes their place",
    r"voltfront report": "tests/explore/test_report.py writes it",
    r"voltfront simulate --design best.yaml .*": "builds a simulator of one more design",
}
"""Commands that only `make test-documents` runs, and why; it also compares what is printed with the page, to the letter."""
ALL = bool(os.environ.get("VOLTFRONT_ALL_DOCUMENTS"))

GENERATED = ("docs/formats.md", "docs/commands.md")
"""Documents that the code writes: their commands come from the help."""
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$|((?:^    \S.*\n)+)", re.DOTALL | re.MULTILINE)


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced or indented block; the language of an indented one is empty."""
    return [(found[1] or "", found[2] if found[2] is not None else re.sub("^    ", "", found[3], flags=re.MULTILINE)) for found in BLOCK.finditer(text)]


def without_comment(line: str) -> str:
    return re.sub(r"\s+#\s.*", "", line).strip()


def commands_of(document: str) -> list[Command]:
    """All commands of a document in their order, those of its text after those of its blocks."""
    text, found = (ROOT / document).read_text(encoding="utf-8"), []
    for language, content in blocks(text):
        for line in content.replace("\\\n", " ").splitlines():
            line = without_comment(line)
            if line.split(" ")[0] in PROGRAMS and language in ("", "sh"):
                found.append(Command(text=" ".join(line.split()), document=document, in_block=True))
            else:
                assert language != "sh" or not line, f"{document}: a line of a shell block must start with one of {', '.join(PROGRAMS)}, not {line!r}"
    for inline in re.findall(r"`([^`\n]+)`", BLOCK.sub("", text)):
        if inline.split(" ")[0] in PROGRAMS:
            found.append(Command(text=inline, document=document, in_block=False))
    return found


@cache
def makefile() -> str:
    return (ROOT / "Makefile").read_text()


def check(text: str, *, whole: bool = True) -> None:
    """Raise AssertionError unless the command exists with all its options (and `whole`: nothing is missing)."""
    program, *words = shlex.split(text)
    if program == "voltfront":
        check_voltfront(words, whole, text)
    elif program == "make":
        variables = [word.split("=")[0] for word in words if "=" in word]
        missing = [name for name in variables if f"$({name})" not in makefile()]
        assert not missing, f"the Makefile must use {', '.join(missing)} ({text})"
        run = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, f"{text}: {run.stderr}"
        for line in run.stdout.splitlines():  # what the target would call
            if called := re.fullmatch(r"\.venv/bin/(voltfront .*|python .*)", line.strip()):
                check(called[1])
    elif program == "python":
        check_python(words, text)
    elif program == "export":
        assert re.fullmatch(r"[A-Z_]+=\S+", words[0]), text
    else:
        assert program in PROGRAMS and (program == "pip" or (ROOT / program).is_file()), text


def check_voltfront(words: list[str], whole: bool, text: str) -> None:
    if not words or words[0].startswith("-"):
        return check_click(cli.cli, words, whole, text)
    found = cli.cli.get_command(None, words[0])
    assert found is not None, f"command must be one of {', '.join(cli.cli.list_commands(None))}, not {words[0]!r} ({text})"
    check_click(found, words[1:], whole, text)


def check_click(command: click.Command, words: list[str], whole: bool, text: str) -> None:
    """Parse the arguments as the command would, without calling it."""
    try:
        command.make_context(command.name, list(words))
    except click.exceptions.Exit:
        pass  # --help, --version
    except click.MissingParameter as error:
        assert not whole, f"{text}: {error.format_message()}"
    except click.UsageError as error:
        raise AssertionError(f"{text}: {error.format_message()}") from None


def check_python(words: list[str], text: str) -> None:
    """The module or file exists, with the options given in its source."""
    if words[:2] == ["-m", "pytest"]:
        missing = [word for word in words[2:] if word.startswith("tests/") and not (ROOT / word).exists()]
        assert not missing, f"tests must exist: {', '.join(missing)} ({text})"
        return
    if words[:2] == ["-m", "ruff"] or words[:2] == ["-m", "mypy"]:
        return
    if words[0] == "-m":
        spec = find_spec(words[1])
        assert spec is not None and spec.origin, f"module {words[1]} must exist ({text})"
        source, rest = Path(spec.origin), words[2:]
    else:
        source, rest = ROOT / words[0], words[1:]
    assert source.is_file(), f"{words[0]} must exist ({text})"
    for option in (word.split("=")[0] for word in rest if word.startswith("-")):
        assert f'"{option}"' in source.read_text(), f"{source.name} must take {option} ({text})"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    """A folder with the commands on `bin`, the caches of this tree, and the files that documents speak of without making them."""
    folder = tmp_path_factory.mktemp("documents")
    for name, call in (("voltfront", "-m explore.cli"), ("python", "")):
        script = folder / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
        script.chmod(0o755)
    for cached in ("cache", "sim"):
        (BUILD_DIR / cached).mkdir(parents=True, exist_ok=True)
        (folder / "build").mkdir(exist_ok=True)
        (folder / "build" / cached).symlink_to(BUILD_DIR / cached)
    return folder


def run(text: str, folder: Path) -> str:
    """Run a line of shell as a user would in `folder`; returns what it printed."""
    environment = os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-euc", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{text}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("voltfront rtl --desing small", "--desing"), ("voltfront rlt", "rlt"), ("voltfront explore --batch", "--batch"), ("voltfront schedule", "--design"),
        ("make nothing", "nothing"), ("make rtl CONFG=a.yaml", "CONFG"), ("python -m flow.nothing", "flow.nothing"),
        ("python tests/torture.py --counts 3", "--counts"), ("python -m pytest tests/hw/test_nothing.py", "test_nothing"),
        ("voltfront simulate --core-hz fast", "fast"), (".ci/nothing", "nothing"),
    ],
)  # fmt: skip
def test_a_command_that_does_not_exist_is_found(text, problem):
    with pytest.raises(AssertionError, match=problem):
        check(text)


def test_commands_are_found_where_documents_have_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Use `voltfront fit` or\n\n    make run   # all of it\n\n```sh\nvoltfront rtl \\\n  --design small\n```\n\n```\na diagram\n```\n")
    assert [(c.text, c.in_block) for c in commands_of(str(page))] == [("make run", True), ("voltfront rtl --design small", True), ("voltfront fit", False)]
    page.write_text("```sh\nrm -rf build\n```\n")
    with pytest.raises(AssertionError, match="rm -rf"):
        commands_of(str(page))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_of_documents_exist_with_all_their_options(document):
    for command in commands_of(document):
        check(command.text, whole=not command.names_only)


def test_reasons_not_to_run_a_command_are_all_in_use():
    texts = [command.text for document in DOCUMENTS for command in commands_of(document)]
    for pattern in NOT_RUN | SLOW:
        assert any(re.fullmatch(pattern, text) for text in texts), f"no document has {pattern}; take it out of NOT_RUN"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_of_documents_lead_to_files(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert target.startswith("https://") or (ROOT / document).parent.joinpath(target).exists(), f"{document} links to {target}, which is not there"


def write_made_up_model(folder: Path) -> None:
    """A fitted model under the name of the technology that commands take by default."""
    sys.path[:0] = [str(ROOT / "tests" / "explore")]
    from made_up import model

    from fit.model import write_model

    (folder / "build" / "models").mkdir(parents=True, exist_ok=True)
    write_model(model().model_copy(update={"technology": "fdsoi28p"}), folder / "build" / "models" / "fdsoi28p.json")


def files_of(document: str) -> dict[str, str]:
    """The files that a page tells its reader to write, by name: "into `name`", then a block."""
    return dict(re.findall(r"into `([\w.]+)`[^`]*```yaml\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL))


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if document not in GENERATED])
def test_commands_and_snippets_of_documents_run(document, scratch):
    """In their order, in one folder. What is printed is on the page if it does not depend on the made-up model."""
    text = (ROOT / document).read_text(encoding="utf-8")
    texts = [c.text for c in commands_of(document) if not c.in_block and not c.names_only and c.reason_not_run is None]
    parts = [part for part in blocks(text) if part[0] in ("", "sh", "python", "text")] + [("sh", line) for line in dict.fromkeys(texts)]
    if document in ("docs/model.md", "docs/tutorial.md", "docs/api.md"):
        if not ALL:
            write_made_up_model(scratch)
        elif not (scratch / "build" / "models").exists():
            run("voltfront tables", scratch)
            run("voltfront fit", scratch)
    for name, content in files_of(document).items():
        (scratch / name).write_text(content)
    printed = ""
    for language, content in parts:
        if language == "python":
            printed = run(f"python - <<'PYTHON'\n{content}PYTHON", scratch)
        elif language == "text":
            if printed and (ALL or "model on small" in content):
                assert content in printed, f"{document} must show what is printed:\n{printed}"
        else:
            lines = [" ".join(without_comment(line).split()) for line in content.replace("\\\n", " ").splitlines()]
            wanted = [Command(text=line, document=document, in_block=True) for line in lines if line.split(" ")[0] in PROGRAMS]
            printed = "".join(run(command.text, scratch) for command in wanted if command.reason_not_run is None)
