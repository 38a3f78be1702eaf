"""``hearthring draft``: what guesses are made from on this machine."""

import time
from typing import Annotated, Optional

import typer

from hearthring.options import Json

draft_app = typer.Typer(
    help="What guesses are made from: remembered texts.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@draft_app.command("list")
def draft_list(as_json: Json = False) -> None:
    """Show what is remembered of earlier sessions (`--remember`), by model."""
    from hearthring.client.remembered import open_remembered
    from hearthring.models import print_json

    shares = open_remembered().shares()
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
                ]
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
    from hearthring.protocol.errors import BadOption

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
