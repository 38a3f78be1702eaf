"""Messages of a chat as the one text a model expects, by the template in its file.

A template is code of whoever made the file. It runs in jinja2's immutable sandbox, which keeps it
from Python's inner parts; it isn't kept from taking long.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hearthring.protocol.errors import BadModelFile, BadOption


class _Refused(Exception):
    """The template called ``raise_exception``: it doesn't accept these messages."""


def render_chat(
    messages: Sequence[Mapping[str, str]],
    template: str,
    *,
    bos_token: str = "",
    eos_token: str = "",
    now: Callable[[], datetime] = datetime.now,
) -> str:
    """The prompt for the assistant's next turn.

    Raises ``BadOption`` naming the message that isn't one, or with what the template has against
    them, and ``BadModelFile`` when the template itself doesn't work.
    """
    checked = [_message(index, message) for index, message in enumerate(_list(messages))]
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: now().strftime(form)
    try:
        return environment.from_string(template).render(
            messages=checked,
            add_generation_prompt=True,
            bos_token=bos_token,
            eos_token=eos_token,
        )
    except _Refused as error:
        raise BadOption(
            f"the chat template refuses them: {_line(error)}", field="messages"
        ) from None
    except TemplateSyntaxError as error:
        raise BadModelFile(f"the chat template doesn't parse: {_line(error)}") from None
    except Exception as error:  # a template can make Python raise anything
        raise BadModelFile(f"the chat template fails: {_line(error)}") from None


def _line(error: Exception) -> str:
    name = "" if isinstance(error, _Refused | TemplateError) else f"{type(error).__name__} "
    return " ".join(f"{name}{error}".split())[:300]


def _list(messages: Any) -> Sequence[Any]:
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence) or not messages:
        raise BadOption("there has to be a list of at least one message", field="messages")
    return messages


def _message(index: int, message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise BadOption("this isn't a message with role and content", field=f"messages[{index}]")
    for key in ("role", "content"):
        if key not in message:
            raise BadOption("this is missing", field=f"messages[{index}].{key}")
    for key, value in message.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise BadOption("this has to be text", field=f"messages[{index}].{key}")
    return dict(message)


def _refuse(message: object = "") -> NoReturn:
    raise _Refused(str(message))


def _to_json(value: object, indent: int | None = None) -> str:
    # jinja2's own escapes for HTML, which a prompt isn't.
    return json.dumps(value, ensure_ascii=False, indent=indent)
