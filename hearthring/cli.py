"""The command line. Everything heavy is imported by the command that needs it."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from hearthring.model_commands import model_app
from hearthring.options import (
    Acceptance,
    ClassChange,
    DiskBudget,
    Draft,
    EndsEngine,
    Explain,
    Join,
    Json,
    Model,
    NodeThreads,
    Patience,
    Threads,
)
from hearthring.proof_commands import proof_app
from hearthring.protocol.errors import BadOption, HearthringError
from hearthring.reputation_commands import reputation_app
from hearthring.terminal import Bars, process_age, remark, say

USAGE = 64
# Typer brings its own click or uses the installed one, by version; its public error knows which.
ClickError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

app = typer.Typer(
    name="hearthring",
    help="Run language models on machines you pool, and get a proof with every answer.\n\n"
    "New here? `hearthring demo` shows the whole thing on this machine in a minute.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(model_app, name="model")
app.add_typer(reputation_app, name="reputation")
app.add_typer(proof_app, name="proof")


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


@app.command()
def node(
    context: typer.Context,
    model: Model = None,
    join: Join = None,
    listen: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Address to listen on.", metavar="HOST:PORT", show_default="0.0.0.0:4870"
        ),
    ] = None,
    announce: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Address others dial, if it isn't the listening one.", metavar="HOST:PORT"
        ),
    ] = None,
    layers: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Layers to serve, end excluded.",
            metavar="START:END",
            show_default="the worst-served",
        ),
    ] = None,
    max_layers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Serve at most so many layers.", show_default="what fits"),
    ] = None,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for identity and state.", metavar="DIR", show_default="per user"),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="ggml runs quantised weights as they are in the file; torch is the reference, and "
            "for GPUs. auto: ggml where the weights are quantised and it works here."
        ),
    ] = "auto",
    device: Annotated[
        str,
        typer.Option(
            help="Where torch computes: cpu, cuda, cuda:1, mps, or auto for the best there is. "
            "Anything but the CPU implies --fast."
        ),
    ] = "cpu",
    compute: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Type of torch's products: fp32, fp16 or bf16; the last two imply --fast.",
            show_default="fp16 on a GPU, else fp32",
        ),
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(
            help="How ggml multiplies prompt rows: low takes no more memory, fast computes in "
            "float32, auto is fast where the weights' type gains by it."
        ),
    ] = "auto",
    prompt_memory: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="MiB of float32 weights that --prompt fast may keep; what isn't kept is widened "
            "again for every step.",
            min=0,
            show_default="an eighth of the free memory",
        ),
    ] = None,
    kv: Annotated[str, typer.Option(help="Type of ggml's keys and values: f16 or q8_0.")] = "f16",
    repack: Annotated[
        bool,
        typer.Option(
            "--repack",
            help="Keep Q4_0 and Q4_K weights in ggml's interleaved layout: faster, but in memory "
            "of their own.",
        ),
    ] = False,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Let the engine compute a row in whatever order suits the batch. Audits of this "
            "node then compare within tolerances, never bit for bit.",
        ),
    ] = False,
    residual: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Type of the rows between layers: fp32, fp16 or bf16.",
            show_default="the model's, measured when it was imported",
        ),
    ] = None,
    threads: NodeThreads = None,
    owner_key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Key file of the nodes' common owner.", metavar="FILE"),
    ] = None,
    swarm_key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Key file of a private swarm.", metavar="FILE"),
    ] = None,
    upload_rate: Annotated[
        float,
        typer.Option(
            help="MiB per second at which layers are given to peers; 0 is no limit. A quarter of "
            "it while somebody is being served.",
            min=0.0,
        ),
    ] = 64.0,
    link: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Mbit/s that this machine's link sends and receives; routes go by it.",
            metavar="UP:DOWN",
            show_default="unknown",
        ),
    ] = None,
    disk_budget: DiskBudget = None,
) -> None:
    """Serve layers of a model until Ctrl-C. The last line of the start is the invitation."""
    import asyncio

    begun = time.monotonic() - process_age()
    from hearthring.client.config import threads_of
    from hearthring.judging import LateJudge
    from hearthring.models import keep_within
    from hearthring.node.config import NodeConfig, read_layers, read_link
    from hearthring.node.daemon import run_node
    from hearthring.protocol.invitation import Invitation
    from hearthring.protocol.loops import new_event_loop
    from hearthring.protocol.tensors import Residual
    from hearthring.shards.engines import EngineOptions

    keep_within(disk_budget)
    if residual is not None and residual not in list(Residual):
        raise BadOption(f"{residual!r} isn't one of fp32, fp16, bf16", field="residual")
    config = NodeConfig(
        model=model,
        join=tuple(Invitation.parse(text) for text in join or ()),
        listen=listen,
        announce=announce,
        layers=read_layers(layers) if layers is not None else None,
        max_layers=max_layers,
        data=data,
        engine=engine,
        residual=Residual(residual) if residual else None,
        threads=None if threads is None else threads_of(threads),
        options=EngineOptions(
            exact=not fast,
            device=device,
            compute=compute,
            prompt=prompt,
            prompt_memory=None if prompt_memory is None else prompt_memory << 20,
            kv=kv,
            repack=repack,
        ),
        owner_key=owner_key,
        swarm_key=swarm_key,
        upload_rate=upload_rate * 2**20,
        link=read_link(link) if link is not None else (0.0, 0.0),
    )

    def report(label: str, text: str) -> None:
        if label == "invitation":
            bars.close()
            print(f"invitation {text}", flush=True)
        else:
            say(label, text)

    with Bars() as bars, asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(run_node(config, report, bars, context.obj, begun, LateJudge))


@app.command()
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
            "they do. Who can't is replaced, and the answer taken back. Needs the model's layers.",
            metavar="RATE",
        ),
    ] = 0.0,
    draft: Draft = "auto",
    patience: Patience = 30.0,
    allow_class_change: ClassChange = False,
    acceptance: Acceptance = "gumbel",
    explain_speculation: Explain = False,
    threads: Threads = None,
    engine: EndsEngine = "auto",
    as_json: Json = False,
) -> None:
    """Ask the swarm; the answer is streamed to standard output."""
    from hearthring.asking import ask_once

    text = sys.stdin.read() if prompt == "-" else prompt
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
        "draft": draft,
        "acceptance": acceptance,
        "spot_check": spot_check,
    }
    if explain_speculation:
        options["explain"] = remark
    manner = {"patience": patience, "allow_class_change": allow_class_change}
    question = text if raw else None
    ask_once(
        join or [], model, threads, engine, manner, question, messages, options, proof, as_json
    )


@app.command()
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
    draft: Draft = "auto",
    patience: Patience = 30.0,
    allow_class_change: ClassChange = False,
    acceptance: Acceptance = "gumbel",
    explain_speculation: Explain = False,
    threads: Threads = None,
    engine: EndsEngine = "auto",
) -> None:
    """Talk with the swarm, turn by turn, until an empty line."""
    from hearthring.asking import chat as talk

    options: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "draft": draft,
        "acceptance": acceptance,
    }
    if explain_speculation:
        options["explain"] = remark
    manner = {"patience": patience, "allow_class_change": allow_class_change}
    talk(join or [], model, threads, engine, manner, system, options)


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

    if verifiers is not None and not join:
        raise BadOption("a swarm is needed to ask", field="verifiers", mend="give --join")
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
    try:
        code = command.main(arguments, "hearthring", standalone_mode=False, obj=hooks)
        return int(code or 0)
    except typer.Exit as done:
        return done.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except ClickError as error:
        print(f"hearthring: {error.format_message()}", file=sys.stderr)  # type: ignore[attr-defined]
        return USAGE
    except HearthringError as error:
        print(f"hearthring: {error}", file=sys.stderr)
        return error.exit_code
    except ExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if not isinstance(first, HearthringError):
            raise
        print(f"hearthring: {first}", file=sys.stderr)
        return first.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 141
