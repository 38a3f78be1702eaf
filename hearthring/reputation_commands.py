"""``hearthring reputation``: what audits have shown of nodes, and handing it on."""

from pathlib import Path
from typing import Annotated

import typer

from hearthring.options import Json

reputation_app = typer.Typer(rich_markup_mode=None)


@reputation_app.callback(invoke_without_command=True)
def reputation(context: typer.Context) -> None:
    """What audits have shown of nodes; routes go by it. Without a command: the list."""
    if context.invoked_subcommand is None:
        reputation_list()


@reputation_app.command("list")
def reputation_list(as_json: Json = False) -> None:
    """Show every node that anything is known of, the best first."""
    from hearthring.client.standing import open_reputation
    from hearthring.models import print_json

    found = sorted(
        open_reputation().standings().items(), key=lambda item: item[1].mean, reverse=True
    )
    if as_json:
        print_json(
            [
                {
                    "node": node,
                    "mean": round(standing.mean, 4),
                    "weight": round(standing.weight, 4),
                    "good": round(standing.good, 3),
                    "bad": round(standing.bad, 3),
                }
                for node, standing in found
            ]
        )
        return
    for node, standing in found:
        used = f"weight {standing.weight:.2f}" if standing.weight else "not used"
        print(f"{node}  {used:<12}  {standing.good:.1f} for, {standing.bad:.1f} against it")
    if not found:
        print("nothing yet: audits of your answers tell (`hearthring audit FILE`)")


@reputation_app.command("export")
def reputation_export(
    file: Annotated[Path, typer.Argument(help="Where to write it.", metavar="FILE")],
) -> None:
    """Write what was seen here, signed with this user's identity."""
    from hearthring.client.config import ClientConfig
    from hearthring.client.standing import open_reputation, write_export

    data = open_reputation().export(ClientConfig(()).identity())
    write_export(file, data)
    print(f"{file}: {len(data)} bytes")


@reputation_app.command("import")
def reputation_import(
    file: Annotated[Path, typer.Argument(help="An export of somebody you trust.", metavar="FILE")],
    weight: Annotated[
        float, typer.Option(help="How much it counts beside what was seen here.", min=0.0, max=1.0)
    ] = 0.5,
) -> None:
    """Take somebody's export in; again, it takes the place of the earlier one."""
    from hearthring.client.standing import open_reputation, read_export

    taken = open_reputation().take(read_export(file), weight)
    print(f"{taken} observations taken at weight {weight:g}")
