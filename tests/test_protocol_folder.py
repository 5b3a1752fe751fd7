"""What `protocol/` says is what the daemon does."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from beluna_gateway import gateway
from beluna_gateway.adapters.decoding import finish_reasons
from beluna_gateway.adapters.decoding.error_kinds import error_of_status
from beluna_gateway.adapters.decoding.provider_errors import ProviderError
from beluna_gateway.canonical import OtherFinishReason
from beluna_gateway.config.settings import HTTP_DIALECTS, Budget, Reliability, Server
from beluna_gateway.errors import ErrorKind
from beluna_gateway.wire import ndjson, strict_json
from beluna_gateway.wire.frame_schemas import client_frame_schema, server_frame_schema
from beluna_gateway.wire.frames import CLIENT_FRAMES, PROTOCOL_VERSION, Infer, RequestId
from beluna_gateway.wire.server_frames import ServerFrame, StatusFrame

from . import transcripts

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "protocol"
PAGE = (FOLDER / "README.md").read_text("utf-8")
TRANSCRIPTS = sorted((FOLDER / "transcripts").glob("*.ndjson"))
SERVER_FRAMES = [model.model_fields["type"].annotation for model in get_args(get_args(ServerFrame)[0])]
SERVER_FRAME = TypeAdapter[Any](ServerFrame)

CLIENT_SCHEMA = Draft202012Validator(client_frame_schema())
SERVER_SCHEMA = Draft202012Validator(server_frame_schema())


def section(heading: str) -> str:
    """The text under a heading, up to the next one of its level or above."""
    match = re.search(rf"^(#+) {re.escape(heading)}\n", PAGE, re.MULTILINE)
    assert match is not None, f"no section {heading!r}"
    rest = PAGE[match.end() :]
    end = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.MULTILINE)
    return rest if end is None else rest[: end.start()]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in `text`, without heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines]
    rules = [index for index, row in enumerate(cells) if set("".join(row)) <= {"-", "|"}]
    heads = {index - 1 for index in rules}
    return [row for index, row in enumerate(cells) if index not in heads and index not in rules]


def words(text: str) -> list[str]:
    """What stands in code quotes."""
    return re.findall(r"`([^`]+)`", text)


# --- the page ------------------------------------------------------------------------------------------------


def test_each_json_block_is_a_valid_frame() -> None:
    """What the page shows as JSON can be sent, or is what the daemon writes."""
    lines = [line for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    kinds = set()
    for line in lines:
        frame = json.loads(line)
        client = frame["type"] in CLIENT_FRAMES and "protocol" not in frame
        kinds.add((client, frame["type"]))
        if client:
            ndjson.decode(line.encode())
        else:
            SERVER_FRAME.validate_json(line)
        assert list((CLIENT_SCHEMA if client else SERVER_SCHEMA).iter_errors(frame)) == []

    assert kinds == {(True, kind) for kind in CLIENT_FRAMES} | {(False, get_args(kind)[0]) for kind in SERVER_FRAMES}


def test_each_frame_has_its_heading() -> None:
    """Client frames and server frames, each under its own section, and no others."""
    assert set(re.findall(r"^### `(\w+)`", section("Client frames"), re.MULTILINE)) == CLIENT_FRAMES.keys()
    assert re.findall(r"^### `(\w+)`", section("Server frames"), re.MULTILINE) == [
        get_args(kind)[0] for kind in SERVER_FRAMES
    ]


def test_each_field_of_infer_has_its_row() -> None:
    """The table of `infer` is the model's fields, in the model's order."""
    listed = [words(row[0])[0] for row in rows(section("`infer`").partition("\n#### ")[0])]

    assert listed == [name for name in Infer.model_fields if name != "type"]


def test_each_error_kind_has_its_row() -> None:
    """The table is the closed list of kinds, in its order."""
    assert [words(row[0])[0] for row in rows(section("Errors"))] == list(get_args(ErrorKind))


def test_each_limit_has_its_row_with_its_default() -> None:
    """Every setting that limits a client stands under "Limits", and so do the limits that nobody can set."""
    table = rows(section("Limits"))
    listed = {name: row[1] for row in table for name in words(row[2])}
    server = {f"server.{name}" for name in Server.model_fields if name.startswith("max_")}
    budget = {f"budget.{name}" for name in Budget.model_fields}

    assert server | budget | {"reliability.max_event_bytes"} <= listed.keys()
    for name, default in listed.items():
        group, _, key = name.partition(".")
        models = {"server": Server(), "budget": Budget(), "reliability": Reliability()}
        value = getattr(models[group], key)
        shown = {
            None: "none",
            Server().max_frame_bytes: "8 MiB",
            Reliability().max_event_bytes: "32 MiB",
            Budget().max_request_time_ms: "45 s",
        }.get(value, str(value))
        assert default.startswith("whoever") or default == shown, name
    limit = {row[0]: row[1] for row in table}
    assert limit["nesting of a line"].startswith(f"{strict_json.MAX_DEPTH};")
    assert limit["length of a `request_id`"].startswith(str(TypeAdapter(RequestId).json_schema()["maxLength"]))
    assert limit["`error.message`"].startswith(f"{gateway.MESSAGE_CHARACTERS:,}")


def test_the_finish_reasons_are_those_of_the_table() -> None:
    """Each provider's word in the table gives the value in its row."""
    for value, said, *_ in rows(section("`finish_reason`")):
        for word in words(said.split(" a Gemini")[0]):
            reason = finish_reasons.finish_reason(word.strip("`"))
            if value == '`"tool_calls"`':
                assert reason == "tool_calls"
            elif value in ('`"stop"`', '`"length"`'):
                assert reason == json.loads(value.strip("`"))
            elif value == '`{"other":"content_filter"}`':
                assert reason == OtherFinishReason("content_filter")
    assert finish_reasons.finish_reason("stop", calls_ready=True) == "tool_calls"
    assert finish_reasons.finish_reason("length", calls_ready=True) == "length"
    assert finish_reasons.finish_reason("pause_turn") == OtherFinishReason("pause_turn")


def test_the_statuses_are_mapped_as_in_the_table() -> None:
    """Each HTTP status that the page names gives the kind and the `retryable` of its row."""
    named = 0
    for what, kind, retryable, *_ in rows(section("Error mapping")):
        if what.startswith("HTTP ") and "code says" not in what:
            for status in map(int, re.findall(r"\b\d{3}\b", what)):
                error = error_of_status(status, ProviderError(None, None, {}), retry_after_ms=None)
                assert (error.kind, error.retryable) == (kind.strip("`"), retryable == "yes"), status
                named += 1
    assert named >= 12


def test_each_dialect_has_its_end_mark() -> None:
    """The table of end marks knows every HTTP dialect."""
    table = {words(row[0])[0] for row in rows(section("Order"))}

    assert table == HTTP_DIALECTS


def test_sections_that_the_code_names_are_there() -> None:
    """A comment that says `protocol/README.md, "Order"` leads somewhere."""
    named = set()
    for path in (ROOT / "beluna_gateway").rglob("*.py"):
        named |= set(re.findall(r'protocol/README\.md,\s+"([^"]+)"', path.read_text("utf-8")))

    assert named
    headings = {heading.strip("`") for heading in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)}
    assert named <= headings


def test_links_lead_somewhere() -> None:
    """Links within the page and to files beside it."""
    anchors: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE):
        anchor = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        anchors[anchor] = anchors.get(anchor, -1) + 1
    known = {f"{anchor}-{n}" if n else anchor for anchor, count in anchors.items() for n in range(count + 1)}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert target[1:] in known if target.startswith("#") else (FOLDER / target).exists(), target


def test_the_changes_know_this_version() -> None:
    """`protocol/CHANGES.md` has a line for what `status` says."""
    newest = re.search(r"^- (\d+) ", (FOLDER / "CHANGES.md").read_text("utf-8"), re.MULTILINE)

    assert newest is not None
    assert int(newest[1]) == PROTOCOL_VERSION == get_args(StatusFrame.model_fields["protocol"].annotation)[0]
    assert PAGE.startswith(f"# The wire protocol, version {PROTOCOL_VERSION}\n")


# --- transcripts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
async def test_a_transcript_gives_the_same_answers(path: Path, tmp_path: Path) -> None:
    """Played against a daemon, the client's lines get the answers that stand there, and no others."""
    await transcripts.play(transcripts.Transcript.read(path), tmp_path)


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_a_transcript_agrees_with_the_schemas(path: Path) -> None:
    """Every answer is a valid frame, and a line that the schema does not take is one that is rejected."""
    transcript = transcripts.Transcript.read(path)
    for line in transcript.lines("<"):
        frame = SERVER_FRAME.validate_json(line)
        assert list(SERVER_SCHEMA.iter_errors(json.loads(line))) == []
        assert frame.type
    for line in transcript.lines(">"):
        try:
            taken = not list(CLIENT_SCHEMA.iter_errors(json.loads(line, parse_constant=_refuse)))
        except ValueError:
            taken = False
        try:
            ndjson.decode(line.encode())
        except ndjson.RejectedLine:
            assert not taken
        else:
            assert taken


def _refuse(word: str) -> None:
    raise ValueError(word)


def test_the_transcripts_show_every_frame_and_most_errors() -> None:
    """Each frame type can be seen in a conversation."""
    seen, kinds = set(), set()
    for path in TRANSCRIPTS:
        for line in transcripts.Transcript.read(path).lines("<"):
            frame = json.loads(line)
            seen.add(frame["type"])
            kinds.add(frame.get("error", {}).get("kind"))

    assert seen == {get_args(kind)[0] for kind in SERVER_FRAMES}
    assert set(get_args(ErrorKind)) - kinds == {"backend_permanent"}
