"""Chat templates: what they render, and what they and the messages may do wrong."""

from datetime import datetime
from typing import Any

import pytest

from hearthring.protocol.errors import BadModelFile, BadOption
from hearthring.shards.chat import render_chat
from tests.tiny import CHAT_TEMPLATE

USER = {"role": "user", "content": "Why?"}


def test_chatml() -> None:
    messages = [{"role": "system", "content": "Be brief."}, USER]
    assert render_chat(messages, CHAT_TEMPLATE) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_blocks_leave_no_blanks_and_specials_are_given() -> None:
    template = """{{ bos_token }}
{% for m in messages %}
    {% if m.role == 'skip' %}{% continue %}{% endif %}
    {{- m.content | trim }}
{% endfor %}
{{ eos_token }}{{ strftime_now('%Y') }}{{ messages | tojson }}"""
    messages = [{"role": "skip", "content": "no"}, {"role": "user", "content": " <é> "}]
    text = render_chat(
        messages, template, bos_token="<s>", eos_token="</s>", now=lambda: datetime(2031, 5, 6)
    )
    assert text.startswith("<s>\n<é>\n</s>2031[{")
    assert '"content": " <é> "' in text


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "messages:"),
        ("Why?", "messages:"),
        (None, "messages:"),
        (["Why?"], r"messages\[0\]:"),
        ([USER, {"content": "x"}], r"messages\[1\]\.role:"),
        ([{"role": "user"}], r"messages\[0\]\.content:"),
        ([{"role": "user", "content": 1}], r"messages\[0\]\.content:"),
        ([{"role": "user", "content": None}], r"messages\[0\]\.content:"),
        ([{"role": "user", "content": "x", "name": []}], r"messages\[0\]\.name:"),
    ],
)
def test_what_isnt_messages_is_named(messages: Any, field: str) -> None:
    with pytest.raises(BadOption, match=f"^{field}"):
        render_chat(messages, CHAT_TEMPLATE)


def test_a_template_may_refuse() -> None:
    with pytest.raises(BadOption, match="messages: .*must\nalternate".replace("\n", " ")):
        render_chat([USER], "{{ raise_exception('roles must\nalternate') }}")


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'content': 'x'}) }}",
        "{% for i in range(1000000000) %}{% endfor %}",
        "{% include 'x' %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' | nofilter }}",
    ],
)
def test_a_template_that_fails_is_the_files_fault(template: str) -> None:
    with pytest.raises(BadModelFile, match="chat template") as raised:
        render_chat([USER], template)
    assert "\n" not in str(raised.value)


def test_messages_are_left_as_they_were() -> None:
    messages = [dict(USER)]
    render_chat(messages, CHAT_TEMPLATE)
    assert messages == [USER]
