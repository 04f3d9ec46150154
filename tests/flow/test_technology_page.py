"""The page that holds the library against published silicon: verdicts, and that it shows what the library is now."""

import math

import pytest

from flow.sram import load_sram_technology
from flow.tech import load_technology
from flow.validation import PAGE, TECH_DIR, _row, frequency_law, library_rows, sram_rows


def test_a_figure_outside_the_published_range_is_shown_as_a_miss():
    assert _row("x", 10, 30, 1.9, "s") == "| x | 10 to 30 | 1.9 | 0.19 | miss | s |"
    assert _row("x", 10, 30, 12, "s") == "| x | 10 to 30 | 12 | 1.00 | met | s |"
    assert "within 10 %" in _row("x", 2.0, 2.0, 2.15, "s") and "miss" in _row("x", 2.0, 2.0, 2.3, "s")


def test_the_frequency_law_is_square_above_and_exponential_below_the_threshold():
    slope = 2 * 1.2 * 0.0257
    assert frequency_law(1.3, 0.3) == pytest.approx((1.0 / slope) ** 2 / 1.3, rel=1e-3)
    assert frequency_law(0.3 - 0.4, 0.3) == pytest.approx(math.exp(-0.8 / slope) / -0.1, rel=1e-2)


def test_the_page_is_current():
    """All rows that need no simulation; `make technology` writes the page anew."""
    technology = load_technology("fdsoi28p")
    text = PAGE.read_text()
    rows = [*library_rows(technology), *sram_rows(technology, load_sram_technology(TECH_DIR / "sram.yaml"))]
    assert len(rows) >= 16 and "PREDICTIVE".lower() in text.lower()
    for row in rows:
        assert row in text
    for corner in technology.known_corners:
        assert f"| {corner.process} | {corner.temperature_c:g} | {corner.back_bias_v:+g} | {corner.vdd_v:g} |" in text
