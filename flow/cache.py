"""Steps whose results are kept by content: the same inputs are never computed twice.

A step is a function `f(folder, **arguments) -> value` that writes its files into `folder` and
returns a value whose paths lie in it. Its key is made of the step's name and version, the versions
of the tools it runs, the source of its module, its arguments field by field and the contents of
every file among them; where a file lies does not matter.

    @step(version=1, tools=("sta",))
    def time_corner(folder: Path, *, netlist: Path, period_s: float) -> Timing: ...

    timing = run_step(time_corner, netlist=path, period_s=1e-9)

The step works in a folder of its own beside the destination, which is renamed when complete. So a
kill at any moment loses only the step that was running, two runs side by side do not collide, and
an entry is either absent or whole. What is read back is compared with the hashes stored with it.
"""

import dataclasses
import hashlib
import inspect
import json
import math
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, TypeAdapter

from flow.tools import tool_version
from hw.errors import ConfigError, ToolError

DEFAULT_CACHE = Path("build/cache")

F = TypeVar("F", bound=Callable)

_DECLARATION = "step_declaration"
"""The attribute of a step's function that holds its declaration."""
_VALUE = "value.json"
_MANIFEST = "manifest.json"
_FILE = "$file"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Declaration:
    name: str
    version: int
    tools: tuple[str, ...]
    modules: tuple[ModuleType, ...]
    result: TypeAdapter


def step(*, version: int, tools: Sequence[str] = (), modules: Sequence[ModuleType] = ()) -> Callable[[F], F]:
    """Declare a function as a cached step.

    `version` is raised when results change for a reason the key does not see. `tools` are the external
    tools it runs. `modules` are the modules, besides its own, whose source decides its result. The
    function's return annotation says how its value is read back: a frozen dataclass, a `Settings`, or plain values.
    """

    def declare(function: F) -> F:
        declaration = _Declaration(
            name=f"{function.__module__.removeprefix('flow.')}.{function.__name__}",
            version=version,
            tools=tuple(tools),
            modules=(sys.modules[function.__module__], *modules),
            result=TypeAdapter(get_type_hints(function)["return"]),
        )
        setattr(function, _DECLARATION, declaration)
        return function

    return declare


def run_step(function: Callable, *, cache: Path = DEFAULT_CACHE, **arguments: Any) -> Any:
    """The value of step `function` for `arguments`: from the cache folder `cache` if it is there, else computed and kept.

    Raises `ConfigError` for a missing input file, `TypeError` for an argument of a type that has no
    stable content, and whatever the step raises. A `ToolError` leaves the step's folder for inspection.
    """
    declaration: _Declaration = getattr(function, _DECLARATION)
    shelf = Path(cache).absolute() / declaration.name
    entry = shelf / step_key(function, **arguments)
    if entry.exists():
        try:
            return _read_entry(entry, declaration)
        except _CorruptEntry:
            _discard(entry)
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(shelf, entry.name)
        work = Path(tempfile.mkdtemp(prefix=_work_prefix(entry.name), dir=shelf))
    except OSError as error:
        raise ConfigError(f"cache folder must be writable, not {shelf} ({error.strerror}); choose another or free it") from None
    try:
        _write_entry(work, function(work, **arguments), declaration)
    except ToolError:
        raise
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise ToolError(f"{declaration.name}: its files must be writable in {shelf}, not fail with {error}") from error
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    try:
        work.rename(entry)
    except OSError:
        # Another run finished the same step first; both computed the same thing.
        shutil.rmtree(work, ignore_errors=True)
    try:
        return _read_entry(entry, declaration)
    except _CorruptEntry as error:
        raise ToolError(f"{declaration.name}: its entry must be readable once stored, not broken ({entry}: {error}); check the disk") from None


def step_key(function: Callable, **arguments: Any) -> str:
    """The content hash that names a step's entry, 64 hexadecimal digits."""
    declaration: _Declaration = getattr(function, _DECLARATION)
    content = {
        "step": [declaration.name, declaration.version],
        "tools": {name: tool_version(name) for name in declaration.tools},
        "sources": [hashlib.sha256(inspect.getsource(module).encode()).hexdigest() for module in declaration.modules],
        "arguments": {name: _content(value, name) for name, value in arguments.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _content(value: Any, where: str) -> Any:
    """`value` as plain JSON that tells apart any two values a step could tell apart."""
    if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        made: Any = type(value)
        names = made.model_fields if isinstance(value, BaseModel) else [field.name for field in dataclasses.fields(value)]
        if dataclasses.is_dataclass(value) and not made.__dataclass_params__.frozen:
            raise TypeError(f"{where} must be a frozen dataclass, not {type(value).__qualname__}")
        fields = {name: _content(getattr(value, name), f"{where}.{name}") for name in names}
        return [f"{type(value).__module__}.{type(value).__qualname__}", fields]
    # Exact types: a bool is not an int here, and a numpy scalar or an Enum is neither.
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return [kind.__name__, value]
    if kind is float:
        if not math.isfinite(value):
            raise TypeError(f"{where} must be a finite number, not {value}")
        return ["float", value.hex()]
    if kind is tuple:
        return ["tuple", [_content(item, f"{where}[{index}]") for index, item in enumerate(value)]]
    if kind is dict:
        return ["dict", sorted(([_content(key, where), _content(item, f"{where}[{key!r}]")] for key, item in value.items()), key=json.dumps)]
    if isinstance(value, Path):
        return ["file", file_hash(value)]
    raise TypeError(f"{where} must be of a type with stable content (frozen dataclass, Settings, str, int, float, bool, None, tuple, dict, Path), not {kind}")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content; raises `ConfigError` if it cannot be read."""
    try:
        stat = path.stat()
        return _file_hash(str(path.absolute()), stat.st_mtime_ns, stat.st_size, stat.st_ino)
    except OSError as error:
        raise ConfigError(f"input file must be readable, not {path} ({error.strerror})") from None


@lru_cache(maxsize=4096)
def _file_hash(path: str, _mtime_ns: int, _size: int, _inode: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _CorruptEntry(Exception):
    """An entry that is not what was stored."""


def _write_entry(work: Path, value: Any, declaration: _Declaration) -> None:
    """Store the value and the hashes of all files, the value's own included."""
    encoded = _encode(value, work)
    try:
        text = json.dumps(encoded, sort_keys=True, allow_nan=False)
        _restore(text, work, declaration)
    except ValueError as error:
        raise TypeError(f"the value of step {declaration.name} must match its return annotation and be finite ({error})") from error
    (work / _VALUE).write_text(text, encoding="utf-8")
    hashes = {str(path.relative_to(work)): _digest(path) for path in sorted(work.rglob("*")) if path.is_file()}
    (work / _MANIFEST).write_text(json.dumps(hashes, sort_keys=True), encoding="utf-8")


def _read_entry(entry: Path, declaration: _Declaration) -> Any:
    try:
        for name, digest in json.loads((entry / _MANIFEST).read_text(encoding="utf-8")).items():
            if _digest(entry / name) != digest:
                raise _CorruptEntry(name)
        return _restore((entry / _VALUE).read_text(encoding="utf-8"), entry, declaration)
    except (OSError, ValueError, AttributeError) as error:
        raise _CorruptEntry(str(error)) from None


def _restore(text: str, folder: Path, declaration: _Declaration) -> Any:
    """The value stored as `text`, its files lying in `folder`; raises `ValueError` if it does not match the annotation."""
    # Read as JSON, where a list is a tuple and a string a path even for strict types.
    return declaration.result.validate_json(json.dumps(_decode(json.loads(text), folder)))


def _digest(path: Path) -> str:
    # Never memoized: the point is to see what is on the disk now.
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _encode(value: Any, work: Path) -> Any:
    """`value` as JSON, paths relative to the step's folder."""
    if isinstance(value, Path):
        path = value if value.is_absolute() else work / value
        if not path.is_relative_to(work) or not path.is_file():
            raise TypeError(f"a step's file must lie in its folder, not {value}")
        return {_FILE: str(path.relative_to(work))}
    if isinstance(value, BaseModel):
        return {name: _encode(getattr(value, name), work) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _encode(getattr(value, field.name), work) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a step's mapping must have strings as keys")
        return {key: _encode(item, work) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_encode(item, work) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a step's value must be made of plain values, not {type(value)}")


def _decode(value: Any, entry: Path) -> Any:
    if isinstance(value, dict):
        if set(value) == {_FILE}:
            return str(entry / value[_FILE])
        return {key: _decode(item, entry) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item, entry) for item in value]
    return value


def _discard(entry: Path) -> None:
    """Move an entry out of the way in one move, then delete it, so that nobody sees half of it."""
    trash = Path(tempfile.mkdtemp(prefix=_work_prefix(entry.name), dir=entry.parent))
    try:
        entry.rename(trash / "discarded")
    except FileNotFoundError:
        pass  # another run discarded it first
    shutil.rmtree(trash, ignore_errors=True)


def _work_prefix(key: str) -> str:
    return f".{key[:16]}-{socket.gethostname()}-{os.getpid()}-"


def _remove_leftovers(shelf: Path, key: str) -> None:
    """Delete the working folders that processes of this machine, now gone, left for this key."""
    ours = f".{key[:16]}-{socket.gethostname()}-"
    for folder in shelf.glob(f"{ours}*"):
        pid = folder.name.removeprefix(ours).split("-")[0]
        if pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True

