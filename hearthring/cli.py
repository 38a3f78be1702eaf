"""The command line. Everything heavy is imported by the command that needs it."""

import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from hearthring.ask_commands import ask, chat
from hearthring.draft_commands import draft_app
from hearthring.failing import Failing
from hearthring.model_commands import model_app
from hearthring.node_command import node
from hearthring.options import (
    Join,
    Json,
    Model,
    Threads,
)
from hearthring.proof_commands import proof_app
from hearthring.protocol.errors import HearthringError
from hearthring.reputation_commands import reputation_app

USAGE = 64
# Typer brings its own click or uses the installed one, by version; its public error knows which.
ClickError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

app = typer.Typer(
    name="hearthring",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from hearthring import __version__

        print(f"hearthring {__version__}")
        raise typer.Exit


@app.callback()
def hearthring(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Run language models on machines you pool, and get a proof with every answer.

    New here? `hearthring demo` shows the whole thing on this machine in a minute.
    """


app.add_typer(model_app, name="model")
app.add_typer(reputation_app, name="reputation")
app.add_typer(proof_app, name="proof")
app.add_typer(draft_app, name="draft")


@app.command()
def demo(
    max_tokens: Annotated[int, typer.Option(help="Length of each answer, in tokens.")] = 48,
    keep: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A folder to keep the proofs in.", metavar="DIR"),
    ] = None,
) -> None:
    """A ring of four nodes on this machine, a real answer, an audited proof, and a caught liar."""
    from hearthring.demo import run_demo

    raise typer.Exit(run_demo(max_tokens, keep))


app.command()(node)
app.command()(ask)
app.command()(chat)


@app.command()
def audit(
    file: Annotated[Path, typer.Argument(help="A proof that `ask --proof` saved.", metavar="FILE")],
    join: Join = None,
    verifiers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="Have so many independent nodes of the swarm judge it, by majority (odd; needs "
            "--join). They see the prompt and the answer.",
            show_default="replay it here",
        ),
    ] = None,
    depth: Annotated[
        str,
        typer.Option(
            help="whole: replay the answer from its tokens. stage: verifiers replay each stage "
            "from what it was sent. cells: each stage opens drawn layers and positions, which you "
            "check with your copy (needs --join; for proofs of your own): a part of the work, "
            "against whoever computes something cheaper.",
        ),
    ] = "whole",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Replay a proof with your own copy of the model; with --join, what is missing is fetched.

    With --verifiers you need no copy: nodes that nobody could choose beforehand replay it.
    Exits with 0 when it is accepted, 1 when rejected, 2 when neither can be said.
    """
    from hearthring.asking import audit_file

    raise typer.Exit(audit_file(file, join or [], threads, as_json, verifiers, depth))


@app.command()
def calibrate(
    model: Annotated[
        str, typer.Argument(help="An alias, a path, or a model id.", metavar="MODEL")
    ] = "smollm2",
    texts: Annotated[
        int, typer.Option(help="Texts to measure with; more make a tighter bound.", min=8)
    ] = 32,
    residual: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A residual type, fp32, fp16 or bf16 (repeat it).", show_default="all"),
    ] = None,
    seed: Annotated[int, typer.Option(help="For drawing the texts.", min=0)] = 0,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write the thresholds here.", metavar="FILE", show_default="model cache"),
    ] = None,
    threads: Threads = None,
) -> None:
    """Measure how far apart honest machines are on a model, and set its audits' thresholds.

    The model writes texts, which every engine and kernel policy of this machine runs. Audits here
    then use the thresholds wherever bits can't be compared. Half of the texts bound how often
    honest work is beyond a threshold; a quarter sets nothing and only counts such cases.
    """
    from hearthring.models import calibrate_model

    calibrate_model(model, texts, residual or [], seed, output, threads)


@app.command()
def swarm(join: Join = None, model: Model = None, as_json: Json = False) -> None:
    """Show who serves which layers, and which nobody serves."""
    from hearthring.asking import show_swarm

    show_swarm(join or [], model, as_json)


def main(arguments: list[str] | None = None, hooks: Any = None) -> int:
    """Run a command; returns its exit code. Errors are one line on standard error."""
    command = typer.main.get_command(app)
    failing = Failing(sys.argv[1:] if arguments is None else arguments)
    try:
        code = command.main(arguments, "hearthring", standalone_mode=False, obj=hooks)
        return int(code or 0)
    except typer.Exit as done:
        return done.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except ClickError as error:
        message = error.format_message()  # type: ignore[attr-defined]
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message, file=sys.stderr)
            return USAGE
        return failing.usage(message, USAGE)
    except HearthringError as error:
        return failing.named(error)
    except ExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if not isinstance(first, HearthringError):
            raise
        return failing.named(first)
    except BrokenPipeError:
        sys.stderr.close()
        return 141
