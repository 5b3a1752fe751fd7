"""Files, images and files in tool results, and failed calls, in every dialect's form."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from beluna_gateway.errors import GatewayError

from ..oracles import ORACLES
from ..recorded import canonical, dialect

PDF = base64.b64encode(b"%PDF-1.7").decode()
HELLO = base64.b64encode("héllo".encode()).decode()
PNG = {"image_url": {"url": "data:image/png;base64,aGk="}}
LINKED = {"image_url": {"url": "https://h/i.png"}}
CALL = {"id": "c", "name": "f", "arguments_json": "{}"}
USER = {"role": "user", "parts": [{"text": {"text": "Hi"}}]}


def file(**fields: Any) -> dict[str, Any]:
    return {"file": {"mime_type": "application/pdf", **fields}}


def text(value: str) -> dict[str, Any]:
    return {"text": {"text": value}}


def body_of(name: str, *messages: Any) -> dict[str, Any]:
    """The body, which the provider's own SDK takes."""
    body = dialect(name).encode(canonical({"type": "infer", "messages": list(messages)}), "m").body
    ORACLES[name].request(json.loads(json.dumps(body)))
    return body


def sent(name: str, *parts: Any) -> Any:
    """What a user's parts become."""
    body = body_of(name, {"role": "user", "parts": list(parts)})
    if name == "gemini":
        return body["contents"][0]["parts"]
    return body["input" if name == "openai_responses" else "messages"][0]["content"]


def result(*parts: Any, **fields: Any) -> list[Any]:
    answer = {"role": "tool", "tool_call_id": "c", "tool_name": "f", "parts": list(parts), **fields}
    return [USER, {"role": "assistant", "parts": [], "tool_calls": [CALL]}, answer]


def sent_result(name: str, *parts: Any, **fields: Any) -> Any:
    """What a result becomes."""
    body = body_of(name, *result(*parts, **fields))
    if name == "anthropic":
        return body["messages"][2]["content"][0]
    if name == "gemini":
        return body["contents"][2]["parts"][0]["functionResponse"]
    return body["input"][-1]


def refusal(name: str, *messages: Any, kind: str = "unsupported_capability") -> str:
    with pytest.raises(GatewayError) as caught:
        body_of(name, *messages)
    assert (caught.value.kind, caught.value.retryable) == (kind, False)
    return caught.value.message


# --- files of users ------------------------------------------------------------------------------------------

DATA_URL = f"data:application/pdf;base64,{PDF}"


@pytest.mark.parametrize(
    ("name", "part", "block"),
    [
        (
            "openai_compatible",
            file(data=PDF, name="a.pdf"),
            {"type": "file", "file": {"filename": "a.pdf", "file_data": DATA_URL}},
        ),
        (
            "openai_compatible",
            file(data=PDF),
            {"type": "file", "file": {"filename": "file.pdf", "file_data": DATA_URL}},
        ),
        (
            "openai_compatible",
            file(data="aGk=", mime_type="audio/x-wav"),
            {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
        ),
        (
            "openai_compatible",
            file(data="aGk=", mime_type="audio/mpeg"),
            {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}},
        ),
        (
            "openai_responses",
            file(data=PDF, name="a.pdf"),
            {"type": "input_file", "filename": "a.pdf", "file_data": DATA_URL},
        ),
        ("openai_responses", file(url="https://h/a.pdf"), {"type": "input_file", "file_url": "https://h/a.pdf"}),
        (
            "anthropic",
            file(data=PDF, name="a.pdf"),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                "title": "a.pdf",
            },
        ),
        (
            "anthropic",
            file(url="https://h/a.pdf"),
            {"type": "document", "source": {"type": "url", "url": "https://h/a.pdf"}},
        ),
        (
            "anthropic",
            file(data=HELLO, mime_type="text/plain"),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "héllo"}},
        ),
        ("gemini", file(data=PDF, name="a.pdf"), {"inlineData": {"mimeType": "application/pdf", "data": PDF}}),
        (
            "gemini",
            file(url="https://h/v", mime_type="video/mp4"),
            {"fileData": {"fileUri": "https://h/v", "mimeType": "video/mp4"}},
        ),
    ],
)
def test_a_file_goes_in_the_providers_form(name: str, part: Any, block: dict[str, Any]) -> None:
    """Beside the text, in its order."""
    first, found, last = sent(name, text("Before"), part, text("After"))

    assert found == block
    assert [first.get("text"), last.get("text")] == ["Before", "After"]


@pytest.mark.parametrize("name", ["openai_compatible", "openai_responses", "anthropic", "gemini"])
def test_a_file_by_a_data_url_is_a_file_by_its_data(name: str) -> None:
    """Both say the same."""
    assert sent(name, file(url=DATA_URL)) == sent(name, file(data=PDF))


@pytest.mark.parametrize("name", ["openai_compatible", "openai_responses", "anthropic", "gemini", "ollama"])
def test_an_image_as_a_file_is_an_image(name: str) -> None:
    """Whatever a provider's form of files is, an image has its own."""
    as_file = file(data="aGk=", mime_type="image/jpg")
    as_image = {"image_url": {"url": "data:image/jpeg;base64,aGk="}}

    assert body_of(name, {"role": "user", "parts": [as_file]}) == body_of(name, {"role": "user", "parts": [as_image]})


@pytest.mark.parametrize(
    ("name", "part", "named"),
    [
        ("openai_compatible", file(url="https://h/a.pdf"), "messages[0].parts[1].file.url"),
        ("anthropic", file(data="aGk=", mime_type="text/csv"), "messages[0].parts[1].file: "),
        ("anthropic", file(url="https://h/a.txt", mime_type="text/plain"), "messages[0].parts[1].file: "),
        ("gemini", file(url="http://h/a.pdf"), "messages[0].parts[1].file.url"),
        ("ollama", file(data=PDF), "messages[0].parts[1].file: "),
        ("ollama", file(url="https://h/a.pdf"), "messages[0].parts[1].file: "),
    ],
)
def test_a_file_that_has_no_place_is_refused_by_name(name: str, part: Any, named: str) -> None:
    """With its place in the request."""
    assert refusal(name, {"role": "user", "parts": [text("See"), part]}).startswith(named)


def test_plain_text_that_is_none_is_refused() -> None:
    """Anthropic gets plain text as text."""
    broken = file(data="/w==", mime_type="text/plain")

    assert "UTF-8" in refusal("anthropic", {"role": "user", "parts": [broken]}, kind="invalid_request")


@pytest.mark.parametrize("name", ["openai_compatible", "openai_responses", "anthropic", "gemini", "ollama"])
@pytest.mark.parametrize("role", ["system", "assistant"])
def test_files_elsewhere_are_refused(name: str, role: str) -> None:
    """But in turns of Gemini's model, which may hold any part."""
    messages = [{"role": role, "parts": [file(data=PDF)]}, USER]
    if (name, role) == ("gemini", "assistant"):
        assert body_of(name, *messages)["contents"][0]["role"] == "model"
    else:
        assert "file" in refusal(name, *messages)


@pytest.mark.parametrize("name", ["openai_compatible", "openai_responses", "anthropic"])
@pytest.mark.parametrize(("part", "field"), [(PNG, "image_url"), (file(data=PDF), "file")])
def test_a_refused_part_of_an_assistant_is_named_by_its_place(name: str, part: Any, field: str) -> None:
    """Also where another one before it is the same but for what it is."""
    refused = refusal(name, USER, {"role": "assistant", "parts": [text("See"), text("See"), part]}, USER)

    assert refused.startswith(f"messages[1].parts[2].{field}: ")


def test_a_refused_url_in_a_turn_of_geminis_model_is_named_by_its_place() -> None:
    """Which may hold media, but none that has to be fetched by http."""
    turn = {"role": "assistant", "parts": [PNG, {"image_url": {"url": "http://h/i.png"}}]}

    assert refusal("gemini", USER, turn, USER).startswith("messages[1].parts[1].image_url.url: ")


# --- media in results ----------------------------------------------------------------------------------------


def test_anthropic_takes_images_and_documents_in_a_result() -> None:
    """As blocks, in their order; a single text stays the string that it was."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    document = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}

    assert sent_result("anthropic", PNG)["content"] == [image]
    assert sent_result("anthropic", text("See"), PNG, file(data=PDF))["content"] == [
        {"type": "text", "text": "See"},
        image,
        document,
    ]
    assert sent_result("anthropic", text("See"))["content"] == "See"


def test_the_responses_api_takes_images_and_files_in_a_result() -> None:
    """As input content, in their order; a single text stays the string that it was."""
    image = {"type": "input_image", "image_url": "https://h/i.png", "detail": "auto"}

    assert sent_result("openai_responses", LINKED)["output"] == [image]
    assert sent_result("openai_responses", text("See"), LINKED, file(data=PDF))["output"] == [
        {"type": "input_text", "text": "See"},
        image,
        {"type": "input_file", "filename": "file.pdf", "file_data": DATA_URL},
    ]
    assert sent_result("openai_responses", text("See"))["output"] == "See"


def test_gemini_takes_images_and_files_beside_a_result() -> None:
    """In `parts` of the function response, whose `response` holds the text or the JSON."""
    image, document = (
        {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
        {"inlineData": {"mimeType": "application/pdf", "data": PDF}},
    )
    both = sent_result("gemini", text("See"), PNG, file(data=PDF))
    json_and_image = sent_result("gemini", {"json": {"value": {"at": 1}}}, PNG)

    assert (both["response"], both["parts"]) == ({"output": "See"}, [image, document])
    assert (json_and_image["response"], json_and_image["parts"]) == ({"at": 1}, [image])
    assert "parts" not in sent_result("gemini", text("See"))


@pytest.mark.parametrize("name", ["openai_compatible", "ollama"])
@pytest.mark.parametrize(("part", "field"), [(PNG, "image_url"), (LINKED, "image_url"), (file(data=PDF), "file")])
def test_media_in_a_result_are_refused_elsewhere(name: str, part: Any, field: str) -> None:
    """By name."""
    assert f"messages[2].parts[1].{field}" in refusal(name, *result(text("See"), part))


# --- failed calls --------------------------------------------------------------------------------------------


def test_anthropic_is_told_that_a_call_failed() -> None:
    """By its own field, and only where it did."""
    assert sent_result("anthropic", text("boom"), is_error=True) == {
        "type": "tool_result",
        "tool_use_id": "c",
        "content": "boom",
        "is_error": True,
    }
    assert sent_result("anthropic", text("ok"), is_error=False) == sent_result("anthropic", text("ok"))
    for empty in ("", " \n"):
        assert sent_result("anthropic", text(empty), is_error=True)["content"] == "error"  # HTTP 400 without any


def test_anthropic_takes_images_and_files_of_a_failed_call_behind_all_results() -> None:
    """HTTP 400 "all content must be type `text` if `is_error` is true": they stand in the same turn, none is lost."""
    calls = [CALL, {**CALL, "id": "d"}]
    failed = {**result(PNG, text("boom"), file(data=PDF), is_error=True)[2], "cache": True}
    other = {**result(text("ok"), LINKED)[2], "tool_call_id": "d"}
    silent = result(PNG, is_error=True)

    body = body_of("anthropic", USER, {"role": "assistant", "parts": [], "tool_calls": calls}, failed, other, USER)

    error, fine, image, document, question = body["messages"][2]["content"]
    assert error == {"type": "tool_result", "tool_use_id": "c", "content": "boom", "is_error": True}
    assert [block["type"] for block in fine["content"]] == ["text", "image"]
    assert (image["type"], document["type"], question) == ("image", "document", {"type": "text", "text": "Hi"})
    assert document["cache_control"] == {"type": "ephemeral"}
    assert [block["type"] for block in body_of("anthropic", *silent)["messages"][2]["content"]] == [
        "tool_result",
        "image",
    ]
    assert sent_result("anthropic", PNG, is_error=True)["content"] == "error"


@pytest.mark.parametrize(
    ("part", "response"),
    [
        (text("boom"), {"error": "boom"}),
        ({"json": {"value": {"code": 1}}}, {"error": {"code": 1}}),
        ({"json": {"value": [1]}}, {"error": [1]}),
    ],
)
def test_gemini_is_told_that_a_call_failed(part: Any, response: Any) -> None:
    """`error` is its word for what a function says went wrong."""
    assert sent_result("gemini", part, is_error=True)["response"] == response
    assert sent_result("gemini", part, is_error=False) == sent_result("gemini", part)


@pytest.mark.parametrize("name", ["openai_compatible", "openai_responses", "ollama"])
def test_a_failed_call_is_passed_over_where_there_is_no_word_for_it(name: str) -> None:
    """The result itself says what happened."""
    assert body_of(name, *result(text("boom"), is_error=True)) == body_of(name, *result(text("boom")))
