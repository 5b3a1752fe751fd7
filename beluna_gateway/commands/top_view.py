"""The pure half of `beluna-gateway top`: `status` frames with their times → what the screen shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

RATE_SECONDS = 10.0
"""Rates are means over this time. Tokens are counted when an answer ends, so a shorter one would jump."""

HISTORY_SAMPLES = 61
"""How many samples are worth keeping: those of the curve."""

Frame = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """A `status` frame."""

    at: float
    """When it came, monotonic seconds."""
    frame: Frame


@dataclass(frozen=True, slots=True)
class Lost:
    """The daemon does not answer."""

    since: float
    """Monotonic seconds."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a backend and a client have in common. None: the daemon is older than the field."""

    name: str
    in_flight: int
    queued: int
    tokens_per_second: float | None
    """Output tokens; None until there are two samples."""
    requests: int
    failures: int
    new_failures: int
    """Those since the oldest sample."""
    used_tokens: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRow(Row):
    """One backend."""

    model: str
    places: int | None
    """How many may be in flight."""
    breaker: str
    program: str | None
    """State of a model server or Copilot program; None where the backend has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRow(Row):
    """One client."""

    connections: int


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A limit of money, or one that several daemons share."""

    backend: str
    client: str | None
    """Whose it is; None: everyone's."""
    setting: str
    """Its key in `budget`."""
    used: float
    limit: float


@dataclass(frozen=True, slots=True)
class View:
    """What the screen shows."""

    version: str
    pid: int
    uptime: float
    """Seconds."""
    lost_for: float | None
    """Seconds since the daemon's last answer; None while it answers."""
    why_lost: str
    connections: int
    in_flight: int
    queued: int
    """Waiting for a place at a backend, or for one of their client's own."""
    tokens_per_second: float | None
    curve: tuple[float, ...]
    """Output tokens per second between each two samples, the newest last."""
    requests: int
    failures: int
    new_failures: int
    used_tokens: int
    cost_usd: float | None
    backends: tuple[BackendRow, ...]
    clients: tuple[ClientRow, ...]
    limits: tuple[LimitRow, ...]
    shared: tuple[tuple[str, str], ...]
    """What the daemon tells of a store that it shares with other daemons."""
    notes: tuple[str, ...]
    """What somebody should know, in words."""


def view(samples: Sequence[Sample], now: float, lost: Lost | None = None) -> View:
    """What `samples`, the oldest first and at least one, come to at the time `now`."""
    restarted, samples = _of_this_daemon(samples)
    newest = samples[-1].frame
    backends = tuple(_backend_rows(samples))
    clients = tuple(_client_rows(samples))
    return View(
        version=newest["version"],
        pid=newest["pid"],
        uptime=newest["uptime_ms"] / 1000,
        lost_for=None if lost is None else max(0.0, now - lost.since),
        why_lost="" if lost is None else lost.why,
        connections=newest["connections"],
        in_flight=newest["in_flight"],
        queued=sum(row.queued for row in backends) + sum(row.queued for row in clients),
        tokens_per_second=_sum(row.tokens_per_second for row in backends),
        curve=tuple(_curve(samples)),
        requests=sum(row.requests for row in backends),
        failures=sum(row.failures for row in backends),
        new_failures=sum(row.new_failures for row in backends),
        used_tokens=sum(row.used_tokens for row in backends),
        cost_usd=_sum(row.cost_usd for row in backends),
        backends=backends,
        clients=clients,
        limits=tuple(_limits(newest)),
        shared=tuple(_shared(newest)),
        notes=tuple(_notes(newest, restarted)),
    )


def _of_this_daemon(samples: Sequence[Sample]) -> tuple[bool, Sequence[Sample]]:
    """The samples since the daemon's last start, and whether there are others: it counts from 0 at each start."""
    start = 0
    for index in range(1, len(samples)):
        before, after = samples[index - 1].frame, samples[index].frame
        if after["pid"] != before["pid"] or after["uptime_ms"] < before["uptime_ms"]:
            start = index
    return start > 0, samples[start:]


def _backend_rows(samples: Sequence[Sample]) -> Iterator[BackendRow]:
    for row in samples[-1].frame["backends"]:
        yield BackendRow(
            **_in_common(samples, "backends", row["id"], row),
            model=row["default_model"],
            places=row.get("max_concurrency"),
            breaker=row["breaker"],
            program=(row.get("program") or {}).get("state"),
        )


def _client_rows(samples: Sequence[Sample]) -> Iterator[ClientRow]:
    for row in samples[-1].frame.get("clients", ()):
        yield ClientRow(**_in_common(samples, "clients", row["name"], row), connections=row["connections"])


def _in_common(samples: Sequence[Sample], group: str, name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Row`, from the newest sample's `row` of that name."""
    return {
        "name": name,
        "in_flight": row["in_flight"],
        "queued": row["queued"],
        "tokens_per_second": _rate(samples, group, name),
        "requests": row["requests"],
        "failures": row["failures"],
        "new_failures": sum(_increments(samples, group, name, "failures")),
        "used_tokens": row["used_tokens"],
        "cost_usd": row.get("cost_usd"),
    }


def _rate(samples: Sequence[Sample], group: str, name: str) -> float | None:
    """Output tokens per second."""
    recent = [sample for sample in samples if sample.at >= samples[-1].at - RATE_SECONDS]
    seconds = recent[-1].at - recent[0].at
    return sum(_increments(recent, group, name, "output_tokens")) / seconds if seconds > 0 else None


def _curve(samples: Sequence[Sample]) -> Iterator[float]:
    names = [row["id"] for row in samples[-1].frame["backends"]]
    steps = [_increments(samples, "backends", name, "output_tokens") for name in names]
    for index, after in enumerate(samples[1:]):
        seconds = after.at - samples[index].at
        yield sum(step[index] for step in steps) / seconds if seconds > 0 else 0.0


def _increments(samples: Sequence[Sample], group: str, name: str, counter: str) -> list[int]:
    """By how much a counter grew from each sample to the next. A reload may set it to 0, which is no decrease."""
    key = "id" if group == "backends" else "name"
    values = [
        next((row.get(counter) or 0 for row in sample.frame.get(group, ()) if row[key] == name), 0)
        for sample in samples
    ]
    return [after - before if after >= before else after for before, after in pairwise(values)]


def _sum(values: Iterator[float | None]) -> float | None:
    """The sum of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _limits(frame: Frame) -> Iterator[LimitRow]:
    for backend in frame["backends"]:
        for limit in backend.get("limits") or ():
            yield LimitRow(backend["id"], limit.get("client"), limit["setting"], limit["used"], limit["limit"])


def _shared(frame: Frame) -> Iterator[tuple[str, str]]:
    """The fields of `shared`, whatever they are: objects in it by their path."""

    def fields(value: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
        for key, item in value.items():
            if isinstance(item, Mapping):
                yield from fields(item, f"{path}{key}.")
            elif item is not None and not isinstance(item, list | tuple):
                yield f"{path}{key}", {True: "yes", False: "no"}[item] if isinstance(item, bool) else str(item)

    shared = frame.get("shared")
    if isinstance(shared, Mapping):
        yield from fields(shared, "")


def _notes(frame: Frame, restarted: bool) -> Iterator[str]:
    if restarted:
        yield f"the daemon was started again {frame['uptime_ms'] / 1000:.0f} s ago; it counts from its start"
    reloads = frame.get("reloads") or {}
    if reloads.get("running"):
        yield "a reload of the configuration is under way"
    if error := reloads.get("last_error"):
        yield f"the last reload changed nothing: {' '.join(str(error).split())}"
    if (frame.get("shared") or {}).get("up") is False:
        yield "the store that is shared with other daemons cannot be used"
    for row in frame["backends"]:
        if row["breaker"] != "closed":
            yield f"{row['id']}: the circuit is {row['breaker'].replace('_', ' ')}: it failed too often in a row"
        if (row.get("program") or {}).get("state") == "waiting":
            yield f"{row['id']}: its program failed, and is not started again yet; the log has its last words"
