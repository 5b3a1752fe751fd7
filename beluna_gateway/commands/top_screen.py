"""How `beluna-gateway top` looks: a `View` as a renderable of rich (the extra `top`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..telemetry.terminal import counted, printable
from .top_view import BackendRow, ClientRow, LimitRow, Row, View

NARROW, WIDE = 100, 116
"""With fewer columns the tables leave out requests and tokens; with so many they have models and programs, too."""

_BLOCKS = "▁▂▃▄▅▆▇█"
_BREAKERS = {"closed": ("●", "green"), "half_open": ("◐", "yellow"), "open": ("○", "bold red")}

AnyRow = TypeVar("AnyRow", bound=Row)


def screen(view: View, width: int, height: int | None = None) -> RenderableType:
    """The whole picture.

    Args:
        view: What it shows.
        width: Columns of the terminal.
        height: Its lines; None: as many as it takes.
    """
    lost = view.lost_for is not None
    notes = [_note(text) for text in view.notes]
    limits = _limits(view.limits) if view.limits else []
    # Around the rows: title, tiles (5), two headings with their heads, blank lines, limits and notes.
    around = 13 + len(notes) + bool(view.shared) + (len(limits) + 1 if limits else 0)
    room = None if height is None else max(2, height - around)
    for_clients = 0 if room is None else min(len(view.clients), room // 3)
    backends, hidden_backends = _fit(view.backends, None if room is None else max(1, room - for_clients))
    clients, hidden_clients = _fit(view.clients, None if room is None else max(1, room - len(backends)))
    parts: list[RenderableType] = [
        _title(view),
        _tiles(view, width),
        _heading("backends", hidden_backends),
        _backends(backends, width, dim=lost),
        Text(),
        _heading("clients", hidden_clients),
        _clients(clients, width, dim=lost),
    ]
    if limits:
        parts += [Text(), *limits]
    if view.shared:
        parts += [Text(), _shared(view)]
    if notes:
        parts += [Text(), *notes]
    return Group(*parts)


def _title(view: View) -> RenderableType:
    left = Text.assemble(
        ("beluna-gateway ", "bold cyan"),
        (printable(view.version), "bold"),
        (f"   pid {view.pid} · up {duration(view.uptime)} · {counted(view.connections, 'connection')}", "dim"),
    )
    if view.lost_for is None:
        right = Text("● live", style="green")
    else:
        right = Text(f"● no answer for {duration(view.lost_for)}", style="bold red")
    line = Table.grid(expand=True)
    line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_column(justify="right", no_wrap=True)
    line.add_row(left, right)
    if view.lost_for is None:
        return Padding(line, (0, 1))
    why = Text(f"{printable(view.why_lost)}; trying again", style="red", no_wrap=True, overflow="ellipsis")
    return Padding(Group(line, why), (0, 1))


def _tiles(view: View, width: int) -> RenderableType:
    places = [row.places for row in view.backends if row.places is not None]
    curve_cells = max(8, width - 4 * 16 - 6)
    tiles = Table.grid(expand=True)
    for _ in range(4):
        tiles.add_column(width=16)
    tiles.add_column(ratio=1)
    style = "dim" if view.lost_for is not None else ""
    tiles.add_row(
        _tile("in flight", f"{view.in_flight}", f"of {sum(places)} places" if places else "", f"bold cyan {style}"),
        _tile("waiting", f"{view.queued}", "for a place", f"bold yellow {style}" if view.queued else style),
        _tile(
            "failed",
            f"{view.failures}",
            f"{view.new_failures} just now" if view.new_failures else f"of {number(view.requests)}",
            f"bold red {style}" if view.new_failures else style,
        ),
        _tile("spent", money(view.cost_usd), f"{number(view.used_tokens)} tokens", f"bold {style}"),
        _tile(
            "tokens/s" if width < NARROW else "output tokens/s",
            rate(view.tokens_per_second),
            curve(view.curve, curve_cells),
            f"bold green {style}",
            under="green dim" if style else "green",
        ),
    )
    return tiles


def _tile(title: str, value: str, text: str, style: str, under: str = "dim") -> Panel:
    body = Text(no_wrap=True, overflow="ellipsis")
    body.append(value, style.strip()).append("\n").append(text, under)
    return Panel(body, title=Text(title, "white dim"), title_align="left", border_style="bright_black")


def _heading(text: str, hidden: int) -> Text:
    heading = Text(f" {text}", style="bold")
    if hidden:
        heading.append(f"   and {hidden} more; a taller window shows them", "dim not bold")
    return heading


def _table(columns: Sequence[str], width: int) -> Table:
    """Names are cut so that no number is."""
    table = Table(box=None, expand=True, header_style="dim", padding=(0, 1), pad_edge=True)
    model = width - (108 if "program" in columns else 98)
    longest = {"name": 12 if width < NARROW else 16, "model": max(8, model)}
    for title in columns:
        left = title in ("name", "model", "circuit", "program", "places")
        table.add_column(
            title,
            justify="left" if left else "right",
            no_wrap=True,
            overflow="ellipsis",
            max_width=longest.get(title),
        )
    return table


def _count_columns(width: int) -> tuple[str, ...]:
    return ("tokens/s", "failed", "spent") if width < NARROW else ("tokens/s", "requests", "failed", "tokens", "spent")


def _backends(rows: Sequence[BackendRow], width: int, *, dim: bool) -> RenderableType:
    wide = width >= WIDE
    between = ("model", "places") if wide else ("places",)
    program = ("program",) if wide and any(row.program for row in rows) else ()
    table = _table(("name", *between, "waiting", "circuit", *program, *_count_columns(width)), width)
    for row in rows:
        mark, color = _BREAKERS.get(row.breaker, ("?", "yellow"))
        table.add_row(
            Text(printable(row.name), style="bold"),
            *([Text(printable(row.model), style="dim")] if wide else []),
            _bar(row.in_flight, row.places, 5 if width < NARROW else 10),
            _waiting(row.queued),
            Text(f"{mark} {row.breaker.replace('_', ' ')}", style=color),
            *([Text(row.program or "", style="yellow" if row.program == "waiting" else "dim")] if program else []),
            *_counts(row, width),
            style="dim" if dim else "",
        )
    return table


def _clients(rows: Sequence[ClientRow], width: int, *, dim: bool) -> RenderableType:
    table = _table(("name", "connections", "in flight", "waiting", *_count_columns(width)), width)
    for row in rows:
        table.add_row(
            Text(printable(row.name), style="bold"),
            str(row.connections),
            Text(str(row.in_flight), style="cyan" if row.in_flight else "dim"),
            _waiting(row.queued),
            *_counts(row, width),
            style="dim" if dim else "",
        )
    return table


def _counts(row: Row, width: int) -> list[Text]:
    cells = {
        "tokens/s": Text(rate(row.tokens_per_second), style="green" if row.tokens_per_second else "dim"),
        "requests": Text(number(row.requests)),
        "failed": Text(number(row.failures), style="bold red" if row.new_failures else "" if row.failures else "dim"),
        "tokens": Text(number(row.used_tokens)),
        "spent": Text(money(row.cost_usd), style="" if row.cost_usd else "dim"),
    }
    return [cells[title] for title in _count_columns(width)]


def _waiting(count: int) -> Text:
    return Text(str(count), style="bold yellow" if count else "dim")


def _bar(used: int, places: int | None, cells: int) -> Text:
    if not places:
        return Text(str(used))
    filled = min(cells, -(-used * cells // places))  # one cell at least where anything is in flight
    color = "yellow" if used >= places else "cyan"
    return Text.assemble(
        ("━" * filled, color),
        ("─" * (cells - filled), "bright_black"),
        (f" {used}/{places}", "" if used else "dim"),
    )


def _limits(rows: Sequence[LimitRow]) -> list[Text]:
    lines = [_heading("limits", 0)]
    for row in rows:
        whose = f" of {row.client}" if row.client is not None else ""
        used, limit = (money(n) if "usd" in row.setting else number(round(n)) for n in (row.used, row.limit))
        style = "yellow" if row.used >= row.limit else ""
        line = Text.assemble(
            (f" {printable(row.backend)}{printable(whose)}", "bold"),
            (f"  {printable(row.setting)}  ", "dim"),
            (f"{used} of {limit}", style),
            no_wrap=True,
            overflow="ellipsis",
        )
        lines.append(line)
    return lines


def _shared(view: View) -> Text:
    fields = ", ".join(f"{printable(name)} {printable(value)}" for name, value in view.shared)
    return Text.assemble((" shared store  ", "bold"), (fields, "dim"), no_wrap=True, overflow="ellipsis")


def _note(text: str) -> Text:
    return Text(f" ! {printable(text)}", style="yellow", no_wrap=True, overflow="ellipsis")


def _fit(rows: Sequence[AnyRow], room: int | None) -> tuple[list[AnyRow], int]:
    """As many rows as there is room for, in their order; where not all fit, those with something going on first."""
    if room is None or len(rows) <= room:
        return list(rows), 0
    busiest = sorted(rows, key=lambda row: (row.in_flight + row.queued, row.new_failures, row.requests), reverse=True)
    kept = {row.name for row in busiest[:room]}
    return [row for row in rows if row.name in kept], len(rows) - room


# --- numbers -------------------------------------------------------------------------------------------------


def curve(values: Sequence[float], cells: int) -> str:
    """The newest `cells` values as blocks of which the largest is full; 0 is blank."""
    shown = values[-cells:]
    top = max(shown, default=0.0)
    return "".join(" " if value <= 0 else _BLOCKS[min(7, int(value / top * 7.999))] for value in shown)


def number(value: int) -> str:
    """Four digits at most: `9999`, `12.3k`, `4.56M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size and value >= 10_000:
            scaled = value / size
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{unit}"
    return str(value)


def rate(value: float | None) -> str:
    """Tokens per second; `–` where it is not known yet."""
    if value is None:
        return "–"
    return f"{value:.1f}" if 0 < value < 10 else number(round(value))


def money(value: float | None) -> str:
    """US dollars; `–` where the daemon does not tell."""
    if value is None:
        return "–"
    return f"${value:.4f}" if 0 < value < 1 else f"${value:,.2f}"


def duration(seconds: float) -> str:
    """`12 s`, `3 min 5 s`, `2 h 14 min`, `9 d 3 h`."""
    whole = int(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (name, size), (below, small) in pairwise(units):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // small} {below}"
    return f"{whole} s"
