"""Simulators of designs, built once for all tests and processes."""

import fcntl
from functools import cache

import pytest

from hw.config import load_design
from hw.emit import emit
from hw.sim.run import build
from hw.tools import BUILD_DIR


@pytest.fixture(scope="session")
def simulator(tmp_path_factory):
    """The simulator of a design by name, built once for all processes that run tests."""

    @cache
    def of(design: str):
        config = load_design(design)
        bundle = emit(config, tmp_path_factory.mktemp("rtl"))
        BUILD_DIR.mkdir(exist_ok=True)
        with open(BUILD_DIR / f".building-{design}", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return build(verilog=bundle.verilog, axi_data_bits=config.memory.axi_data_bits)

    return of
