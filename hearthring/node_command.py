"""``hearthring node``: serve layers."""

import time
from pathlib import Path
from typing import Annotated, Optional

import typer

from hearthring.options import (
    DiskBudget,
    Join,
    Model,
    NodeThreads,
)
from hearthring.protocol.errors import BadOption
from hearthring.terminal import Bars, process_age, say


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
            help="Layers to serve, end excluded; of several windows, joined by commas, rings come "
            "round to each.",
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
        typer.Option(
            help="Key file of these nodes' common owner, so that they count as one. The first node "
            "makes it, or `openssl rand -hex 32` does; give it to each.",
            metavar="FILE",
        ),
    ] = None,
    swarm_key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Key file of a private swarm, as `openssl rand -hex 32` makes one. Who joins by "
            "an invitation with ?key= needs none.",
            metavar="FILE",
        ),
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
