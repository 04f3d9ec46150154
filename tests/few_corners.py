"""The technology that ships with only a few of its corners, for runs of the whole flow in which one more corner would show nothing new."""

import sys
from pathlib import Path

import yaml

import flow

SHIPPED = Path(flow.__file__).parent / "tech" / "fdsoi28p"


def write_few_corners(path: Path, supplies_v: tuple[float, ...] = (0.6, 1.0)) -> None:
    """Write a technology file like fdsoi28p's, with its typical corners at 25 C without back bias at these supplies."""
    few = yaml.safe_load((SHIPPED / "technology.yaml").read_text())
    corners = [
        corner for corner in few["corners"]
        if corner["vdd_v"] in supplies_v and (corner["process"], corner["temperature_c"], corner["back_bias_v"]) == ("tt", 25.0, 0.0)
    ]  # fmt: skip
    assert len(corners) == len(supplies_v), corners
    for corner in corners:
        corner["liberty"] = [str(SHIPPED / name) for name in corner["liberty"]]
    few |= {"sram": str(SHIPPED / few["sram"]), "interpolate": False, "corners": corners}
    path.write_text(yaml.safe_dump(few))


if __name__ == "__main__":
    write_few_corners(Path(sys.argv[1]))
