"""DRAM parts: what they are, read from YAML with a source for every number.

The parts that ship are the files of ``hw/dram_parts``; the user's own have the same form. A part
gives its energies by the vendor's power-calculation method: what an operation draws above the
standby state it happens in, so that standby power can be charged for the whole time, apart.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hw.errors import ConfigError
from hw.settings import Settings, parse, read_yaml, shown

PARTS_DIR = Path(__file__).with_name("dram_parts")

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]
PerRail = tuple[NotNegative, ...]
PowerState = Literal["active_standby", "precharge_standby", "active_power_down", "power_down", "self_refresh"]


def _power_of_two(value: int, what: str) -> None:
    if value & (value - 1):
        raise ValueError(f"{what} must be a power of two")


class Geometry(Settings):
    """How a part stores data: `data_bits` lines, `banks` x `rows` pages of `page_bytes`, bursts of `burst_length` transfers."""

    data_bits: Count
    banks: Count
    rows: Count
    page_bytes: Count
    burst_length: Count

    @model_validator(mode="after")
    def _check(self) -> "Geometry":
        for name in ("data_bits", "banks", "page_bytes", "burst_length"):
            _power_of_two(getattr(self, name), name)
        return self


class BusTiming(Settings):
    """Clock period, latencies from command to data, column-to-column delay and the gaps when the data bus turns round."""

    tck_s: Positive
    read_latency_cycles: Count
    write_latency_cycles: Count
    tccd_cycles: Count
    twtr_s: NotNegative
    trtw_s: NotNegative


class BankTiming(Settings):
    """Least times between row commands, in the standard's names (tRCD, tRP, tRAS, tRC, tRRD, tFAW, tWR, tRTP)."""

    trcd_s: Positive
    trp_s: Positive
    trp_all_s: Positive
    tras_s: Positive
    trc_s: Positive
    trrd_s: Positive
    tfaw_s: Positive
    twr_s: NotNegative
    trtp_s: NotNegative


class RefreshTiming(Settings):
    """Refresh duration and interval, and the exits from power-down (tXP) and self-refresh (tXSR)."""

    trfc_s: Positive
    trefi_s: Positive
    txp_s: NotNegative
    txsr_s: NotNegative


class Currents(Settings):
    """Supply voltages and the datasheet's IDD currents, one figure per rail."""

    supply_v: tuple[Positive, ...]
    idd0_a: PerRail
    idd2p_a: PerRail
    idd2n_a: PerRail
    idd3p_a: PerRail
    idd3n_a: PerRail
    idd4r_a: PerRail
    idd4w_a: PerRail
    idd5_a: PerRail
    idd6_a: PerRail

    @model_validator(mode="after")
    def _check(self) -> "Currents":
        for name, value in self:
            if len(value) != len(self.supply_v):
                raise ValueError(f"a list with one figure per rail ({len(self.supply_v)}) for every current; {name} has {len(value)}")
        return self


class Interface(Settings):
    """The unterminated data lines between controller and DRAM, and the controller's PHY."""

    vddq_v: Positive
    line_capacitance_f: NotNegative
    transitions_per_bit: Annotated[float, Field(ge=0, le=1)]
    phy_j_per_bit: NotNegative
    phy_static_w: NotNegative


class DramPart(Settings):
    """One DRAM channel: geometry, timing, currents and interface, in SI units, with the source of each number by its key."""

    name: str
    title: str
    provisional: bool
    geometry: Geometry
    bus: BusTiming
    bank: BankTiming
    refresh: RefreshTiming
    currents: Currents
    interface: Interface
    sources: Mapping[str, str]

    @property
    def burst_bytes(self) -> int:
        return self.geometry.data_bits * self.geometry.burst_length // 8

    @property
    def capacity_bytes(self) -> int:
        return self.geometry.banks * self.geometry.rows * self.geometry.page_bytes

    @property
    def burst_s(self) -> float:
        """Time the data bus is taken by one burst (double data rate), or the least column-to-column time if longer."""
        return self.cycles["burst"] * self.bus.tck_s

    @property
    def peak_bandwidth_bytes_per_s(self) -> float:
        return self.burst_bytes / self.burst_s

    @property
    def cycles(self) -> dict[str, int]:
        """Every timing in clock cycles, rounded up as a controller must."""

        def up(seconds: float) -> int:
            return math.ceil(round(seconds / self.bus.tck_s, 6))

        bank, refresh, bus = self.bank, self.refresh, self.bus
        return {
            "burst": max(self.geometry.burst_length // 2, bus.tccd_cycles),
            "read_latency": bus.read_latency_cycles,
            "write_latency": bus.write_latency_cycles,
            "wtr": up(bus.twtr_s),
            "rtw": up(bus.trtw_s),
            "rcd": up(bank.trcd_s),
            "rp": up(bank.trp_s),
            "rp_all": up(bank.trp_all_s),
            "ras": up(bank.tras_s),
            "rc": up(bank.trc_s),
            "rrd": up(bank.trrd_s),
            "faw": up(bank.tfaw_s),
            "wr": up(bank.twr_s),
            "rtp": up(bank.trtp_s),
            "rfc": up(refresh.trfc_s),
            "refi": math.floor(refresh.trefi_s / bus.tck_s),
        }

    @property
    def activate_j(self) -> float:
        """One activate-precharge pair above the standby power it spends: (IDD0 tRC - IDD3N tRAS - IDD2N (tRC - tRAS)) V."""
        trc, tras = self.bank.trc_s, self.bank.tras_s
        return self._rails(lambda c: c["idd0"] * trc - c["idd3n"] * tras - c["idd2n"] * (trc - tras))

    @property
    def read_j_per_bit(self) -> float:
        """Core energy of a bit read, above active standby: (IDD4R - IDD3N) V t_burst / bits."""
        return self._rails(lambda c: c["idd4r"] - c["idd3n"]) * self.burst_s / (8 * self.burst_bytes)

    @property
    def write_j_per_bit(self) -> float:
        """Core energy of a bit written, above active standby: (IDD4W - IDD3N) V t_burst / bits."""
        return self._rails(lambda c: c["idd4w"] - c["idd3n"]) * self.burst_s / (8 * self.burst_bytes)

    @property
    def refresh_j(self) -> float:
        """One all-bank refresh, above precharge standby: (IDD5 - IDD2N) V tRFC."""
        return self._rails(lambda c: c["idd5"] - c["idd2n"]) * self.refresh.trfc_s

    @property
    def refresh_w(self) -> float:
        """Average power of refreshing every tREFI."""
        return self.refresh_j / self.refresh.trefi_s

    @property
    def io_j_per_bit(self) -> float:
        """Charging the unterminated line: transitions per bit x C V^2 / 2."""
        interface = self.interface
        return interface.transitions_per_bit * interface.line_capacitance_f * interface.vddq_v**2 / 2

    def background_w(self, state: PowerState) -> float:
        """Power of the DRAM core while it stays in `state`."""
        current = {"active_standby": "idd3n", "precharge_standby": "idd2n", "active_power_down": "idd3p", "power_down": "idd2p", "self_refresh": "idd6"}[state]
        return self._rails(lambda c: c[current])

    def _rails(self, charge: Callable[[dict[str, float]], float]) -> float:
        """The sum over supply rails of voltage x `charge`, which is given that rail's currents by name."""
        by_name = dict(self.currents)
        total = 0.0
        for rail, supply_v in enumerate(self.currents.supply_v):
            rail_currents = {name.removesuffix("_a"): by_name[name][rail] for name in by_name if name.endswith("_a")}
            total += supply_v * charge(rail_currents)
        return total


# --- parts from YAML --------------------------------------------------------------------------

_SCALES = {"_ns": ("_s", 1e-9), "_us": ("_s", 1e-6), "_ma": ("_a", 1e-3), "_pf": ("_f", 1e-12), "_mw": ("_w", 1e-3), "_pj_per_bit": ("_j_per_bit", 1e-12)}
_GROUPS = ("geometry", "bus", "bank", "refresh", "currents", "interface")
FORMAT_VERSION = 1


def dram_parts() -> tuple[str, ...]:
    """Names of the parts that ship."""
    return tuple(sorted(path.stem for path in PARTS_DIR.glob("*.yaml")))


def load_dram_part(name_or_path: str | Path) -> DramPart:
    """The part of that name, or from the YAML file at that path; `ConfigError` if there is none or a number has no source."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = PARTS_DIR / f"{name_or_path}.yaml"
        if str(name_or_path) not in dram_parts():
            raise ConfigError(f"DRAM part must be one of {', '.join(dram_parts())} or a .yaml file, not {str(name_or_path)!r}")
    return _parse_part(path.stem, read_yaml(path), str(path))


def _parse_part(name: str, data: object, where: str) -> DramPart:
    if not isinstance(data, dict):
        raise ConfigError(f"content must be a mapping of keys to values, not {type(data).__name__} ({where})")
    if data.get("version") != FORMAT_VERSION:
        raise ConfigError(f"version must be {FORMAT_VERSION}, not {data.get('version')!r} ({where})")
    texts = data.get("sources")
    if not isinstance(texts, dict) or not all(isinstance(text, str) and text.strip() for text in texts.values()):
        raise ConfigError(f"sources must be a mapping of keys to texts, not {texts!r} ({where}); say where the numbers come from")
    plain = {key: value for key, value in data.items() if key not in ("version", "sources", *_GROUPS)}
    sources: dict[str, str] = {}
    for group in _GROUPS:
        entries = data.get(group)
        if not isinstance(entries, dict):
            raise ConfigError(f"{group} must be a mapping of keys to [value, source], not {entries!r} ({where}); add it")
        plain[group] = {}
        for key, entry in entries.items():
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str) and entry[1] in texts):
                raise ConfigError(f"{group}.{key} must be [value, source] with a source out of {', '.join(texts)}, not {shown(entry)} ({where})")
            si_key, value = _to_si(str(key), entry[0], f"{group}.{key}", where)
            plain[group][si_key] = value
            sources[f"{group}.{si_key}"] = texts[entry[1]]
    return parse(DramPart, {"name": name, "sources": sources} | plain, where)


def _to_si(key: str, value: object, entry: str, where: str) -> tuple[str, object]:
    """A scaled YAML entry (`_ns`, `_ma`, ...) in SI units; lists become tuples; anything else passes through."""
    suffix = next((suffix for suffix in _SCALES if key.endswith(suffix)), None)
    given = value if isinstance(value, list) else [value]
    numbers = [number for number in given if isinstance(number, int | float) and not isinstance(number, bool)]
    if len(numbers) < len(given):
        raise ConfigError(f"{entry} must be a number or a list of numbers, not {shown(value)} ({where})")
    if suffix is not None:
        si_suffix, scale = _SCALES[suffix]
        key, numbers = key.removesuffix(suffix) + si_suffix, [number * scale for number in numbers]
    elif isinstance(value, list) or key.endswith("_v"):
        numbers = [float(number) for number in numbers]
    return key, tuple(numbers) if isinstance(value, list) else numbers[0]
