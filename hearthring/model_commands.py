"""``hearthring model``: what is on this machine, and how it gets here."""

from typing import Annotated

import typer

from hearthring.options import DiskBudget, Json
from hearthring.terminal import Bars

model_app = typer.Typer(rich_markup_mode=None)


@model_app.callback(invoke_without_command=True)
def model(context: typer.Context) -> None:
    """Models on this machine. Without a command: which are here, and what the disk budget is."""
    if context.invoked_subcommand is None:
        from hearthring.models import disk_use

        model_list()
        print(disk_use())


@model_app.command("import")
def model_import(
    source: Annotated[
        str,
        typer.Argument(
            help="A GGUF file, a Hugging Face folder (config.json and safetensors), org/name or "
            "org/name:file.gguf of the Hugging Face hub, or the alias smollm2.",
            metavar="SOURCE",
        ),
    ],
    quantise: Annotated[
        str | None,
        typer.Option(
            "--quantise",
            "--quantize",
            metavar="TYPE",
            help="Pack the weights smaller. Q4_K_M is a good choice, Q8_0 nearly lossless; also "
            "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q5_K_M, Q6_K.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call it from now on.")] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Use it with at most so many tokens. Models with rotations for short and for long "
            "contexts (LongRoPE) are run with those for short ones if this allows it.",
            show_default="as many as it takes",
        ),
    ] = None,
) -> None:
    """Take a model in: hash its layers and remember where it is.

    A GGUF file is used where it lies. A folder or a model of the hub becomes one GGUF file in the
    models folder (HEARTHRING_MODELS), in the types it has or those of --quantise.
    """
    from hearthring.shards.importing import import_model
    from hearthring.shards.store import ModelStore

    with Bars() as bars:
        entry = import_model(
            *(ModelStore(), source), quantise=quantise, name=name, context=context, progress=bars
        )
    print(f"{entry.name}  {entry.model_id}  {entry.path}")


@model_app.command("list")
def model_list(as_json: Json = False) -> None:
    """Show the models that are here."""
    from hearthring.models import describe, print_json
    from hearthring.shards.store import ModelStore

    entries = ModelStore().list()
    if as_json:
        print_json([describe(entry) for entry in entries])
    elif not entries:
        print("no models yet: try `hearthring model import smollm2`")
    for entry in entries if not as_json else ():
        said = describe(entry)
        size = f"{said['bytes'] / 2**20:.1f} MiB"
        here = "" if said["whole"] else f" ({said['here'] or 'nothing'} here)"
        print(
            f"{said['name']:<24} {said['id'][:16]}…  {said['layers']} layers{here}  {size}", end=""
        )
        print(f"  {said['path']}")


@model_app.command("prune")
def model_prune(disk_budget: DiskBudget = "0") -> None:
    """Remove fetched layers that nobody uses until the rest fits --disk-budget (all, without one).

    Only what was fetched from peers goes, the longest unused first; model files stay.
    """
    from hearthring.models import prune_parts

    prune_parts(disk_budget or "0")


@model_app.command("show")
def model_show(
    name: Annotated[str, typer.Argument(help="An alias, a path, or a model id.", metavar="NAME")],
    as_json: Json = False,
) -> None:
    """Show one model: shape, types, hashes."""
    from hearthring.models import describe, print_json
    from hearthring.shards.store import ModelStore

    with Bars() as bars:
        shown = describe(ModelStore().find(name, bars))
    if as_json:
        print_json(shown)
        return
    for key, value in shown.items():
        print(f"  {key:<10}{', '.join(map(str, value)) if isinstance(value, list) else value}")
