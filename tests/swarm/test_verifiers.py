"""Answers judged by verifiers of the swarm, as a user asks for it: real processes all."""

import json
from pathlib import Path

import pytest

from hearthring import Client
from hearthring.client.standing import open_reputation
from hearthring.shards.store import ModelEntry
from tests.swarm.conftest import hearthring, running

pytestmark = [pytest.mark.swarm, pytest.mark.model]
GGML = ("--engine", "ggml", "--prompt", "low")


def test_three_verifiers_of_which_one_lies(smollm2: ModelEntry, tmp_path: Path) -> None:
    """They hold a layer each and fetch what they need; the liar is outvoted and remembered."""
    windows = ("0:15", "15:30", "0:1", "0:1")
    with running(tmp_path / "honest", windows, *GGML) as (first, second, *honest):
        join = first.invitation
        with running(tmp_path / "liar", ("0:1",), *GGML, join=join, fault="slander") as (liar,):
            with Client([join], threads=1) as client:
                answer = client.generate("Why is the sky blue?", max_tokens=8)
            assert answer.proof is not None
            assert [stage.node for stage in answer.route] == [first.node_id, second.node_id]
            file = tmp_path / "sky.proof"
            answer.proof.save(file)
            asked = hearthring("audit", str(file), "--join", join, "--verifiers", "3", "--json")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    said = json.loads(asked.stdout)
    assert (said["verdict"], said["guilty"], said["strength"]) == ("accepted", [], "bits")
    figures = said["figures"]
    assert {one["verifier"] for one in figures["verifiers"]} == {
        node.node_id for node in (liar, *honest)
    }
    assert figures["dissenters"] == [liar.node_id]
    assert open_reputation().standing(liar.node_id).bad == pytest.approx(4, 0.01)
