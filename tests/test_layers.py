"""Imports point one way, and what is outside of the package comes in by one door each."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter

import pytest

from beluna_gateway.adapters import _HTTP_DIALECTS

from .layers import DYNAMIC, MODULES, ROOMS, imports, levels, room


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Third parties and the outside world → the modules that are their door.
DOORS: dict[str, set[str]] = {
    "python_socks": {"adapters.http.proxy"},
    "aiohttp": {"adapters.http.proxy", "adapters.http.connections"},
    "httptools": {"adapters.http.response_parser"},
    "multidict": {"adapters.http.request_head"},
    "yarl": {"adapters.http.request_head", "adapters.http.connections"},
    "aiolimiter": {"pipeline.budget"},
    "jsonschema": {"wire.verdict"},
    "referencing": {"wire.verdict"},
    "redis": {"quota.redis_store"},
    "sqlite3": {"quota.sqlite_store"},
    "pyjson5": {"config.loading"},
    "uuid_utils": {"gateway"},
    "uvloop": {"commands.serve"},
    "shtab": {"commands.completion"},
    "rich": {"commands.top_loop", "commands.top_screen"},
    "prometheus_client": {"telemetry.metrics"},
    "opentelemetry": {"telemetry.otlp"},
    "genai_prices": {"pipeline.price_list"},
    "subprocess": {"processes.child_process"},
    "socket": {"daemon.sockets", "daemon.systemd", "adapters.http.request_writer", "processes.local_model.__main__"},
}

# Values in, values out: no event loop, no clock, no environment, no files. Rooms as a whole, or single modules of them.
PURE_ROOMS = _words("errors version canonical schemas wire adapters.base adapters.decoding adapters.encoding")
PURE_ROOMS |= _words("adapters.dialects adapters.operations")
PURE_MODULES = (
    _words("config.mistakes config.rules config.settings telemetry.records telemetry.redaction telemetry.terminal")
    | _words("config.keys adapters.http.sse adapters.http.payloads adapters.http.answer adapters.http.ndjson")
    | _words("adapters.http.response_parser adapters.http.compression")
    | _words("pipeline.pricing pipeline.request_normalizer pipeline.router pipeline.capabilities")
    | _words("pipeline.reliability pipeline.response_normalizer pipeline.spending commands.top_view")
    | _words("quota.decision quota.limits")
)
PURE = sorted(name for name in MODULES if room(name) in PURE_ROOMS or name in PURE_MODULES)
IMPURE = _words("asyncio os io pathlib socket subprocess time threading tempfile shutil structlog")


def test_the_table_has_no_circle():
    """Rooms can be put in rows so that each imports only from rows below its own."""
    assert sum(len(row) for row in levels()) == len(ROOMS)


def test_the_table_is_the_code():
    """Each import between rooms is in the table, and each arrow of the table is used."""
    found = {name: set[str]() for name in map(room, MODULES)}
    for name in MODULES:
        found[room(name)] |= {room(imported) for imported in imports(name)[0]} - {room(name)}
    for above, below in DYNAMIC:
        found[above].add(below)

    assert found == {name: set(may) for name, may in ROOMS.items()}


def test_no_module_imports_in_a_circle():
    """Every module could be read after those it needs, those for type checkers included."""
    graph = {name: set(imports(name)[0]) for name in MODULES}

    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_of_the_wire_adapters_know_lines_and_json_only(name: str):
    """No adapter and no dialect knows a frame."""
    if room(name).startswith("adapters"):
        known = {module for module in imports(name)[0] if room(module) == "wire"}

        assert known <= {"wire.json_pieces", "wire.lines", "wire.strict_json"}


def test_dialects_do_not_know_each_other():
    """A module of a dialect bears the name of that, and imports modules of no other dialect."""
    for name in MODULES:
        if room(name) == "adapters.dialects" and not name.endswith("__init__"):
            others = {_dialect_of(module) for module in imports(name)[0] if room(module) == "adapters.dialects"}

            assert others <= {_dialect_of(name)}, name


def _dialect_of(module: str) -> str:
    name = f"{module.rpartition('.')[2]}_"
    return next(dialect for dialect, _ in _HTTP_DIALECTS.values() if name.startswith(f"{dialect}_"))


def test_steps_meet_in_the_gateway_only():
    """A step of the pipeline imports no other step, but the response normaliser, which prices what it reports, the list
    of prices, which splits the input as the configured ones do, and the clients, whose own limits are budgets."""
    steps = [name for name in MODULES if room(name) == "pipeline"]
    known = {(name, other) for name in steps for other in imports(name)[0] if room(other) == "pipeline"}

    assert known <= {
        ("pipeline.response_normalizer", "pipeline.pricing"),
        ("pipeline.operation_response", "pipeline.pricing"),
        ("pipeline.price_list", "pipeline.pricing"),
        ("pipeline.spending", "pipeline.pricing"),
        ("pipeline.budget", "pipeline.pricing"),
        ("pipeline.budget", "pipeline.spending"),
        ("pipeline.clients", "pipeline.budget"),
    }


def test_only_the_request_normaliser_knows_the_frames():
    """Of the steps, the request normaliser reads frames and none writes them: the connection does."""
    steps = [name for name in MODULES if room(name) == "pipeline"]

    assert [step for step in steps if "wire.frames" in imports(step)[0]] == ["pipeline.request_normalizer"]


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
    doors = {
        "wire.frames",
        "wire.server_frames",
        "wire.frame_schemas",
        "wire.ndjson",
        "config.settings",
        "config.loading",
        "config.keys",
        "schemas.field_docs",
        "gateway",
    }
    used = {
        (name, imported)
        for name in MODULES
        for one in imports(name)[1]
        for imported in one.names
        if one.module in ("pydantic", "pydantic_core") and name not in doors
    }

    assert {imported for _, imported in used} <= {"JsonValue", "from_json", "to_json"}


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_do_nothing(name: str):
    """They take values and give values, and can be tried in a plain Python prompt."""
    impure = IMPURE & {one.module for one in imports(name)[1]}

    assert impure <= ({"pathlib"} if name == "config.settings" else set())  # the folder that relative paths start from


def test_the_environment_is_read_in_few_places():
    """`os.environ` is the credentials', systemd's, the started programs', the loading's and the command line's."""
    readers = {
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"))
    }

    assert readers == _words("pipeline.credentials processes.child_process daemon.systemd daemon.sockets cli") | _words(
        "commands.check commands.init commands.lookup daemon.loading processes.local_model.__main__ telemetry.journal"
    )
