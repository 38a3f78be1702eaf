"""A draft of one or two layers that learns what a large model expects: the torch side of training.

The student is a Llama of the target's width whose embedding and head are the target's own, frozen;
only its layers and last norm are learnt. Where the target is a Llama too, they begin as layers of
the target. What is minimised is the Kullback-Leibler divergence from what the target expected to
what the student does (Hinton et al., arXiv 1503.02531), over the target's likeliest tokens and
some drawn ones: a full head would take most of the time.
"""

from dataclasses import dataclass
from math import log
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from hearthring.protocol.tensors import F32
from hearthring.shards.draft_file import copied_layers, draft_shape
from hearthring.shards.families import EMBEDDING, HEAD, NORM, layer_tensors
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.rope_scaling import plain_frequencies
from hearthring.shards.shape import Shape
from hearthring.shards.torch_threads import torch_threads

RATE, WARM, DECAY, CLIP = 1.5e-3, 40, 0.01, 1.0
"""Adam's step, steps until it is reached, weight decay, and the longest gradient."""
AVERAGED: Final = 0.99
"""What is used is a mean of the weights; older ones fade with every step by this."""
DRAWN: Final = 1024
"""Tokens drawn beside the expected ones that the student's distribution is held to."""

Values = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts side by side: ``ids`` ``[texts, length]``, padded behind.

    ``at`` are the places in the flattened ids whose next token the target expected as ``top`` and
    ``chances`` ``[places, top]`` say; ``extra`` are drawn tokens.
    """

    ids: NDArray[np.int64]
    at: NDArray[np.int64]
    top: NDArray[np.int64]
    chances: F32
    extra: NDArray[np.int64]


class Student:
    """Weights, their mean and Adam's moments, by GGUF names. Deterministic on one machine.

    ``gguf`` is the target; its ends are read once, in 16 bits. ``seed`` draws what isn't copied.
    ``threads`` are torch's while it learns or is measured, and only then.
    """

    def __init__(self, gguf: GgufFile, layers: int, seed: int = 0, threads: int = 1) -> None:
        self._threads = threads
        target = gguf.shape
        self.shape, self.step = draft_shape(target, layers), 0
        self._embedding = torch.from_numpy(gguf.dequantised(EMBEDDING)).half()
        head = None if target.tied_head else gguf.dequantised(HEAD)
        self._head = self._embedding if head is None else torch.from_numpy(head).half()
        self._scale = target.embedding_scale
        first = _begin(gguf, self.shape, seed)
        self.weights = {name: value.requires_grad_() for name, value in first.items()}
        self.means = {name: value.detach().clone() for name, value in first.items()}
        self._moments = {
            name: (torch.zeros_like(v), torch.zeros_like(v)) for name, v in first.items()
        }
        self._angles: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def learn(self, batch: Batch) -> float:
        """One step; the loss before it, in nats."""
        with torch_threads(self._threads):
            return self._learn(batch)

    def _learn(self, batch: Batch) -> float:
        loss = self.loss(batch, self.weights)
        loss.backward()  # type: ignore[no-untyped-call]
        self.step += 1
        grown = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        length = torch.sqrt(sum((g.square().sum() for g in grown), torch.zeros(())))
        shrink = min(1.0, CLIP / (float(length) + 1e-9))
        with torch.no_grad():
            for name, weight in self.weights.items():
                assert weight.grad is not None
                self._update(name, weight, weight.grad * shrink)
                weight.grad = None
        return float(loss.detach())

    @torch.no_grad()
    def held_out(self, batch: Batch) -> float:
        """The loss of the mean weights, in nats."""
        with torch_threads(self._threads):
            return float(self.loss(batch, self.means))

    def loss(self, batch: Batch, weights: Values) -> torch.Tensor:
        """Mean divergence at the batch's places: of the target's likeliest tokens, and of the rest
        as one. Drawn tokens stand for all that aren't expected anywhere in the batch."""
        ids, top = torch.from_numpy(batch.ids), torch.from_numpy(batch.top)
        states = self._states(ids, weights).flatten(0, 1)[torch.from_numpy(batch.at)]
        known, places = torch.unique(top, return_inverse=True)
        drawn = torch.unique(torch.from_numpy(batch.extra))
        drawn = drawn[~torch.isin(drawn, known)]
        logits = states @ self._head[torch.cat([known, drawn])].float().T
        others = self.shape.vocabulary - len(known)
        shift = torch.zeros(len(known) + len(drawn))
        shift[len(known) :] = log(others / max(1, len(drawn))) if others else 0.0
        said = torch.log_softmax(logits + shift, 1).gather(1, places)
        chances = torch.from_numpy(batch.chances)
        there = chances > 0
        rest = (1 - chances.sum(1)).clamp_min(1e-6)
        left = (1 - (said.exp() * there).sum(1)).clamp_min(1e-6)
        apart = chances * (chances.clamp_min(1e-9).log() - said)
        return (apart.sum(1) + rest * (rest.log() - left.log())).mean()

    def state(self) -> dict[str, F32]:
        """Everything that training goes on from, as arrays."""
        found: dict[str, F32] = {"step": np.array([self.step], np.float32)}
        for name, weight in self.weights.items():
            first, second = self._moments[name]
            kinds = {"weight": weight.detach(), "mean": self.means[name], "m": first, "v": second}
            found |= {f"{kind}/{name}": value.numpy() for kind, value in kinds.items()}
        return found

    def restore(self, found: dict[str, F32]) -> None:
        """Go on from a ``state``. Raises ``KeyError`` or ``ValueError`` for one of another shape;
        the student is then not to be used."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                first, second = self._moments[name]
                kinds = {"weight": weight, "mean": self.means[name], "m": first, "v": second}
                for kind, value in kinds.items():
                    kept = found[f"{kind}/{name}"]
                    if kept.shape != tuple(value.shape) or not np.isfinite(kept).all():
                        raise ValueError(f"{name} isn't as it should be")
                    value.copy_(torch.from_numpy(kept))
        self.step = int(found["step"][0])

    def learnt(self) -> dict[str, F32]:
        """The mean weights by GGUF name: what a draft is made of."""
        return {name: value.numpy() for name, value in self.means.items()}

    def _update(self, name: str, weight: torch.Tensor, grown: torch.Tensor) -> None:
        """AdamW (arXiv 1711.05101) with a warm-up, and the running mean."""
        first, second = self._moments[name]
        first.lerp_(grown, 0.1)
        second.lerp_(grown.square(), 0.02)
        rate = RATE * min(1.0, self.step / WARM)
        if weight.ndim > 1:
            weight.mul_(1 - rate * DECAY)
        straight = first / (1 - 0.9**self.step)
        spread = (second / (1 - 0.98**self.step)).sqrt_().add_(1e-8)
        weight.sub_(rate * straight / spread)
        # Early on the mean is of few steps only.
        self.means[name].lerp_(weight, max(1 - AVERAGED, 1 / (self.step + 1)))

    def _states(self, ids: torch.Tensor, weights: Values) -> torch.Tensor:
        """Normed states ``[texts, length, width]``."""
        shape, epsilon = self.shape, self.shape.norm_epsilon
        states = self._embedding[ids].float() * self._scale
        angles = self._rotation(ids.shape[1])
        for layer in range(shape.layers):
            at = f"blk.{layer}."
            normed = _norm(states, weights[at + "attn_norm.weight"], epsilon)
            query, key, value = (
                (normed @ weights[f"{at}attn_{part}.weight"].T)
                .view(*ids.shape, -1, shape.head_width)
                .transpose(1, 2)
                for part in ("q", "k", "v")
            )
            group = shape.heads // shape.kv_heads
            mixed = torch.nn.functional.scaled_dot_product_attention(
                _turn(query, angles),
                _turn(key, angles).repeat_interleave(group, 1),
                value.repeat_interleave(group, 1),
                is_causal=True,
            )
            mixed = mixed.transpose(1, 2).flatten(2)
            states = states + mixed @ weights[at + "attn_output.weight"].T
            normed = _norm(states, weights[at + "ffn_norm.weight"], epsilon)
            gate = torch.nn.functional.silu(normed @ weights[at + "ffn_gate.weight"].T)
            inner = gate * (normed @ weights[at + "ffn_up.weight"].T)
            states = states + inner @ weights[at + "ffn_down.weight"].T
        return _norm(states, weights[NORM], epsilon)

    def _rotation(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines ``[length, head_width / 2]``."""
        if length not in self._angles:
            frequency = plain_frequencies(self.shape.head_width, self.shape.rope_base)
            angle = torch.from_numpy(np.arange(length)[:, None] * frequency).float()
            self._angles[length] = torch.cos(angle), torch.sin(angle)
        return self._angles[length]


def _begin(gguf: GgufFile, shape: Shape, seed: int) -> Values:
    """First weights: layers of the target, spread evenly, or random ones that do nothing yet."""
    draw = torch.Generator().manual_seed(seed)
    sources = copied_layers(gguf.shape, shape.layers)
    found: Values = {NORM: torch.from_numpy(gguf.dequantised(NORM))}
    for layer in range(shape.layers):
        for name, size in layer_tensors(shape, layer).items():
            part = name.split(".", 2)[2]
            if sources:
                copied = gguf.dequantised(f"blk.{sources[layer]}.{part}")
                found[name] = torch.from_numpy(copied)
            elif len(size) == 1:
                found[name] = torch.ones(size)
            elif part in ("attn_output.weight", "ffn_down.weight"):
                found[name] = torch.zeros(size)
            else:
                found[name] = torch.randn(size, generator=draw) * size[1] ** -0.5
    return found


def _norm(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + epsilon) * weight


def _turn(heads: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate pairs (2i, 2i + 1) of ``[texts, heads, length, head_width]``, as GGUF's Llamas do."""
    cosine, sine = angles
    even, odd = heads[..., 0::2], heads[..., 1::2]
    turned = torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), -1)
    return turned.flatten(-2)
