"""Chat messages of a row, as the chat template gets them: every key that the row has, and nothing that it has not.

A key that is None is not there: tables of Arrow give each object the keys of all others, APIs write ``content: null`` beside
calls of tools, and templates would write "None". transformers leaves such keys of a message out, too.
"""

from collections.abc import Mapping
from typing import Any

from onelayer.errors import UserError
from onelayer.storage.lines import parse_json, why_not_json

Messages = list[dict[str, Any]]
OURS = ("conversation", "add_generation_prompt", "continue_final_message", "tokenize", "tools", "documents")
"""Arguments of ``apply_chat_template`` that are no keyword of a template."""
ENCODING = ("padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask")


def as_messages(value: Any, where: str) -> Messages | None:
    """The messages of a row; None where it has something else.

    Args:
        value: what the column holds.
        where: the row, for messages.

    Raises:
        UserError: messages that cannot be expressed as text.
    """
    if not (isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value)):
        return None
    messages = [_present(each, number, where) for number, each in enumerate(value)]
    if not any(_says_something(message) for message in messages):
        raise UserError(f"{where}: the messages are empty")
    return messages


def template_arguments(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a row has for the template beside its messages: the columns ``tools`` and ``chat_template_kwargs``, as in TRL.

    Raises:
        UserError: they are something else.
    """
    tools = _parsed(row.get("tools"), "tools", where)
    options = _parsed(row.get("chat_template_kwargs"), "chat_template_kwargs", where)
    if tools and not (isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools)):
        raise UserError(
            f"{where}: column 'tools' is no list of function schemas, which the chat template gets; rename it"
        )
    if options and not isinstance(options, Mapping):
        raise UserError(f"{where}: column 'chat_template_kwargs' is no object with keywords of the chat template")
    given = {key: value for key, value in (options or {}).items() if value is not None}
    if wrong := sorted(given.keys() & {*OURS, *ENCODING}):
        raise UserError(
            f"{where}: '{wrong[0]}' in 'chat_template_kwargs' is no keyword of a chat template; leave it out"
        )
    return {"tools": tools, **given} if tools else given


def without_fill(value: Any) -> Any:
    """A value of an Arrow table without the keys that objects have only because others have them."""
    if isinstance(value, list):
        return [without_fill(each) for each in value]
    if isinstance(value, Mapping):
        return {key: without_fill(each) for key, each in value.items() if each is not None}
    return value


def as_text(messages: Messages) -> Messages:
    """The messages for a template that knows only text: parts are joined by line feeds."""
    return [
        {**message, "content": _text(message["content"])} if "content" in message else message for message in messages
    ]


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content or ())


def _present(message: Mapping[str, Any], number: int, where: str) -> dict[str, Any]:
    """A message without the keys that are None."""
    place = f"{where}: message {number}"
    if not isinstance(message.get("role"), str):
        raise UserError(f"{place} has no role; messages have role and content")
    kept = {key: value for key, value in message.items() if value is not None}
    content = kept.get("content")
    if isinstance(content, list):
        kept["content"] = [_text_part(part, place) for part in content]
    elif not isinstance(content, str | None):
        raise UserError(f"{place} has a content of {type(content).__name__}; it is text or a list of parts")
    elif content is None and not kept.keys() - {"role", "content", "name"}:
        raise UserError(f"{place} has no content; messages have role and content")
    return kept


def _text_part(part: Any, place: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind != "text" or not isinstance(part.get("text"), str):
        raise UserError(
            f"{place} has a part of type {kind!r}; only parts of type 'text' with a 'text' can be trained on"
        )
    return {key: value for key, value in part.items() if value is not None}


def _says_something(message: Mapping[str, Any]) -> bool:
    return bool(_text(message.get("content")).strip() or message.keys() - {"role", "content", "name"})


def _parsed(value: Any, column: str, where: str) -> Any:
    """A column that may hold JSON as text, since Arrow has no objects of many shapes."""
    if not isinstance(value, str) or not value.strip():
        return None if isinstance(value, str) else value
    try:
        return parse_json(value)
    except ValueError as error:
        raise UserError(f"{where}: column '{column}' is not JSON ({why_not_json(error)}); rename it") from error
