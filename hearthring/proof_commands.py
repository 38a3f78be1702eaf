"""``hearthring proof``: what is in a proof file, with its text or without."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hearthring.options import Json
from hearthring.protocol.errors import BadOption, one_line

if TYPE_CHECKING:
    from hearthring.verify.proof import Proof

proof_app = typer.Typer(
    help="Show proof files, hide their text, reveal it again. Neither the model nor torch is "
    "needed; `hearthring audit` replays them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

File = Annotated[Path, typer.Argument(help="A proof that `ask --proof` saved.", metavar="FILE")]
Target = Annotated[Path, typer.Argument(help="Where to write the other one.", metavar="TARGET")]


@proof_app.command("show")
def proof_show(file: File, as_json: Json = False) -> None:
    """Check a proof's signatures and show what it says; exits with 1 if it contradicts itself."""
    from hearthring.models import print_json
    from hearthring.verify.consistency import contradiction

    proof = load_proof(file)
    verdict = contradiction(proof, proof.stages[-1].end if proof.stages else 0)
    if as_json:
        print_json(proof.as_json() | {"contradiction": verdict and verdict.as_json()})
    else:
        _print(proof.as_json())
        print(
            f"  {'says':<12}" + (verdict.reason if verdict else "nothing that contradicts itself")
        )
    raise typer.Exit(verdict.outcome.exit_code if verdict else 0)


@proof_app.command("hide")
def proof_hide(file: File, target: Target) -> None:
    """Write the proof without its text: hashes stand for the token ids, the signature stays good.

    The text can't be read from it; who guesses it can tell that the guess is right.
    """
    save_proof(load_proof(file).hidden(), target)


@proof_app.command("reveal")
def proof_reveal(
    file: File,
    ids: Annotated[
        Path,
        typer.Argument(
            help="A JSON list of the token ids, prompt first, or an object with token_ids, such as "
            "`proof show --json` prints of a proof with its text.",
            metavar="IDS",
        ),
    ],
    target: Target,
) -> None:
    """Put the text back into a proof; other ids than those that were signed are refused."""
    import json

    try:
        said = json.loads(ids.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise BadOption(f"{ids}: {error}", field="ids") from None
    found = said.get("token_ids") if isinstance(said, dict) else said
    if not isinstance(found, list) or not all(type(item) is int for item in found):
        raise BadOption(f"{ids} holds no list of token ids", field="ids")
    save_proof(load_proof(file).reveal(found), target)


def save_proof(proof: "Proof", target: Path, field: str = "target") -> Path:
    """Write a proof file. Raises ``BadOption`` where that can't be."""
    try:
        return proof.save(target)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise BadOption(f"{target}: {why}", field=field) from None


def load_proof(file: Path) -> "Proof":
    """Read a proof file. Raises ``BadProof``, and ``BadOption`` where there is none."""
    from hearthring.verify.proof import Proof

    try:
        return Proof.load(file)
    except OSError as error:
        raise BadOption(f"{file}: {(error.strerror or str(error)).lower()}", field="file") from None


def _print(view: dict[str, Any]) -> None:
    text = "hidden" if view["hidden"] else "in the file"
    answer = view["tokens"] - view["prompt_tokens"]
    lines = {
        "client": view["client"],
        "model": f"{view['model_name']}  {view['model_id']}",
        "tokens": f"{view['prompt_tokens']} of the prompt, {answer} answered; {text}",
        "residual": view["residual"],
        "sampling": ", ".join(f"{key} {value:g}" for key, value in view["sampling"].items()),
    }
    for key, value in lines.items():
        print(one_line(f"  {key:<12}{value}"))
    for stage in view["stages"]:
        said = stage["receipt"]["numerics"] if "receipt" in stage else "no receipt"
        where = f"[{stage['start']}, {stage['end']}) {stage['node']}"
        print(one_line(f"  {'stage':<12}{where}  {said}"))
