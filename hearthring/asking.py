"""``hearthring ask``, ``audit`` and ``swarm``."""

import sys
from pathlib import Path
from typing import Any

from hearthring.client.answer import Answer, Piece
from hearthring.client.auditing import audit_offline
from hearthring.client.config import ClientConfig, threads_of
from hearthring.client.depths import check_depth
from hearthring.client.route import missing_windows
from hearthring.client.standing import open_reputation
from hearthring.client.sync import Client, SyncAnswerStream
from hearthring.manner import Manner
from hearthring.models import print_json
from hearthring.proof_commands import load_proof, save_proof
from hearthring.protocol.errors import BadOption, BadProof, PromptTooLong, Unavailable, one_line
from hearthring.terminal import Bars
from hearthring.verify.verdict import Verdict, rejected


def ask_once(
    join: list[str] | None,
    model: str | None,
    manner: Manner,
    raw: str | None,
    messages: list[dict[str, str]],
    options: dict[str, Any],
    proof: Path | None,
    as_json: bool,
) -> None:
    """Ask, stream, save the proof, and say how it went."""
    if proof is not None:
        _check_target(proof)
    with Bars() as bars, manner.client(join, model, bars) as client:
        question = {} if raw is not None else {"messages": messages}
        stream = client.stream(raw, **question, **manner.request(), **options)  # type: ignore[arg-type]
        for piece in stream:
            bars.close()
            if not as_json:
                show(piece)
        answer = stream.answer
    saved = str(save_proof(answer.proof, proof, "proof")) if proof is not None else None
    if as_json:
        print_json(answer.as_json(saved))
        return
    print(flush=True)
    print(summary(answer), file=sys.stderr)
    if answer.verified is not None:
        print(f"{answer.verified} of {len(answer.token_ids)} tokens verified", file=sys.stderr)
    for node in answer.caught:
        print(f"caught {node}: it computed something else, and was replaced", file=sys.stderr)
    if saved:
        print(f"proof saved to {saved}; check it with `hearthring audit {saved}`", file=sys.stderr)


def _check_target(proof: Path) -> None:
    """Refuse what no proof could be saved as before an answer is made. Raises ``BadOption``."""
    if proof.is_dir():
        raise BadOption(f"{proof} is a folder", field="proof", mend="name a file in it")
    if not proof.absolute().parent.is_dir():
        raise BadOption(f"there is no folder {proof.absolute().parent}", field="proof")


def show(piece: Piece) -> None:
    """Print new text. What is taken back stands on the screen already, so that is said."""
    if piece.taken_back:
        note = f"the last {piece.taken_back} characters were wrong; a stage was replaced"
        print(f"\n({note})", file=sys.stderr, flush=True)
    print(piece.text, end="", flush=True)


def chat(
    join: list[str] | None,
    model: str | None,
    manner: Manner,
    system: str | None,
    options: dict[str, Any],
) -> None:
    """Turn by turn until an empty line or the end of input. Ctrl-C ends the answer under way.

    At a terminal an answer that fails is told of, and may go on from where it was; a turn of which
    nothing was said leaves the talk as it was. Elsewhere the error ends the chat.
    """
    messages = [{"role": "system", "content": system}] if system is not None else []
    with Bars() as bars, manner.client(join, model, bars) as client:
        print("an empty line ends the chat", file=sys.stderr)
        while text := _line("you> "):
            asked = [*messages, {"role": "user", "content": text}]
            said = _turn(client, bars, asked, {**manner.request(), **options})
            if said is not None:
                messages = [*asked, {"role": "assistant", "content": said}]


def _turn(
    client: Client, bars: Bars, messages: list[dict[str, str]], options: dict[str, Any]
) -> str | None:
    """What was said; ``None`` if it failed before anything was, and isn't tried again."""
    stream: SyncAnswerStream | None = None
    said = ""
    while True:
        try:
            stream = stream or client.stream(messages=messages, proof=False, **options)
            for piece in stream:
                bars.close()
                said = said[: len(said) - piece.taken_back] + piece.text
                show(piece)
        except KeyboardInterrupt:
            print(" (stopped)", end="")
        except (Unavailable, PromptTooLong) as error:
            bars.close()
            if not sys.stdin.isatty():
                raise
            print(flush=True)
            print(f"hearthring: {error}", file=sys.stderr)
            if isinstance(error, Unavailable) and _line("y to try again> ").lower() == "y":
                # It wasn't asked yet if the error carries no request.
                begun = error.unfinished is not None
                stream = client.resume_stream(error) if begun else None
                continue
            return said or None
        print(flush=True)
        return said


def _line(prompt: str) -> str:
    try:
        return input(prompt if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
    except UnicodeDecodeError:
        raise BadOption("standard input isn't text in UTF-8", field="prompt") from None


def summary(answer: Answer) -> str:
    """Speed, and who ran which layers."""
    t, made = answer.timings, len(answer.token_ids)
    ring = ", ".join(f"[{s.start}, {s.end}) {s.node[-8:]}" for s in answer.route)
    seed = f", seed {answer.seed}" if answer.seed is not None else ""
    guessing = answer.guessing
    guesses = f", {guessing.tokens_per_trip:.2f} a trip" if guessing.draft != "none" else ""
    return (
        f"{made} tokens{guesses}, {t.decode_tokens_per_s:.1f} tokens/s, first after "
        f"{t.first_token_s:.2f} s{seed}; layers {ring}{_changes(answer)}"
    )


def _changes(answer: Answer) -> str:
    """From which tokens stages of another numerics class have chosen."""
    at = ", ".join(str(index) for index in answer.class_changes)
    return f"; another numerics class from token {at} on" if at else ""


def audit_file(
    file: Path,
    join: list[str],
    threads: int | None,
    as_json: bool,
    verifiers: int | None = None,
    depth: str = "whole",
) -> int:
    """Judge a proof file, print the verdict, return the exit code."""
    check_depth(depth, verifiers, bool(join))
    try:
        proof = load_proof(file)
        with Bars() as bars:
            if join:
                with Client(join, proof.model_id, threads=threads, progress=bars) as client:
                    verdict = client.audit(proof, verifiers, depth)
            else:
                verdict = audit_offline(proof, threads_of(threads), bars)
                own = proof.client == ClientConfig(()).identity().node_id
                open_reputation().learn(proof, verdict, own)
    except BadProof as error:
        verdict = rejected(str(error))
    if as_json:
        print_json(verdict.as_json())
    else:
        print_verdict(verdict)
    return verdict.outcome.exit_code


def print_verdict(verdict: Verdict) -> None:
    """The verdict, for a person."""
    print(f"{verdict.outcome.value}: {verdict.reason}")
    for guilty in verdict.guilty:
        print(f"  guilty    {guilty.node}, layers {guilty.start} to {guilty.end}")
    figures = verdict.figures
    if "rows" in figures:
        print(f"  replayed  {figures['rows']} rows in {figures['chunks']} chunks")
    for stage in figures.get("cell_stages", ()):
        where = f", wrong at layer {stage['layer']}" if "layer" in stage else ""
        print(
            f"  stage     [{stage['start']}, {stage['end']}) {stage['node'][-8:]}: "
            f"{stage.get('cells', 0)} cells {stage['verdict']}{where}"
        )
    for stage in figures.get("stages", ()):
        print(
            f"  stage     [{stage['start']}, {stage['end']}) {stage['node'][-8:]}: "
            f"{stage['chunks_equal']} of {figures['chunks']} chunks equal in every bit, "
            f"digests off by {stage['exp_mismatches_mean']:g} exponents and "
            f"{stage['mantissa_mean']:g} in mantissa"
        )
    if "tokens_checked" in figures:
        said = f"{figures['tokens_checked']} choices, {figures['tokens_different']} different"
        print(f"  tokens    {said}")
    for said in figures.get("verifiers", ()):
        print(f"  verifier  {said['verifier']}: {said['verdict']} ({said['strength']})")
    for node, reason in figures.get("silent", {}).items():
        print(f"  silent    {node}: {reason}")
    print(f"  strength  {verdict.strength.value}")


def show_swarm(join: list[str], model: str | None, as_json: bool) -> None:
    """Who serves which layers."""
    with Bars() as bars, Client(join, model, progress=bars) as client:
        records = sorted(client.records(), key=lambda record: (record.windows, record.node))
        entry = client.model_entry()
    layers = entry.manifest.shape.layers
    missing = missing_windows(records, layers)
    if as_json:
        nodes = [
            {
                "node": record.node,
                "start": start,
                "end": end,
                "address": record.addresses[0] if record.addresses else "",
                "numerics": record.numerics,
                "load": record.sessions,
            }
            for record in records
            for start, end in record.windows
        ]
        print_json(
            {
                "model": entry.model_id,
                "name": entry.name,
                "layers": layers,
                "nodes": nodes,
                "missing": [list(window) for window in missing],
            }
        )
        return
    print(f"{entry.name}: {layers} layers, {len(records)} nodes")
    for record in records:
        windows = ", ".join(f"[{start}, {end})" for start, end in record.windows)
        address = record.addresses[0] if record.addresses else "-"
        speed = (record.step_seconds + record.row_seconds) * 1e3
        said = f"{address:<22} {speed:6.1f} ms/row  {record.numerics}"
        print(one_line(f"  {windows:<10} {record.node}  {said}"))
    for start, end in missing:
        print(f"  [{start}, {end}) is served by nobody")
