"""Imports point one way, and what is outside of the package comes in by one door each."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import beluna_gateway
from beluna_gateway.adapters import _HTTP_DIALECTS

PACKAGE = Path(beluna_gateway.__file__).parent


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A module imports from the rows before its own, never from its neighbours. `adapters` has rules of its own below.
ROWS: tuple[frozenset[str], ...] = (
    # nothing of ours: texts, bytes, errors, and what stands for itself
    _words("__init__ errors client local_model schemas.field_docs schemas.field_errors telemetry.redaction")
    | _words("wire.lines wire.json_schema wire.strict_json")
    | _words("processes.child_guard processes.local_model.__init__ processes.local_model.__main__")
    | _words("wire.__init__ daemon.__init__ pipeline.__init__ schemas.__init__ processes.__init__ telemetry.__init__"),
    # what is thought and spoken in; programs
    _words("canonical config.mistakes wire.frames processes.child_process daemon.sockets daemon.systemd"),
    _words("config.settings wire.ndjson"),
    _words("config.loading"),
    _words("config.__init__"),
    # what the steps need, and what adapters reach out with
    _words("pipeline.pricing processes.model_server telemetry.records"),
    # the steps of a request, which meet in the gateway only
    _words("pipeline.request_normalizer pipeline.router pipeline.credentials pipeline.capabilities pipeline.budget")
    | _words("pipeline.reliability pipeline.timers pipeline.response_normalizer event_stream"),
    # where telemetry goes
    _words("telemetry.logging telemetry.metrics telemetry.otlp"),
    _words("adapters"),
    _words("gateway check"),
    _words("daemon.connection daemon.metrics_endpoint"),
    _words("daemon.server"),
    _words("cli"),
    _words("__main__"),
)

# Imports that point up, inside of a function: a command that is run under a shorter name.
UPWARD = {("local_model", "processes.local_model.__main__")}

# What adapters know of the rest: nothing of the steps, the gateway or the daemon; of the wire how lines are cut and
# how JSON is judged.
ADAPTERS_MAY = _words("errors wire.lines wire.strict_json canonical config.settings telemetry.redaction")
ADAPTERS_MAY |= _words("processes.child_process processes.model_server __init__")

# Third parties and the outside world → the modules that are their door.
DOORS: dict[str, set[str]] = {
    "aiohttp": {"adapters.http.connections", "daemon.metrics_endpoint"},
    "httptools": {"adapters.http.exchange"},
    "multidict": {"adapters.http.adapter"},
    "yarl": {"adapters.http.adapter", "adapters.http.connections"},
    "aiolimiter": {"pipeline.budget"},
    "pyjson5": {"config.loading"},
    "uuid_utils": {"gateway"},
    "uvloop": {"cli"},
    "prometheus_client": {"telemetry.metrics"},
    "opentelemetry": {"telemetry.otlp"},
    "subprocess": {"processes.child_process"},
    "socket": {"daemon.sockets", "daemon.systemd", "adapters.http.exchange", "processes.local_model.__main__"},
}

# Values in, values out: no event loop, no clock, no environment, no files.
PURE = (
    _words("errors canonical telemetry.redaction schemas.field_errors config.mistakes")
    | _words("wire.lines wire.json_schema wire.strict_json wire.frames wire.ndjson")
    | _words("pipeline.pricing pipeline.request_normalizer pipeline.router pipeline.capabilities pipeline.reliability")
    | _words("pipeline.response_normalizer adapters.base adapters.http.sse adapters.http.ndjson")
    | _words("adapters.decoding.tool_calls adapters.decoding.finish_reasons adapters.decoding.provider_errors")
    | _words("adapters.decoding.delta_template adapters.decoding.usage adapters.decoding.not_carried")
    | _words("adapters.encoding.provider_state adapters.encoding.claude_thinking")
    | _words("adapters.dialects.anthropic adapters.dialects.anthropic_decoder adapters.dialects.gemini")
    | _words("adapters.dialects.gemini_decoder adapters.dialects.ollama adapters.dialects.ollama_decoder")
    | _words("adapters.dialects.openai_compatible adapters.dialects.openai_compatible_decoder")
    | _words("adapters.dialects.openai_responses adapters.dialects.openai_responses_decoder")
)
IMPURE = _words("asyncio os io pathlib socket subprocess time threading tempfile shutil structlog")


class Import(NamedTuple):
    module: str
    names: tuple[str, ...]


def modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
        for path in PACKAGE.rglob("*.py")
    }


MODULES = modules()


def _walk(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import that runs: not those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        else:
            yield from _walk(child)


def imports(name: str) -> tuple[list[str], list[Import]]:
    """What a module imports: of the package, and from outside."""
    folder = name.split(".")[:-1]
    inside: list[str] = []
    outside: list[Import] = []
    for node in _walk(MODULES[name]):
        if isinstance(node, ast.Import):
            outside += [Import(alias.name.partition(".")[0], ()) for alias in node.names]
        elif not node.level:
            outside.append(Import((node.module or "").partition(".")[0], tuple(alias.name for alias in node.names)))
        else:
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


def _place(module: str) -> str:
    return "adapters" if module.startswith("adapters.") else module


def test_each_module_has_its_row():
    """A new module says where it belongs, and one that is gone is forgotten."""
    placed = [module for row in ROWS for module in row]

    assert sorted(placed) == sorted(set(placed))
    assert set(placed) == {_place(module) for module in MODULES}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name: str):
    """No module knows anything of its own row or of those above."""
    row = {module: number for number, modules in enumerate(ROWS) for module in modules}
    place = _place(name)
    wrong = [
        imported
        for imported in imports(name)[0]
        if not (place == "adapters" and _place(imported) == "adapters")
        and row.get(_place(imported), 99) >= row[place]
        and (name, imported) not in UPWARD
    ]

    assert wrong == [], f"beluna_gateway/{name.replace('.', '/')}.py imports {wrong}"


@pytest.mark.parametrize("name", sorted(module for module in MODULES if _place(module) == "adapters"))
def test_adapters_know_little(name: str):
    """An adapter knows what is thought in and how to reach out; and no dialect knows another one."""
    inside = imports(name)[0]
    siblings = {f"adapters.dialects.{module}" for module, _ in _HTTP_DIALECTS.values()} | {"adapters.copilot.adapter"}

    assert {module for module in inside if _place(module) != "adapters"} <= ADAPTERS_MAY
    if name != "adapters.__init__":
        assert not siblings & set(inside)


def test_nothing_goes_in_circles():
    """There is an order in which every module could be read after those it needs."""
    graph = {name: {other for other in imports(name)[0] if (name, other) not in UPWARD} for name in MODULES}

    TopologicalSorter(graph).prepare()


def test_only_the_normalisers_know_the_frames():
    """Of the steps, the request normaliser reads frames and none writes them: that is the connection's."""
    steps = next(row for row in ROWS if "pipeline.router" in row)

    assert {step for step in steps if any(module.startswith("wire.") for module in imports(step)[0])} == {
        "pipeline.request_normalizer"
    }


@pytest.mark.parametrize("party", sorted(DOORS))
def test_third_parties_have_one_door(party: str):
    """What is not ours is imported where it is meant to be, and only there."""
    users = {name for name in MODULES if party in {one.module for one in imports(name)[1]}}

    assert users == DOORS[party]


def test_everything_from_outside_is_known():
    """Whoever adds a dependency says where its door is. Logging and JSON may be used anywhere."""
    foreign = {one.module for name in MODULES for one in imports(name)[1]} - sys.stdlib_module_names

    assert foreign <= {*DOORS, "structlog", "pydantic", "pydantic_core"}


def test_models_are_made_in_three_places():
    """pydantic's models are the frames and the configuration; elsewhere only its name for a JSON value is used."""
    doors = {"wire.frames", "wire.ndjson", "config.settings", "config.loading", "schemas.field_docs", "gateway"}
    used = {
        (name, imported)
        for name in MODULES
        for one in imports(name)[1]
        for imported in one.names
        if one.module in ("pydantic", "pydantic_core") and name not in doors
    }

    assert {imported for _, imported in used} <= {"JsonValue", "from_json", "to_json"}


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_do_nothing(name: str):
    """They take values and give values, and can be tried in a plain Python prompt."""
    assert not IMPURE & {one.module for one in imports(name)[1]}


def test_the_environment_is_read_in_few_places():
    """`os.environ` is the credentials', systemd's, the started programs' and the command line's."""
    readers = {
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"))
    }

    assert readers == _words("pipeline.credentials processes.child_process daemon.systemd daemon.sockets cli") | _words(
        "processes.local_model.__main__"
    )
