"""How `beluna-gateway top` looks."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from beluna_gateway.commands.top_screen import curve, duration, money, number, rate, screen
from beluna_gateway.commands.top_view import BackendRow, LimitRow, View
from tests import top_picture

ROW = BackendRow(
    name="b",
    model="m",
    in_flight=1,
    places=8,
    queued=0,
    breaker="closed",
    program=None,
    tokens_per_second=1.0,
    requests=5,
    failures=0,
    new_failures=0,
    used_tokens=10,
    cost_usd=0.5,
)
VIEW = View("1.2.3", 7, 61.0, None, "", 1, 1, 0, 1.0, (1.0,), 5, 0, 0, 10, 0.5, (ROW,), (), (), (), ())


def lines(shown: View, width: int = 120, height: int | None = None) -> list[str]:
    """What is printed, without colours."""
    console = Console(width=width, file=io.StringIO(), color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(screen(shown, width, height))
    return captured.get().splitlines()


async def test_the_picture_in_the_docs_is_what_is_drawn():
    """docs/top.svg shows what `python -m tests.top_picture` would draw now."""
    shown = await top_picture.drawn()
    texts = ET.fromstring(top_picture.PICTURE.read_text("utf-8")).iter("{http://www.w3.org/2000/svg}text")
    inside = "".join(re.sub(r"\s", "", "".join(text.itertext())) for text in texts)

    assert inside == re.sub(r"\s", "", f"beluna-gateway top{top_picture.plain(shown)}")


@pytest.mark.parametrize("width", [40, 80, 110, 200])
def test_it_fits_the_terminal(width):
    """No line is longer than the terminal is wide, and the names and numbers that matter most are there at 80."""
    shown = replace(VIEW, backends=(replace(ROW, name="a-long-name-of-a-backend", model="x" * 60),) * 3)
    seen = lines(shown, width)

    assert max(map(len, seen)) <= width
    if width >= 80:
        assert any("a-long" in line and "1/8" in line and "closed" in line for line in seen)


@pytest.mark.parametrize("height", [16, 20, 24, 60])
def test_a_short_terminal_shows_what_is_busy(height):
    """Rows that do not fit are counted, and are those with the least going on."""
    rows = tuple(replace(ROW, name=f"name-{n}", in_flight=int(n == 39)) for n in range(40))
    seen = lines(replace(VIEW, backends=rows), 120, height)

    assert len(seen) <= height or height < 18
    assert any("name-39" in line for line in seen)
    assert any("more; a taller window shows them" in line for line in seen) == (height < 60)


def test_a_lost_daemon_is_told_of_first():
    """With how long it has been away, and why."""
    seen = lines(replace(VIEW, lost_for=75.0, why_lost="no daemon answers"))

    assert "no answer for 1 min 15 s" in seen[0]
    assert "no daemon answers; trying again" in seen[1]


def test_names_control_nothing():
    """Control characters and markup in what comes from a configuration are shown, not obeyed."""
    row = replace(ROW, name="[red]\x1b[2J", model="[/]")
    seen = "\n".join(lines(replace(VIEW, backends=(row,), notes=("\x1b]0;x\x07[bold]",))))

    assert r"[red]\x1b[2J" in seen
    assert r"\x1b]0;x\x07[bold]" in seen
    assert "\x1b" not in seen


def test_an_older_daemon_is_shown_without_what_it_does_not_tell():
    """No places, no money."""
    row = replace(ROW, places=None, cost_usd=None, tokens_per_second=None)
    seen = "\n".join(lines(replace(VIEW, backends=(row,), cost_usd=None, tokens_per_second=None)))

    assert "–" in seen
    assert "None" not in seen


def test_programs_and_a_shared_store_have_a_place():
    """Where there are any."""
    seen = "\n".join(lines(replace(VIEW, backends=(replace(ROW, program="starting"),), shared=(("reachable", "no"),))))

    assert "starting" in seen
    assert "shared store  reachable no" in seen
    assert "program" not in "\n".join(lines(VIEW))


@pytest.mark.parametrize("width", [116, 120, 160])
def test_no_number_and_no_title_is_cut_beside_programs(width):
    """The longest name and model are, instead."""
    row = replace(ROW, name="a-long-name-of-a-backend", model="x" * 60, program="running", cost_usd=12.34)
    table = [line for line in lines(replace(VIEW, backends=(row,)), width) if "program" in line or "a-long" in line]

    assert len(table) == 2
    assert table[0].split()[4:] == ["circuit", "program", "tokens/s", "requests", "failed", "tokens", "spent"]
    assert table[1].rstrip().endswith("$12.34")


def test_limits_have_a_place():
    """Money as money, everything else as a number; the height is kept."""
    limits = (LimitRow("a", None, "shared_spend_usd_per_day", 3.25, 20.0), LimitRow("a", "core", "places", 4, 40))
    seen = lines(replace(VIEW, limits=limits, backends=tuple(replace(ROW, name=str(n)) for n in range(40))), height=24)

    assert " a  shared_spend_usd_per_day  $3.25 of $20.00" in seen
    assert " a of core  places  4 of 40" in seen
    assert len(seen) <= 24


def test_the_curve():
    """The largest value is a full block, any other than 0 can be seen, and only the newest are shown."""
    assert curve([0, 1, 80], 10) == " ▁█"
    assert curve([5, 1, 2], 2) == "▄█"
    assert curve([], 5) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (9999, "9999"), (10_000, "10.0k"), (123_456, "123k"), (4_560_000, "4.56M"), (7_890_000_000, "7.89G")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_rates_money_and_times():
    """Each in the unit that is read most easily."""
    assert [rate(None), rate(0.0), rate(0.44), rate(669.4), rate(12_345.0)] == ["–", "0", "0.4", "669", "12.3k"]
    assert [money(None), money(0.0), money(0.01234), money(1234.5)] == ["–", "$0.00", "$0.0123", "$1,234.50"]
    assert [duration(s) for s in (0.9, 59, 185, 8100, 100_000)] == ["0 s", "59 s", "3 min 5 s", "2 h 15 min", "1 d 3 h"]
