"""The pure half of `copilot.protocol` `language_server`: a request as a document, completion items as an answer.

What a conversation becomes. The server knows documents, not conversations: it completes text at a cursor. A single
user message *is* the document, to the letter, and the answer is what follows it. Anything longer is written down as a
transcript that ends where the assistant's next words go.
"""

from __future__ import annotations

from pydantic import JsonValue

from ...canonical import AssistantMessage, CanonicalRequest, MediaPart, Message, SystemMessage, ToolMessage
from ...errors import GatewayError, protocol_violation, unsupported


def reject_unsupported(request: CanonicalRequest, default_model: str) -> None:
    """Refuses a request with a field that a completion at a cursor cannot carry.

    Raises:
        GatewayError: `unsupported_capability`.
    """
    sampling = request.sampling
    asked = {
        # The server picks its model by the account; `default_model` only names it in frames.
        "model": request.model not in (None, default_model),
        "tools": bool(request.tools),
        "tool_choice": request.tool_choice not in ("auto", "none"),
        "output_mode": request.output_mode != "text",
        "limits.max_output_tokens": request.max_output_tokens is not None,
        "sampling.temperature": sampling.temperature is not None,
        "sampling.top_p": sampling.top_p is not None,
        "sampling.seed": sampling.seed is not None,
        "sampling.stop": sampling.stop is not None,
        "enable_thinking": request.enable_thinking is not None,
        "reasoning": request.reasoning is not None,
        "parallel_tool_calls": request.parallel_tool_calls is False,
        "service_tier": request.service_tier is not None,
        **{f"cache.{name}": True for name in (request.cache.asked if request.cache is not None else ())},
        "include_reasoning": request.include_reasoning,
        "provider_options": bool(request.provider_options),
    }
    for index, message in enumerate(request.messages):
        asked[f"messages[{index}]"] = isinstance(message, ToolMessage)
        asked[f"messages[{index}].tool_calls"] = isinstance(message, AssistantMessage) and bool(message.tool_calls)
        for position, part in enumerate(message.parts):
            if isinstance(part, MediaPart):
                asked[f"messages[{index}].parts[{position}].{part.field}"] = True
    for field, found in asked.items():
        if found:
            raise unsupported(f"{field}: GitHub Copilot's language server has no place for it")


def document_text(request: CanonicalRequest) -> str:
    """The document whose continuation is the answer."""
    turns = [(_role(message), _text(message)) for message in request.messages]
    if len(turns) == 1 and turns[0][0] == "User":
        return turns[0][1]
    # A last turn of the assistant is the beginning of the answer, which the completion continues.
    begun = f"Assistant: {turns.pop()[1]}" if turns[-1][0] == "Assistant" else "Assistant:"
    return "".join(f"{role}: {text}\n\n" for role, text in turns) + begun


def _role(message: Message) -> str:
    match message:
        case SystemMessage():
            return "System"
        case AssistantMessage():
            return "Assistant"
        case _:
            return "User"


def _text(message: Message) -> str:
    return "\n".join(part.text for part in message.parts if not isinstance(part, MediaPart))


class SyntheticDocument:
    """A document with the cursor at its end, in the terms of the Language Server Protocol."""

    def __init__(self, uri: str, text: str) -> None:
        self.uri = uri
        self.text = text
        # As the protocol cuts lines, which is not as str.splitlines() does.
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._last_line = lines[-1].encode("utf-16-le")  # the protocol counts characters in UTF-16
        self._line = len(lines) - 1

    @property
    def cursor(self) -> JsonValue:
        """The end of the text as a `Position`."""
        return {"line": self._line, "character": len(self._last_line) // 2}

    def continuation(self, item: JsonValue) -> str:
        """The part of a completion item after the cursor: items may repeat the text that their range replaces."""
        if not isinstance(item, dict):
            raise protocol_violation("the language server sent a completion item that is not an object")
        text = item.get("insertText")
        if isinstance(text, dict):
            text = text.get("value")  # a StringValue
        if not isinstance(text, str):
            raise protocol_violation("the language server sent a completion item without an insertText")
        match item.get("range"):
            case {"start": {"line": int(line), "character": int(begin)}} if line == self._line and begin >= 0:
                return text.removeprefix(self._last_line[2 * begin :].decode("utf-16-le", "ignore"))
        return text


def item_list(result: JsonValue) -> list[JsonValue]:
    """The items of an answer or a partial result: in an object, bare, or none (null)."""
    items = result.get("items") if isinstance(result, dict) else result
    if items is None:
        return []
    if not isinstance(items, list):
        raise protocol_violation("the language server sent `items` that is not an array")
    return items


def sign_in_failure(status: str) -> GatewayError | None:
    """The error for an answer of `checkStatus`; None where requests may be sent."""
    if status in ("OK", "MaybeOK", "AlreadySignedIn"):
        return None
    if status == "NotAuthorized":
        return GatewayError(
            "authorization",
            "this GitHub account may not use Copilot (NotAuthorized): see https://github.com/settings/copilot",
            provider_code=status,
        )
    return GatewayError(
        "authentication",
        f"GitHub Copilot's language server is not signed in ({status}): sign in once with an editor that uses it, as "
        "the user who runs the daemon, or give this backend a `credential` with a GitHub token (docs/copilot.md)",
        provider_code=status,
    )
