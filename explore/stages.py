"""Stages of the whole job, each done again only if what it depends on, or what it wrote, has changed."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from flow.cache import file_hash
from flow.files import write_text_whole

STAMPS = Path("build/stages")
_ROOT = Path(__file__).parent.parent


def run_stage(name: str, inputs: dict, outputs: Sequence[Path], work: Callable[[], object], *, stamps: Path = STAMPS) -> bool:
    """Do `work` unless it was done with the same `inputs` (plain values) and its `outputs` are still what it wrote; return whether it was."""
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    stamp = stamps / f"{name}.json"
    try:
        kept = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = None
    if isinstance(kept, dict) and kept.get("key") == key and kept.get("outputs") == _hashes(outputs):
        return False
    work()
    text = json.dumps({"key": key, "outputs": _hashes(outputs), "inputs": inputs}, indent=1, sort_keys=True) + "\n"
    write_text_whole(stamp, text)
    return True


def _hashes(paths: Sequence[Path]) -> dict[str, str]:
    return {str(path): file_hash(path) if path.is_file() else "absent" for path in paths}


def source_hash(*rooms: str) -> str:
    """SHA-256 over all files of these packages except compiled ones."""
    digest = hashlib.sha256()
    for room in rooms:
        for path in sorted(p for p in (_ROOT / room).rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            digest.update(f"{path.relative_to(_ROOT)} {file_hash(path)}\n".encode())
    return digest.hexdigest()
