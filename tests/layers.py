"""The structure of the package: its rooms, and which room may import which.

A room is a folder, or a module at the root. `tests/test_layers.py` holds the code to this table, and
`tests/architecture_page.py` draws the picture of docs/architecture.md from it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import beluna_gateway

PACKAGE = Path(beluna_gateway.__file__).parent

_TABLE = """
errors:
version:
schemas:
canonical:          errors
wire:               errors canonical schemas
config:             schemas
telemetry:          version errors canonical config
processes:          errors config telemetry wire
quota:              errors config
pipeline:           errors canonical wire config telemetry processes quota
event_stream:       canonical
adapters.decoding:  errors canonical wire
adapters.encoding:  errors canonical config
adapters.base:      errors canonical wire config telemetry adapters.decoding
adapters.dialects:  errors canonical wire config adapters.base adapters.decoding adapters.encoding
adapters.operations: errors canonical wire adapters.base adapters.decoding adapters.encoding
adapters.http:      version errors canonical config wire telemetry processes adapters.base adapters.decoding \
                    adapters.encoding adapters.operations
adapters.copilot:   version errors canonical config telemetry processes adapters.base adapters.decoding
adapters:           config adapters.base adapters.dialects adapters.http adapters.copilot
worker:             errors wire
requests:           canonical
live_backends:      canonical config telemetry pipeline adapters.base quota
gateway:            errors canonical wire config telemetry pipeline processes event_stream worker adapters.base \
                    adapters requests live_backends
client:
daemon:             version errors canonical wire config telemetry quota pipeline worker gateway adapters.http
commands:           version errors wire config telemetry quota pipeline processes client daemon adapters \
                    adapters.copilot
cli:                commands
__init__:           version errors canonical config event_stream gateway client requests
__main__:           cli
local_model:        processes
"""

ROOMS: dict[str, frozenset[str]] = {
    name.strip(): frozenset(may.split())
    for name, _, may in (line.partition(":") for line in _TABLE.strip().splitlines())
}
"""Room → the rooms that it imports. Every arrow of the table is one that some module uses."""

DYNAMIC = {("adapters", "adapters.dialects"), ("adapters", "adapters.http"), ("adapters", "adapters.copilot")}
"""Arrows that the code takes by `import_module`, when a backend is first used."""


class Import(NamedTuple):
    module: str
    names: tuple[str, ...]


class _Modules(Mapping[str, ast.Module]):
    """Parsed when they are looked at: the tests of one file do, and each process that runs tests collects it."""

    def __init__(self) -> None:
        self._paths = {
            ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))
        }
        self._trees: dict[str, ast.Module] = {}

    def __getitem__(self, name: str) -> ast.Module:
        if name not in self._trees:
            self._trees[name] = ast.parse(self._paths[name].read_text())
        return self._trees[name]

    def __contains__(self, name: object) -> bool:
        return name in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


MODULES = _Modules()
"""Module name below the package → its syntax tree."""


def room(module: str) -> str:
    """The room that a module stands in."""
    first, *rest = module.split(".")
    if first != "adapters":
        return first
    return first if rest == ["__init__"] else f"adapters.{rest[0]}"


@cache
def imports(name: str) -> tuple[list[str], list[Import]]:
    """What a module imports, for type checkers only included: of the package, and from outside."""
    folder = name.split(".")[:-1]
    inside: list[str] = []
    outside: list[Import] = []
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            outside += [Import(alias.name.partition(".")[0], ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            outside.append(Import((node.module or "").partition(".")[0], tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.ImportFrom):
            base = [*folder[: len(folder) - node.level + 1], *(node.module.split(".") if node.module else [])]
            inside += [
                _known([*base, alias.name]) or _known(base) or f"unknown {'.'.join(base)}" for alias in node.names
            ]
    return inside, outside


def _known(parts: list[str]) -> str | None:
    name = ".".join(parts)
    if name in MODULES:
        return name
    package = ".".join([*parts, "__init__"])
    return package if package in MODULES else None


def levels() -> Iterator[list[str]]:
    """The rooms in rows, the lowest first: each row imports only from rows before it.

    Raises:
        graphlib.CycleError: The table has a circle.
    """
    height: dict[str, int] = {}
    for name in TopologicalSorter(ROOMS).static_order():
        height[name] = max((height[below] + 1 for below in ROOMS[name]), default=0)
    for level in range(max(height.values()) + 1):
        yield [name for name in ROOMS if height[name] == level]
