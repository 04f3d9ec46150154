"""Which external tools are there, and how to get those that are not."""

from dataclasses import dataclass
from pathlib import Path

from flow.tools import TOOLS, find_tool, tool_version
from hw.errors import ToolError


@dataclass(frozen=True, kw_only=True)
class ToolRow:
    """One tool. `path` is None if it is missing; `version` is None if it is missing or does not say."""

    name: str
    path: Path | None
    version: str | None
    needed_for: str
    install: str

    @property
    def missing(self) -> bool:
        """True if the tool is absent or cannot even print its version."""
        return self.path is None or self.version is None


def examine_tools() -> tuple[ToolRow, ...]:
    """A row for each tool the project runs, in a fixed order; raises nothing."""
    rows = []
    for tool in TOOLS.values():
        path = version = None
        try:
            path = find_tool(tool.name)
            version = tool_version(tool.name)
        except ToolError:
            pass
        rows.append(ToolRow(name=tool.name, path=path, version=version, needed_for=tool.needed_for, install=tool.install))
    return tuple(rows)
