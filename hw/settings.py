"""Frozen, validated values, and how they are read from YAML.

Every value that enters the project from a file is a subclass of `Settings`: unknown keys are
refused, nothing is coerced silently, and an error names file, key, value and rule in one line.
"""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from hw.errors import ConfigError


class Settings(BaseModel):
    """Base of every validated value: frozen, keyword-only, no unknown keys, no coercion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


def shown(value: object) -> str:
    """`value` as it stands in a message: one that is long is cut."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def _first_line(error: ValidationError, where: str) -> str:
    """One line for the first problem pydantic found, plus how many more there are."""
    problems = error.errors(include_url=False)
    # A misspelled key makes two problems, of which the misspelling is the cause.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part)[:80] for part in first["loc"]) or "(whole file)"
    if first["type"] == "extra_forbidden":
        text = f"{key} must be a known key, not {shown(first['input'])} ({where}); remove it or correct its spelling"
    elif first["type"] == "missing":
        text = f"{key} must be given ({where}); add it"
    else:
        rule = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("Assertion failed, ")
        value = first["input"]
        given = f", not {shown(value)}" if not isinstance(value, dict) else ""
        text = f"{key} must be {rule}{given} ({where})"
    more = f"; {len(problems) - 1} more problem(s) in this file" if len(problems) > 1 else ""
    return " ".join((text + more).split())


def parse(kind: type[S], data: object, where: str) -> S:
    """`data` (plain values) as a `kind`; raises `ConfigError` naming `where` and the key."""
    if not isinstance(data, dict):
        raise ConfigError(f"content must be a mapping of keys to values, not {type(data).__name__} ({where})")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_first_line(error, where)) from None


def read_yaml(path: Path | str) -> object:
    """The plain values in a YAML file; raises `ConfigError` if it is absent or not YAML."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"file must be readable YAML, not {path} ({reason})") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"file must be valid YAML ({path}{line}): {getattr(error, 'problem', error)}") from None
    except (ValueError, OverflowError, RecursionError) as error:  # a date, a number or a nesting that Python has no value for
        raise ConfigError(f"file must be valid YAML ({path}): {shown(str(error))}") from None


def load(kind: type[S], path: Path | str) -> S:
    """A `kind` read from the YAML file at `path`."""
    return parse(kind, read_yaml(path), str(path))


def load_named(kind: type[S], what: str, folder: Path, name_or_path: str | Path) -> S:
    """A `kind` from the YAML file of that name in `folder`, or at that path; raises `ConfigError` listing the names of `what` there are."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = folder / f"{name_or_path}.yaml"
        if not path.exists():
            known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
            raise ConfigError(f"{what} must be one of {known}, or a path ending in .yaml, not {str(name_or_path)!r}; give one of these")
    return load(kind, path)
