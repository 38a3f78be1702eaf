"""``hearthring ask`` and ``hearthring chat``."""

import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from hearthring.manner import USUAL, Manner, with_manner
from hearthring.options import Join, Json, Model
from hearthring.protocol.errors import BadOption


@with_manner
def ask(
    prompt: Annotated[
        str, typer.Argument(help="The question; - reads standard input.", metavar="PROMPT")
    ],
    join: Join = None,
    model: Model = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep so many tokens; 0 is off.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep this share of probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Keep tokens this likely beside the best.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="1 is off.")] = 1.0,
    seed: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="For temperatures above 0.", show_default="drawn"),
    ] = None,
    stop: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="End the answer before this text (repeat it for several)."),
    ] = None,
    system: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A system message."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as it is, without chat template.")
    ] = False,
    proof: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Save the output proof here.", metavar="FILE"),
    ] = None,
    spot_check: Annotated[
        float,
        typer.Option(
            help="Share of the answer, 0 to 1, at which stages must show what they computed while "
            "they do, newcomers about twice as often. Who can't is replaced, and the answer taken "
            "back. Needs the model's layers.",
            metavar="RATE",
        ),
    ] = 0.0,
    manner: Manner = USUAL,
    as_json: Json = False,
) -> None:
    """Ask the swarm; the answer is streamed to standard output."""
    from hearthring.asking import ask_once

    text = _read_input() if prompt == "-" else prompt
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    if raw and system is not None:
        raise BadOption("a raw prompt has no system message", field="system")
    options: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": tuple(stop or ()),
        "spot_check": spot_check,
    }
    question = text if raw else None
    ask_once(join, model, manner, question, messages, options, proof, as_json)


def _read_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise BadOption("standard input isn't text in UTF-8", field="prompt") from None


@with_manner
def chat(
    join: Join = None,
    model: Model = None,
    max_tokens: Annotated[int, typer.Option(help="Longest turn, in tokens.")] = 512,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Keep this share of probability.")] = 0.95,
    system: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A system message."),
    ] = None,
    manner: Manner = USUAL,
) -> None:
    """Talk with the swarm, turn by turn, until an empty line."""
    from hearthring.asking import chat as talk

    options: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
    }
    talk(join, model, manner, system, options)
