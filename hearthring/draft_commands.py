"""``hearthring draft``: what guesses are made from on this machine."""

import sys
import time
from pathlib import Path
from typing import Annotated, Optional

import typer

from hearthring.options import Join, Json, Threads
from hearthring.protocol.errors import BadOption

draft_app = typer.Typer(
    help="What guesses are made from: remembered texts, and drafts that were trained.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@draft_app.command("train")
def draft_train(
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            help="An alias, a path, or a model id.", metavar="MODEL", show_default="the swarm's"
        ),
    ] = None,
    join: Join = None,
    minutes: Annotated[
        float,
        typer.Option(help="Time of all runs together, most of it to write texts.", min=0.0),
    ] = 20.0,
    layers: Annotated[int, typer.Option(help="Layers of the draft.", min=1, max=4)] = 1,
    prompts: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Questions to write texts about, one a line, before those of a published list.",
            metavar="FILE",
        ),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write the draft here.", metavar="FILE", show_default="model cache"),
    ] = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Forget what earlier runs wrote and learnt.")
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train a small draft for a model, from texts that the model writes, here or in a swarm.

    Ctrl-C keeps what there is, and the same command goes on. At the end it tells what the draft
    saves on questions that it hasn't seen. From then on `--draft auto` guesses with it where that
    pays, and `--draft distilled` with it alone.
    """
    from hearthring.client.config import threads_of
    from hearthring.client.prompts import published, read_prompts
    from hearthring.draft_targets import local_target, swarm_target
    from hearthring.draft_training import Trainer, report
    from hearthring.models import print_json
    from hearthring.shards.draft_file import draft_path
    from hearthring.terminal import Bars

    number, asked = threads_of(threads), [*(read_prompts(prompts) if prompts else ()), *published()]
    if out is not None and (out.suffix != ".gguf" or not out.absolute().parent.is_dir()):
        raise BadOption(f"{out} isn't a .gguf file in a folder that exists", field="out")
    with Bars() as bars:
        if join:
            target = swarm_target(model, join, layers, number, bars)
        else:
            target = local_target(model or "smollm2", number, bars)
        with target.stack:
            path = out or draft_path(target.model.entry.model_id)
            trainer = Trainer(target, path, minutes * 60, number, bars)
            try:
                trained = trainer.run(asked, layers, anew)
            except KeyboardInterrupt:
                print(f"kept in {trainer.folder}; the same command goes on", file=sys.stderr)
                raise
    if as_json:
        print_json(trained.as_json())
    else:
        report(trained)


@draft_app.command("list")
def draft_list(as_json: Json = False) -> None:
    """Show what is remembered of earlier sessions (`--remember`), and trained drafts, by model.

    `--draft auto` guesses from both.
    """
    from hearthring.client.remembered import open_remembered
    from hearthring.models import print_json
    from hearthring.shards.draft_file import draft_folder

    shares, trained = open_remembered().shares(), sorted(draft_folder().glob("*.gguf"))
    if as_json:
        print_json(
            {
                "remembered": [
                    {
                        "model": share.model,
                        "name": share.name,
                        "texts": share.texts,
                        "tokens": share.tokens,
                        "oldest": share.oldest,
                        "latest": share.latest,
                    }
                    for share in shares
                ],
                "trained": [
                    {"model": path.stem, "path": str(path), "bytes": path.stat().st_size}
                    for path in trained
                ],
            }
        )
        return
    for share in shares:
        days = " to ".join(
            time.strftime("%Y-%m-%d", time.localtime(at)) for at in (share.oldest, share.latest)
        )
        print(
            f"{share.name:<24} {share.model[:12]}  {share.texts} texts, {share.tokens} tokens, "
            f"{days}"
        )
    for path in trained:
        print(f"{'trained draft':<24} {path.stem[:12]}  {path.stat().st_size >> 20} MiB, {path}")
    if not shares:
        print("no text is remembered: `hearthring ask --remember` keeps one")


@draft_app.command("forget")
def draft_forget(
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Only those of this model: its name or id.", show_default="all"),
    ] = None,
) -> None:
    """Forget remembered texts, beyond recovery."""
    from hearthring.client.remembered import open_remembered

    remembered = open_remembered()
    if model is None:
        print(f"{remembered.forget()} texts forgotten")
        return
    meant = {
        share.model
        for share in remembered.shares()
        if share.name == model or (len(model) >= 6 and share.model.startswith(model))
    }
    if not meant:
        raise BadOption(f"nothing is remembered of {model!r:.200}", field="model")
    print(f"{sum(remembered.forget(one) for one in meant)} texts forgotten")
