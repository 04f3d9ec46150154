"""The structure holds: imports go one way, documents agree with the code."""

import ast
from pathlib import Path

import pytest

from explore import reference

ROOT = Path(__file__).parent.parent
ROOMS = ("hw", "flow", "fit", "explore")


def imported_rooms(source: str) -> set[str]:
    """The rooms that a module's source imports from."""
    modules = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.append(node.module)
    return {module.split(".")[0] for module in modules} & set(ROOMS)


def test_import_finder_sees_both_forms():
    assert imported_rooms("import fit.laws\ndef f():\n    from explore import cli\n") == {"fit", "explore"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_to_its_left(room):
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    for path in sorted((ROOT / room).rglob("*.py")):
        assert imported_rooms(path.read_text()) <= allowed, path


def test_only_the_command_line_ends_the_process_or_moves_it():
    """What is called from Python returns or raises: no exit, no other current folder, no changed environment."""
    ending = {("sys", "exit"), ("os", "_exit"), ("os", "chdir"), ("os", "putenv"), ("os", "abort")}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            tree = ast.parse(path.read_text())
            main = next((node for node in tree.body if isinstance(node, ast.If) and "__main__" in ast.dump(node.test)), None)
            allowed = set(ast.walk(main)) if main else set()
            for node in set(ast.walk(tree)) - allowed:
                called = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in ending
                assert not called or path == ROOT / "explore" / "cli.py", f"{path}:{node.lineno}: {node.value.id}.{node.attr}"


def test_generated_pages_are_what_the_code_says():
    assert reference.PAGE.read_text() == reference.page(), "run python -m explore.reference"
    assert reference.COMMANDS_PAGE.read_text() == reference.commands_page(), "run python -m explore.reference"


def test_every_command_has_help_with_an_example():
    from click.testing import CliRunner

    from explore import cli

    assert cli._COMMANDS
    for name in cli._COMMANDS:
        result = CliRunner().invoke(cli.cli, [name, "--help"])
        assert result.exit_code == 0 and f"voltfront {name}" in result.output and "Example" in result.output, (name, result.output)
