"""`ToolCalls`: fragments in whatever order, with whatever names, become the calls that were meant (F18)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.decoding.tool_calls import MAX_CALLS, ToolCalls, arguments_text
from beluna_gateway.canonical import BackendRawEvent, ToolCall, ToolCallDelta, ToolCallReady
from beluna_gateway.errors import GatewayError


@dataclass(frozen=True)
class Fragment:
    index: int | None
    call_id: str | None
    name: str | None
    arguments: str

    def feed(self, calls: ToolCalls, events: list[BackendRawEvent]) -> str:
        return calls.fragment(self.index, events, call_id=self.call_id, name=self.name, arguments=self.arguments)


def assembled(fragments: list[Fragment]) -> list[BackendRawEvent]:
    """All events of an answer with these fragments that ended as it should."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    for fragment in fragments:
        fragment.feed(calls, events)
    calls.end_all(events)
    return events


def ready_calls(events: list[BackendRawEvent]) -> list[ToolCall]:
    return [event.call for event in events if isinstance(event, ToolCallReady)]


def assert_consistent(events: list[BackendRawEvent]) -> None:
    """What the protocol promises of any events: the name first, ids unique, ready calls equal to their deltas."""
    texts: dict[str, str] = {}
    names: dict[str, str] = {}
    ready: set[str] = set()
    for event in events:
        if isinstance(event, ToolCallDelta):
            assert event.call_id not in ready
            names.setdefault(event.call_id, event.name or "")
            texts[event.call_id] = texts.get(event.call_id, "") + event.arguments_delta
        elif isinstance(event, ToolCallReady):
            assert event.call.id not in ready
            ready.add(event.call.id)
            assert event.call.arguments_json == texts[event.call.id]
            assert event.call.name == names[event.call.id]
            assert json.loads(event.call.arguments_json) == event.call.arguments
            assert isinstance(event.call.arguments, dict)
    assert all(names.values()), "each call has its name in its first delta"


VALUES: st.SearchStrategy[Any] = st.integers(0, 9) | st.text('x"\\{}é', max_size=4)
ARGUMENTS = st.dictionaries(st.sampled_from(["a", "b", "é"]), VALUES, max_size=2)
NAMES = st.sampled_from(["f", "g"])


@st.composite
def interleaved(draw: st.DrawFn, ways: str) -> tuple[list[tuple[str, Any]], list[Fragment]]:
    """Some calls, and their fragments in any order that keeps each call's own.

    `ways`: how the fragments say which call they belong to: `index`, `id`, `index+id`, `repeat` (index and
    sometimes id and name again), `anything` (each may leave out what it likes).
    """
    meant = draw(st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=4))
    queues: list[list[Fragment]] = []
    for number, (name, arguments) in enumerate(meant):
        said: bool = bool(arguments) or draw(st.booleans())
        text = json.dumps(arguments, ensure_ascii=False) if said else ""
        cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=3)))
        pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
        own = Fragment(number if ways != "id" else None, f"id{number}" if ways != "index" else None, name, pieces[0])
        rest = [replace(own, arguments=piece) for piece in pieces[1:]]
        queues.append([_weakened(draw, own, ways, first=True), *(_weakened(draw, f, ways) for f in rest)])
    fragments: list[Fragment] = []
    while any(queues):
        queue = draw(st.sampled_from([queue for queue in queues if queue]))
        fragments.append(queue.pop(0))
    return meant, fragments


def _weakened(draw: st.DrawFn, fragment: Fragment, ways: str, *, first: bool = False) -> Fragment:
    def keep(value: Any) -> Any:
        return draw(st.sampled_from([value, None]))

    if ways == "anything":
        return Fragment(
            keep(fragment.index),
            keep(fragment.call_id),
            fragment.name if first else keep(fragment.name),
            fragment.arguments,
        )
    if first:
        return fragment
    if ways == "repeat":
        return replace(fragment, call_id=keep(fragment.call_id), name=keep(fragment.name))
    return replace(fragment, name=None, call_id=fragment.call_id if ways == "id" else None)


def by_value(calls: list[tuple[str, Any]]) -> list[str]:
    return sorted(json.dumps(call, sort_keys=True) for call in calls)


@pytest.mark.parametrize("ways", ["index", "id", "index+id", "repeat"])
@given(data=st.data())
def test_interleaved_calls_come_out_as_they_were_meant(ways: str, data: st.DataObject) -> None:
    """Where each fragment says by index or by id which call it belongs to, any interleaving gives exactly the calls."""
    meant, fragments = data.draw(interleaved(ways))

    events = assembled(fragments)

    assert_consistent(events)
    assert by_value(meant) == by_value([(call.name, call.arguments) for call in ready_calls(events)])


@given(interleaved("anything"))
def test_fragments_that_say_too_little_are_refused_and_never_guessed(
    generated: tuple[list[tuple[str, Any]], list[Fragment]],
) -> None:
    """Whatever fragments leave out, they give the calls that were meant, or a `protocol_violation`."""
    meant, fragments = generated
    try:
        events = assembled(fragments)
    except GatewayError as error:
        refused = error
    else:
        assert_consistent(events)
        assert by_value(meant) == by_value([(call.name, call.arguments) for call in ready_calls(events)])
        return

    assert refused.kind == "protocol_violation"


def test_calls_that_all_have_index_0_are_told_apart_by_their_ids() -> None:
    """Some servers say 0 for every call (BerriAI/litellm#33678)."""
    events = assembled(
        [
            Fragment(0, "a", "f", '{"path":'),
            Fragment(0, None, None, '"a"}'),
            Fragment(0, "b", "f", '{"path":"b"}'),
        ]
    )

    assert [(call.id, call.arguments) for call in ready_calls(events)] == [("a", {"path": "a"}), ("b", {"path": "b"})]


def test_a_call_that_began_by_id_goes_on_by_index() -> None:
    """An index that comes later, beside a known id, belongs to the same call."""
    events = assembled([Fragment(None, "a", "f", ""), Fragment(3, "a", None, '{"x":'), Fragment(3, None, None, "1}")])

    assert [(call.id, call.arguments) for call in ready_calls(events)] == [("a", {"x": 1})]


def test_two_calls_with_one_id_get_ids_of_their_own() -> None:
    """A call's id is unique in a request, also where the backend's is not."""
    events = assembled([Fragment(0, "a", "f", "{}"), Fragment(1, "a", "g", "{}")])

    first, second = ready_calls(events)
    assert (first.id, first.name, second.name) == ("a", "f", "g")
    assert second.id != "a"


def test_a_call_without_id_gets_one() -> None:
    """The gateway makes up an id where the backend sends none; the empty string is none."""
    events = assembled([Fragment(0, "", "f", ""), Fragment(1, None, "f", "")])

    ids = {call.id for call in ready_calls(events)}
    assert len(ids) == 2
    assert all(ids)


def test_a_call_without_arguments_is_an_empty_object() -> None:
    """`{}` stands for no arguments, in the deltas too."""
    events = assembled([Fragment(0, "a", "f", ""), Fragment(0, None, None, " ")])

    assert_consistent(events)
    assert [call.arguments for call in ready_calls(events)] == [{}]
    assert_consistent(assembled([Fragment(0, "a", "f", " "), Fragment(0, None, None, " ")]))


def test_arguments_before_the_name_wait_for_it() -> None:
    """The first delta a client sees has the name."""
    events = assembled([Fragment(0, "a", None, '{"x"'), Fragment(0, None, "f", ":1}")])

    assert_consistent(events)
    assert events[0] == ToolCallDelta("a", "f", '{"x":1}')


@pytest.mark.parametrize(
    "fragments",
    [
        [Fragment(0, "a", "f", "{}"), Fragment(0, None, "g", "{}")],
        [Fragment(None, "a", "f", ""), Fragment(None, "b", "f", ""), Fragment(None, None, None, "{}")],
        [Fragment(None, None, "f", ""), Fragment(None, None, "f", "{}")],
        [Fragment(None, None, None, "{}")],
        [Fragment(0, "a", None, "{}")],
    ],
    ids=["two names at one index", "whose piece?", "the name again, or a second call?", "no call at all", "no name"],
)
def test_what_cannot_be_told_is_a_protocol_violation(fragments: list[Fragment]) -> None:
    """An ambiguous fragment is an error, never a guess."""
    with pytest.raises(GatewayError) as failure:
        assembled(fragments)

    assert failure.value.kind == "protocol_violation"


@pytest.mark.parametrize("text", ['{"a":', "[1]", "1", '"x"', "null", "{} {}", '{"a":NaN}', "{'a':1}"])
def test_arguments_that_are_no_json_object_are_a_protocol_violation(text: str) -> None:
    """A finished call's arguments are a JSON object, or the answer fails."""
    with pytest.raises(GatewayError) as failure:
        assembled([Fragment(0, "a", "f", text)])

    assert failure.value.kind == "protocol_violation"


def test_a_piece_for_a_finished_call_is_a_protocol_violation() -> None:
    """What the backend has ended does not go on."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    Fragment(0, "a", "f", "{}").feed(calls, events)
    calls.end(0, events)

    with pytest.raises(GatewayError, match="after it had ended") as failure:
        Fragment(0, None, None, " ").feed(calls, events)

    assert failure.value.kind == "protocol_violation"


TEXT = '{"path":"/tmp/é","deep":{"a":[1,2]}}'


@pytest.mark.parametrize("cut", range(len(TEXT)))
def test_a_cut_call_is_never_ready(cut: int) -> None:
    """Cut anywhere, a call is not ready, even if another one began or the backend said that it was finished (F19)."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    Fragment(0, "a", "f", TEXT[:cut]).feed(calls, events)

    assert not calls.end_if_whole(0, events)
    Fragment(1, "b", "g", "").feed(calls, events)
    calls.end_before_cut(events)

    assert ready_calls(events) == []
    assert not calls.any_ready


def test_a_whole_call_is_ready_after_a_cut_only_if_another_one_began() -> None:
    """Of a cut answer the last call is unproven, however whole it looks (F20)."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    Fragment(0, "a", "f", TEXT).feed(calls, events)
    Fragment(1, "b", "g", "{}").feed(calls, events)
    calls.end_before_cut(events)

    assert [call.id for call in ready_calls(events)] == ["a"]
    assert calls.any_ready


def test_a_call_that_went_on_after_another_began_is_unproven_by_that() -> None:
    """Interleaved calls: only what came after a call's last piece can prove that it was the last."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    for fragment in [Fragment(0, "a", "f", '{"x":1'), Fragment(1, "b", "g", "{}"), Fragment(0, None, None, "}")]:
        fragment.feed(calls, events)
    calls.end_before_cut(events)

    assert ready_calls(events) == []


# --- arguments are never invented ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fragments",
    [
        # the arguments come with another id, but without a name
        [Fragment(0, "a", "f", ""), Fragment(0, "b", None, '{"city":"Paris"}')],
        # each piece has an id of its own
        [Fragment(0, "a", "f", '{"ci'), Fragment(0, "t2", None, 'ty":"Pa'), Fragment(0, "t3", None, 'ris"}')],
        # the piece goes on by the id that came late
        [Fragment(0, "a", "f", '{"ci'), Fragment(0, "t2", None, 'ty":"Pa'), Fragment(None, "t2", None, 'ris"}')],
        # a known id at an index that is new
        [Fragment(0, "a", "f", '{"city":'), Fragment(1, "a", None, '"Paris"}')],
        [Fragment(0, "a", "f", '{"ci'), Fragment(1, "a", None, 'ty":"Pa'), Fragment(1, None, None, 'ris"}')],
        # the id comes after the first piece, with the name again
        [Fragment(0, None, "f", '{"city":'), Fragment(0, "a", "f", '"Paris"}')],
    ],
)
def test_a_nameless_piece_at_a_known_index_or_id_continues_that_call(fragments: list[Fragment]) -> None:
    """Some servers make up an id for each piece: it is one call, under its first id."""
    events = assembled(fragments)

    assert_consistent(events)
    assert [call.arguments for call in ready_calls(events)] == [{"city": "Paris"}]
    if fragments[0].call_id is not None:
        assert ready_calls(events)[0].id == "a"


@pytest.mark.parametrize(
    "fragments",
    [
        [Fragment(None, "a", "f", '{"x"'), Fragment(None, None, None, ":1}")],
        [Fragment(0, None, "f", '{"x"'), Fragment(None, None, None, ":1}")],
        [Fragment(None, None, "f", ""), Fragment(None, None, None, '{"x":1}')],
    ],
)
def test_a_piece_that_names_no_call_goes_on_with_the_only_open_one(fragments: list[Fragment]) -> None:
    """There is no other that it could belong to."""
    assert [call.arguments for call in ready_calls(assembled(fragments))] == [{"x": 1}]
    with pytest.raises(GatewayError, match="do not tell which call it belongs to"):
        assembled([*fragments[:1], Fragment(None, "b", None, ""), *fragments[1:]])


def test_a_piece_that_names_no_call_goes_on_with_the_last_where_the_others_are_whole() -> None:
    """A whole object does not go on; empty arguments may."""
    first, rest = Fragment(None, "a", "f", '{"x":1}'), [Fragment(None, None, None, text) for text in ('{"y"', ":2}")]
    begun = [first, Fragment(None, "b", "g", "")]
    third = [Fragment(None, "c", "h", ""), *rest]

    assert [call.arguments for call in ready_calls(assembled([*begun, *rest]))] == [{"x": 1}, {"y": 2}]
    assert [call.arguments for call in ready_calls(assembled([*begun, *rest, *third]))] == [{"x": 1}, *[{"y": 2}] * 2]
    for arguments in ("", '{"x":'):
        with pytest.raises(GatewayError, match="do not tell which call it belongs to"):
            assembled([replace(first, arguments=arguments), *begun[1:], *rest])
    with pytest.raises(GatewayError, match="do not tell which call it belongs to"):
        assembled([*begun, *third])


@pytest.mark.parametrize(
    "pieces",
    [
        ['{"a"', '{"a":', '{"a":{"b"', '{"a":{"b":1}', '{"a":{"b":1}}', '{"a":{"b":1}}'],
        ["{", '{"', '{"a":{', '{"a":{"b":1}}'],
        ["", ' {"a"', ' {"a":{"b":1}} '],
    ],
)
@pytest.mark.parametrize("call_id", ["x", None])
def test_a_piece_that_says_all_so_far_once_more_adds_the_rest(pieces: list[str], call_id: str | None) -> None:
    """Where it could not be JSON otherwise: so some servers speak of a call."""
    first, *others = pieces
    name = "f" if call_id else None
    events = assembled([Fragment(0, "x", "f", first), *(Fragment(0, call_id, name, piece) for piece in others)])

    assert_consistent(events)
    assert [call.arguments_json.strip() for call in ready_calls(events)] == ['{"a":{"b":1}}']


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (['{"a":', '{"a":1}}'], '{"a":{"a":1}}'),
        ([" ", ' {"a":1}'], '  {"a":1}'),
        (['{"', '{":1}'], '{"{":1}'),
    ],
)
def test_a_piece_that_goes_on_with_json_is_never_taken_for_a_repetition(pieces: list[str], text: str) -> None:
    """However much it looks like one: what may be JSON is left as it is."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    for piece in pieces:
        calls.fragment(0, events, call_id="x", name="f", arguments=piece)

    assert "".join(event.arguments_delta for event in events if isinstance(event, ToolCallDelta)) == text


@pytest.mark.parametrize(
    "pieces",
    [
        [Fragment(0, None, "f", '{"a"'), Fragment(0, None, "f", '{"a":1}')],
        [Fragment(0, "x", "f", '{"a":1}'), Fragment(0, "x", None, '{"a":1}')],
    ],
)
def test_what_may_be_another_call_is_no_repetition(pieces: list[Fragment]) -> None:
    """A name without an id, and a whole object behind another one."""
    with pytest.raises(GatewayError, match="not JSON"):
        assembled(pieces)


def test_an_id_that_is_new_begins_a_call_without_a_name_too() -> None:
    """The name may follow; where it never does, the call is none."""
    begun = [Fragment(None, "a", "f", '{"x":1}'), Fragment(None, "b", None, '{"x":2}')]

    assert [(call.id, call.name) for call in ready_calls(assembled([*begun, Fragment(None, "b", "g", "")]))] == [
        ("a", "f"),
        ("b", "g"),
    ]
    with pytest.raises(GatewayError, match="ended tool call 'b' without ever naming its tool"):
        assembled(begun)


@pytest.mark.parametrize(
    "fragments",
    [
        # an index that comes late, then a call that has nothing but an index
        [Fragment(None, "a", "f", '{"x":1}'), Fragment(3, "a", None, ""), Fragment(4, None, "g", "{}")],
        # an id that comes late, then a call that has nothing but an id
        [Fragment(0, None, "f", '{"x":1}'), Fragment(0, "a", None, ""), Fragment(None, "b", "g", "{}")],
    ],
)
def test_a_call_is_told_apart_by_what_comes_late(fragments: list[Fragment]) -> None:
    """By its index or its id, as if it had begun with it; without it the two could not be told apart."""
    assert [(call.name, call.arguments) for call in ready_calls(assembled(fragments))] == [("f", {"x": 1}), ("g", {})]
    with pytest.raises(GatewayError, match="do not tell which call it belongs to"):
        assembled([fragments[0], fragments[2]])


def test_a_call_begins_where_it_can_be_told_from_those_that_are_open() -> None:
    """Each pair has an index on both sides or an id on both sides; calls that have ended do not count.

    All pairs of calls are tried, with what they begin with and what comes late, and each kind of a third one.
    """
    ways = [("index", ""), ("index", "id"), ("id", ""), ("id", "index"), ("index id", "")]
    for pair, ended, third in product(product(ways, ways), [(), (0,), (1,), (0, 1)], ("index", "id", "index id", "")):
        calls, events, still_open = ToolCalls(), list[BackendRawEvent](), dict[int, str]()
        for number, (said, late) in enumerate(pair):
            if begins_as_it_should(number, said, still_open, calls, events):
                if late:
                    calls.whole(number, events, call_id=f"c{number}")
                still_open[number] = f"{said} {late}"
        for number in ended:
            if "index" in still_open.get(number, ""):
                calls.end(number, events)
                del still_open[number]
        begins_as_it_should(2, third, still_open, calls, events)

        calls.end_all(events)
        assert_consistent(events)


def begins_as_it_should(
    number: int, said: str, still_open: dict[int, str], calls: ToolCalls, events: list[BackendRawEvent]
) -> bool:
    """Whether the call begins, which it must where each open one shares an index or an id with it, and only there."""
    words = set(said.split())
    piece = Fragment(number if "index" in words else None, f"c{number}" if "id" in words else None, "f", "{}")
    if all(words & set(other.split()) for other in still_open.values()):
        piece.feed(calls, events)
        return True
    with pytest.raises(GatewayError) as failure:
        piece.feed(calls, events)
    assert (failure.value.kind, failure.value.message) == (
        "protocol_violation",
        "the backend sent a piece of a tool call whose index and id do not tell which call it belongs to",
    )
    return False


def test_an_id_that_comes_after_the_end_of_its_call_opens_it_to_nothing() -> None:
    """It is known as that call's; the next call begins as it would have."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    Fragment(0, None, "f", "{}").feed(calls, events)
    calls.end(0, events)
    calls.whole(0, events, call_id="late")
    Fragment(None, None, "g", '{"x"').feed(calls, events)
    calls.whole(None, events, call_id="late", arguments="{}")
    Fragment(None, None, None, ":1}").feed(calls, events)
    calls.end_all(events)

    assert [(call.name, call.arguments) for call in ready_calls(events)] == [("f", {}), ("g", {"x": 1})]


@pytest.mark.parametrize("begun", ["", " ", '{"ci', '{"city":"Paris"'])
def test_another_call_at_the_index_of_one_that_is_not_complete_is_refused(begun: str) -> None:
    """A name and a new id at a used index begin another call only where the first one is whole."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    Fragment(0, "a", "f", begun).feed(calls, events)

    with pytest.raises(GatewayError, match="not complete") as failure:
        Fragment(0, "b", "f", '{"city":"Rome"}').feed(calls, events)

    assert failure.value.kind == "protocol_violation"
    assert ready_calls(events) == []


def test_another_call_at_the_index_of_a_whole_one_without_id_begins() -> None:
    """A first call that has no id is told apart by the id of the second."""
    events = assembled([Fragment(0, None, "f", '{"x":1}'), Fragment(0, "b", "f", '{"x":2}')])

    assert [call.arguments for call in ready_calls(events)] == [{"x": 1}, {"x": 2}]


@pytest.mark.parametrize(
    "bad",
    [
        Fragment(1, None, None, '{"city":"Paris"}'),
        Fragment(1, "b", "g", '{"x":'),
        Fragment(1, "b", "g", "[]"),
        Fragment(1, "b", "g", '{"x":1e999}'),
    ],
    ids=["nameless", "cut", "no object", "no number"],
)
def test_no_call_is_ready_where_one_cannot_be_completed(bad: Fragment) -> None:
    """Before the first call becomes ready at the end mark, all are checked."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    for fragment in (Fragment(0, "a", "f", ""), bad, Fragment(2, "c", "h", "{}")):
        fragment.feed(calls, events)

    with pytest.raises(GatewayError) as failure:
        calls.end_all(events)

    assert failure.value.kind == "protocol_violation"
    assert ready_calls(events) == []
    assert not calls.any_ready


def test_a_call_that_was_ended_by_itself_stays_ready() -> None:
    """Only what depended on the end mark is held back."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    Fragment(0, "a", "f", "{}").feed(calls, events)
    calls.end(0, events)
    calls.end(0, events)
    Fragment(1, "b", "g", "{").feed(calls, events)

    with pytest.raises(GatewayError):
        calls.end_all(events)

    assert [call.id for call in ready_calls(events)] == ["a"]


@pytest.mark.parametrize("text", ['{"x":1e999}', '{"x":-1e999}', '{"x":Infinity}', '{"x":' * 300 + "1" + "}" * 300])
def test_arguments_are_judged_as_in_a_history(text: str) -> None:
    """Numbers that no float can hold and endless nesting are refused, as they are on their way back."""
    with pytest.raises(GatewayError) as failure:
        assembled([Fragment(0, "a", "f", text)])

    assert failure.value.kind == "protocol_violation"


def test_of_two_equal_keys_the_last_counts() -> None:
    """As everywhere in the protocol; the text stays as it came."""
    (call,) = ready_calls(assembled([Fragment(0, "a", "f", '{"x":1,"x":2}')]))

    assert (call.arguments, call.arguments_json) == ({"x": 2}, '{"x":1,"x":2}')


# --- whole calls ---------------------------------------------------------------------------------------------


def completed(begun: str, whole: str, *, piece_otherwise: bool = False) -> list[BackendRawEvent]:
    """The events of one call whose fragments say `begun`, and which is then repeated as `whole`."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    Fragment(0, "a", "f", begun[:1]).feed(calls, events)
    Fragment(0, "a", None, begun[1:]).feed(calls, events)
    calls.whole(0, events, call_id="a", name="f", arguments=whole, piece_otherwise=piece_otherwise)
    calls.end_all(events)
    assert_consistent(events)
    return events


@pytest.mark.parametrize(
    ("begun", "whole", "text"),
    [
        ("", '{"x":1}', '{"x":1}'),
        (" ", '{"x":1}', ' {"x":1}'),
        ('{"x"', '{"x":1}', '{"x":1}'),
        ('{"x":1}', '{"x":1}', '{"x":1}'),
        ('{"x": 1}', '{"x":1}', '{"x": 1}'),
        ('{"x":1}', "", '{"x":1}'),
        ('{"x":1}', '{"x":1}\n', '{"x":1}\n'),
        ("", "", "{}"),
        ("", "{}", "{}"),
    ],
)
def test_a_whole_call_fills_what_its_fragments_left_out(begun: str, whole: str, text: str) -> None:
    """And says nothing new where it repeats them, however it is written; empty arguments say nothing."""
    (call,) = ready_calls(completed(begun, whole))

    assert call.arguments_json == text


@pytest.mark.parametrize(("begun", "whole"), [('{"x":1}', '{"x":2}'), ('{"x":1}', "{}"), ('{"x', '{"y":1}')])
def test_a_whole_call_that_contradicts_its_fragments_is_refused(begun: str, whole: str) -> None:
    """Which of the two the model meant cannot be known."""
    with pytest.raises(GatewayError, match="other arguments") as failure:
        completed(begun, whole)

    assert failure.value.kind == "protocol_violation"


def test_what_is_not_the_whole_may_be_a_piece() -> None:
    """In a dialect that does not tell them apart, what does not begin with what was said goes on after it."""
    pieces = [('{"x"', ":1}"), ('{"x":', "1}"), ("{", '"x":1}'), ('{"x"', '{"x":1}'), ("", '{"x":1}')]
    for begun, whole in (*pieces, ('{"x":1}', '{"x":1}')):
        (call,) = ready_calls(completed(begun, whole, piece_otherwise=True))

        assert call.arguments_json == '{"x":1}'
    calls, events = ToolCalls(), list[BackendRawEvent]()
    Fragment(0, "a", "f", "{").feed(calls, events)
    with pytest.raises(GatewayError, match="other arguments"):
        calls.whole(0, events, arguments='"x":1}')


def test_a_whole_call_without_an_index_begins_a_call_by_its_name() -> None:
    """Without arguments, too; and so does one at the index of a call that is complete."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    calls.whole(None, events, name="f")
    calls.end_all(events)
    calls.whole(0, events, name="g", arguments='{"x":1}')
    calls.whole(0, events, call_id="b", name="h", arguments="{}")
    calls.end_all(events)

    assert_consistent(events)
    assert [(call.name, call.arguments_json) for call in ready_calls(events)] == [
        ("f", "{}"),
        ("g", '{"x":1}'),
        ("h", "{}"),
    ]


def test_a_whole_call_may_be_the_first_that_is_said_of_it() -> None:
    """It begins the call then; it may bring the name, too."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    calls.whole(0, events, call_id="a", name="f", arguments="{}")
    Fragment(1, "b", None, '{"x"').feed(calls, events)
    calls.whole(1, events, call_id="b", name="g", arguments='{"x":1}')
    calls.end_all(events)

    assert_consistent(events)
    assert [(call.id, call.name) for call in ready_calls(events)] == [("a", "f"), ("b", "g")]


def test_a_whole_call_with_another_name_is_refused() -> None:
    """A call has one name."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    Fragment(0, "a", "f", "{}").feed(calls, events)

    with pytest.raises(GatewayError) as failure:
        calls.whole(0, events, name="g", arguments="{}")
    assert failure.value.message == (
        "the backend sent two names for one tool call without an id to tell them apart: 'f', 'g'"
    )


def test_an_ended_call_stays_ended() -> None:
    """Its end may be said again; another id does not make it another call."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    Fragment(0, None, "f", '{"x":1}').feed(calls, events)

    assert calls.end_if_whole(0, events)
    assert calls.end_if_whole(0, events)
    assert len(ready_calls(events)) == 1
    with pytest.raises(GatewayError, match="after it had ended"):
        Fragment(0, "late", None, " ").feed(calls, events)


def test_a_ready_call_may_be_repeated_but_not_changed() -> None:
    """After its end a call that is said once more must be the same."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    Fragment(0, "a", "f", '{"x":1}').feed(calls, events)
    Fragment(1, "b", "g", "").feed(calls, events)
    Fragment(2, "c", "h", " ").feed(calls, events)
    Fragment(2, "c", None, " ").feed(calls, events)
    calls.end_all(events)
    before = list(events)
    for key, same in ((0, ""), (0, '{"x":1}'), (0, '{ "x": 1 }'), (0, '{"x":1} '), (1, "{}"), (2, "  {}")):
        calls.whole(key, events, arguments=same)
    assert events == before

    for key, other in ((0, '{"x":2}'), (1, '{"x":1}'), (0, '{"x":1}}')):
        with pytest.raises(GatewayError) as failure:
            calls.whole(key, events, arguments=other)
        assert failure.value.kind == "protocol_violation"


def test_whether_arguments_came_is_told() -> None:
    """Any piece of them counts; the `{}` that may only hold their place does not."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    calls.fragment(0, events, name="f", arguments="{}", may_be_placeholder=True)
    Fragment(1, None, "f", "").feed(calls, events)
    Fragment(2, None, "f", " ").feed(calls, events)

    assert [calls.has_arguments(key) for key in range(3)] == [False, False, True]
    Fragment(0, None, None, '{"x":1}').feed(calls, events)
    assert calls.has_arguments(0)


# --- an empty object that may hold a place --------------------------------------------------------------------


def in_place(*pieces: tuple[str | None, str]) -> list[BackendRawEvent]:
    """The events of one call whose pieces, each with a name or without, may begin with a placeholder."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    for name, arguments in pieces:
        calls.fragment(0, events, call_id="a", name=name, arguments=arguments, may_be_placeholder=True)
    calls.end_all(events)
    assert_consistent(events)
    return events


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([("f", "{}")], "{}"),
        ([("f", " {}\n")], " {}\n"),
        ([("f", "{}"), (None, "")], "{}"),
        ([("f", "{}"), (None, " ")], " {}"),
        ([("f", "{}"), (None, '{"x":1}')], '{"x":1}'),
        ([("f", "{}"), (None, ' {"x"'), (None, ":1}")], ' {"x":1}'),
        ([("f", "{}"), (None, "{}")], "{}"),
        ([("f", "{}"), ("f", "{}")], "{}"),
        ([("f", "{"), (None, "}")], "{}"),
        ([("f", ""), (None, "{}")], "{}"),
        ([(None, ""), ("f", "{}"), (None, '{"x":1}')], '{"x":1}'),
        ([("f", '{"x":1}')], '{"x":1}'),
    ],
)
def test_an_empty_object_beside_a_name_counts_where_nothing_else_comes(
    pieces: list[tuple[str | None, str]], text: str
) -> None:
    """What comes after it takes its place."""
    (call,) = ready_calls(in_place(*pieces))

    assert call.arguments_json == text


@pytest.mark.parametrize(
    "pieces",
    [
        [("f", "{}"), (None, '"x":1}')],
        [("f", "{}"), (None, "{}"), (None, '{"x":1}')],
        [("f", "{}"), ("f", "{}"), (None, '{"x":1}')],
        [("f", ""), (None, "{}"), (None, '{"x":1}')],
        [("f", '{"x":1}'), (None, "{}")],
        [("f", '{"x":1}'), ("f", "{}")],
    ],
)
def test_only_the_first_piece_beside_the_name_holds_a_place(pieces: list[tuple[str | None, str]]) -> None:
    """Any other is a piece of the arguments, which are no JSON then."""
    with pytest.raises(GatewayError, match="the arguments of tool call 'a'") as failure:
        in_place(*pieces)

    assert failure.value.kind == "protocol_violation"


def test_an_empty_object_holds_no_place_unless_it_may() -> None:
    """Elsewhere it is what the model said."""
    with pytest.raises(GatewayError, match="the arguments of tool call 'a'"):
        assembled([Fragment(0, "a", "f", "{}"), Fragment(0, None, None, '{"x":1}')])


def test_a_place_that_is_held_is_kept_and_is_a_piece() -> None:
    """It counts as its bytes; a call that got it after another one began is not proven by that."""
    calls, events = ToolCalls(max_bytes=3), list[BackendRawEvent]()
    with pytest.raises(GatewayError, match="max_event_bytes"):
        calls.fragment(0, events, call_id="a", name="f", arguments="{}", may_be_placeholder=True)
    calls, events = ToolCalls(max_bytes=6), list[BackendRawEvent]()
    assert calls.fragment(0, events, call_id="a") == "a"
    assert calls.fragment(1, events, call_id="b", name="g") == "b"
    calls.fragment(0, events, name="f", arguments="{}", may_be_placeholder=True)
    calls.end_before_cut(events)

    assert events == [ToolCallDelta("b", "g", ""), ToolCallDelta("a", "f", "")]


# --- bounds --------------------------------------------------------------------------------------------------


def test_more_calls_than_any_answer_has_are_refused() -> None:
    """A thousand calls are an answer, one more is not; however many there are, the cost is linear."""
    calls, events = ToolCalls(), list[BackendRawEvent]()
    for number in range(MAX_CALLS):
        Fragment(number, f"id{number}", "f", "{}").feed(calls, events)
    with pytest.raises(GatewayError, match="more than 1000 tool calls"):
        Fragment(MAX_CALLS, "last", "f", "{}").feed(calls, events)
    calls.end_all(events)

    assert len(ready_calls(events)) == MAX_CALLS


@pytest.mark.parametrize(
    "fragment",
    [
        Fragment(0, "a", None, "x" * 50),
        Fragment(0, "a", None, "é" * 25),
        Fragment(0, "b" * 50, None, ""),
        Fragment(1, "b" * 30, "n" * 30, ""),
    ],
)
def test_what_is_kept_of_calls_is_bounded(fragment: Fragment) -> None:
    """Arguments, names and ids, in bytes; what fits exactly fits."""
    calls, events = ToolCalls(max_bytes=50), list[BackendRawEvent]()
    Fragment(0, "a", "f", "x" * 48).feed(calls, events)

    with pytest.raises(GatewayError, match="max_event_bytes") as failure:
        fragment.feed(calls, events)

    assert failure.value.kind == "protocol_violation"


def test_what_is_kept_counts_as_bytes() -> None:
    """A character may have more than one of them."""
    for characters, fits in ((25, True), (26, False)):
        calls, events = ToolCalls(max_bytes=52), list[BackendRawEvent]()
        Fragment(0, "a", "f", "").feed(calls, events)
        if fits:
            Fragment(0, None, None, "é" * characters).feed(calls, events)
            continue
        with pytest.raises(GatewayError, match="more than 52 bytes"):
            Fragment(0, None, None, "é" * characters).feed(calls, events)


def test_an_id_that_is_repeated_is_kept_once() -> None:
    """A server that repeats another id in each piece takes no more room than one that does not."""
    calls, events = ToolCalls(max_bytes=100), list[BackendRawEvent]()
    Fragment(0, "a", "f", "").feed(calls, events)
    for _ in range(1000):
        Fragment(0, "other", None, "").feed(calls, events)

    assert len(events) == 1


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), ("", ""), ('{"x"', '{"x"'), ({"city": "é"}, '{"city":"é"}'), ({}, "{}")]
)
def test_arguments_are_a_text_or_an_object(value: Any, text: str) -> None:
    """An object is written as JSON."""
    assert arguments_text(value) == text


@pytest.mark.parametrize("value", [5, True, [1], 1.5])
def test_other_arguments_are_a_protocol_violation(value: Any) -> None:
    """A number or an array is neither."""
    with pytest.raises(GatewayError, match=r"arguments that are neither a string nor an object$") as failure:
        arguments_text(value)

    assert failure.value.kind == "protocol_violation"


def test_an_object_with_a_number_that_is_none_is_refused() -> None:
    """What the parser of the whole event made infinity of does not become ready."""
    with pytest.raises(GatewayError) as failure:
        assembled([Fragment(0, "a", "f", arguments_text({"x": float("inf")}))])

    assert failure.value.kind == "protocol_violation"
