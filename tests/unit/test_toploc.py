"""Upstream's function names: the published proofs, torch and numpy alike, and what is refused."""

import pickle
from base64 import b64decode
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from hearthring.protocol.errors import BadProof, BadShape, NonFinite
from hearthring.protocol.tensors import bf16_bits
from hearthring.verify import (
    ProofPoly,
    VerificationResult,
    build_proofs,
    build_proofs_base64,
    build_proofs_bytes,
    sha256sum,
    verify_proofs,
    verify_proofs_base64,
    verify_proofs_bytes,
)
from hearthring.verify.digest import NO_MATCH, digest, digests
from hearthring.verify.toploc import (
    compute_newton_coefficients,
    evaluate_polynomial,
    find_injective_modulus,
    get_fp_parts,
)
from tests.digest_vectors import VECTORS

K, BATCH = 16, 4


def spoken(prompt: int = 5, decoded: int = 10, width: int = 64) -> list[torch.Tensor]:
    """States of a prompt and of tokens decoded after it."""
    draw = torch.Generator().manual_seed(1)
    shapes = [(prompt, width), *[(width,)] * decoded]
    return [torch.randn(shape, generator=draw).to(torch.bfloat16) for shape in shapes]


@pytest.mark.parametrize("name", VECTORS)
def test_published_vectors(name: str) -> None:
    indices, bits, text = VECTORS[name]
    poly = ProofPoly.from_points(indices, bits)
    assert poly.to_base64() == text
    assert ProofPoly.from_base64(text) == poly == ProofPoly.from_bytes(b64decode(text))
    assert [poly(x) for x in indices] == bits  # modulo the modulus: V2's isn't the prime
    assert poly.modulus == find_injective_modulus(indices)
    values = torch.tensor(bits, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    assert ProofPoly.from_points_tensor(torch.tensor(indices), values) == poly


def test_one_proof_for_the_prompt_and_one_per_batch() -> None:
    states = spoken()
    chunks = [torch.cat([s.reshape(-1) for s in part]) for part in (states[:1], states[1:5])]
    bits = [chunk.view(torch.int16).numpy().view(np.uint16) for chunk in chunks]
    built = build_proofs_bytes(states, BATCH, K)
    assert len(built) == 4
    assert built[:2] == digests(bits, K)
    assert [b64decode(text) for text in build_proofs_base64(states, BATCH, K)] == built
    assert [poly.to_bytes() for poly in build_proofs(states, BATCH, K)] == built


@pytest.mark.parametrize("decoded", [1, 4, 8, 9])
def test_as_many_proofs_as_chunks(decoded: int) -> None:
    """Also where the batch size divides the tokens."""
    states = spoken(decoded=decoded)
    assert len(build_proofs(states, BATCH, K)) == 1 + -(-decoded // BATCH)
    assert len(build_proofs(states[1:], BATCH, K, skip_prefill=True)) == -(-decoded // BATCH)
    assert build_proofs([], BATCH, K, skip_prefill=True) == []
    assert verify_proofs([], [], BATCH, K, skip_prefill=True) == []


def test_own_states_agree_by_every_way() -> None:
    states = spoken()
    same = [VerificationResult(0, 0.0, 0.0)] * 4
    assert verify_proofs(states, build_proofs(states, BATCH, K), BATCH, K) == same
    assert verify_proofs_bytes(states, build_proofs_bytes(states, BATCH, K), BATCH, K) == same
    assert verify_proofs_base64(states, build_proofs_base64(states, BATCH, K), BATCH, K) == same
    whole = torch.stack(states[1:])
    built = build_proofs_bytes(whole, BATCH, K, skip_prefill=True)
    assert (
        verify_proofs_bytes(whole.float().numpy(), built, BATCH, K, skip_prefill=True) == same[1:]
    )


def test_numpy_and_torch_are_alike() -> None:
    wide = np.random.default_rng(3).standard_normal((10, 64), np.float32)
    as_torch = torch.from_numpy(wide)
    built = build_proofs_bytes(wide, BATCH, K, skip_prefill=True)
    for same in (as_torch, as_torch.to(torch.bfloat16), bf16_bits(wide), list(wide)):
        assert build_proofs_bytes(same, BATCH, K, skip_prefill=True) == built
    halves = as_torch.to(torch.float16)
    raw = build_proofs_bytes(halves, BATCH, K, skip_prefill=True)
    assert raw == build_proofs_bytes(wide.astype(np.float16), BATCH, K, skip_prefill=True)
    assert raw == build_proofs_bytes(
        wide.astype("<f2").view(np.uint16), BATCH, K, skip_prefill=True
    )


def test_what_upstream_passes_over_is_counted() -> None:
    states = spoken()
    flipped = verify_proofs([-part for part in states], build_proofs(states, BATCH, K), BATCH, K)
    assert flipped == [VerificationResult(K, NO_MATCH, NO_MATCH)] * 4
    wide = torch.zeros(40, 4096)
    wide.view(-1)[[5, 5 + 65497, 9]] = torch.tensor([3.0, -2.0, 1.5])
    built = build_proofs(wide, 40, 3, skip_prefill=True)
    assert built[0].modulus < 65497  # so a place that isn't reduced would be off
    assert verify_proofs(wide, built, 40, 3, skip_prefill=True)[0].exp_mismatches == 0


def test_what_is_no_proof_is_refused() -> None:
    states = spoken()
    built = build_proofs_bytes(states, BATCH, K)
    null = bytes(2 + 2 * K)
    wrong = (built[:-1], [*built, built[0]], [], [null, *built[1:]], [built[0] + b"\0", *built[1:]])
    for proofs in wrong:
        with pytest.raises(BadProof):
            verify_proofs_bytes(states, proofs, BATCH, K)
    for data in (b"", b"\0\0", null, built[0] + b"\0", b"\xff" * 34, built[0][:1]):
        with pytest.raises(BadProof):
            ProofPoly.from_bytes(data)
    for text in ("!!!", "Zg", "aé"):
        with pytest.raises(BadProof):
            ProofPoly.from_base64(text)
    with pytest.raises(BadProof):
        verify_proofs(states, [ProofPoly([0] * K, 0)] * 4, BATCH, K)
    with pytest.raises(BadProof):
        ProofPoly([0], 0)(3)
    with pytest.raises(BadProof):
        ProofPoly([70_000], 65497).to_bytes()


def test_what_is_no_chunk_is_refused() -> None:
    with pytest.raises(BadShape):
        build_proofs([torch.zeros(0, 16), torch.zeros(16)], BATCH, K)
    with pytest.raises(BadShape):
        build_proofs([torch.zeros(4, 16, dtype=torch.float64)], BATCH, K)
    with pytest.raises(BadShape):
        build_proofs(spoken(), 0, K)
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        with pytest.raises(NonFinite):
            build_proofs([torch.full((4, 16), torch.inf, dtype=kind)], BATCH, K)


def test_polynomials() -> None:
    x, y = [1, 3, 5, 2], [1, 5, 4, 1]
    coefficients = compute_newton_coefficients(x, y)
    assert [evaluate_polynomial(coefficients, at) for at in x] == y
    assert len(ProofPoly(coefficients, 65497)) == 4
    for places, values in (([], []), ([1, 2], [1]), ([-1], [0]), ([70_000], [0]), ([1], [70_000])):
        with pytest.raises(BadShape):
            compute_newton_coefficients(places, values)
    with pytest.raises(BadProof):
        compute_newton_coefficients([4, 4], [1, 2])
    assert len({x % find_injective_modulus([5, 4 * 10**9]) for x in (5, 4 * 10**9)}) == 2


def test_parts_of_floats() -> None:
    assert get_fp_parts(torch.tensor([1.0, -1.5])) == ([127, 127], [0, 1 << 22])
    assert get_fp_parts(torch.tensor([1.0, -1.5]).to(torch.bfloat16)) == ([127, 127], [0, 64])


def test_results_travel_between_processes(tmp_path: Path) -> None:
    for value in (VerificationResult(1, 2, 3), ProofPoly([1, 2, 3], 4)):
        assert pickle.loads(pickle.dumps(value)) == value  # our own bytes
    file = tmp_path / "x"
    file.write_bytes(b"hearth")
    assert sha256sum(file) == sha256(b"hearth").hexdigest()


def test_chunk_smaller_than_topk_has_a_proof_of_all_of_it() -> None:
    small = np.ones((1, 8), np.float32)
    [proof] = build_proofs_bytes(small, BATCH, K, skip_prefill=True)
    assert proof == digest(bf16_bits(small), K)
    assert len(proof) == 2 + 2 * 8
