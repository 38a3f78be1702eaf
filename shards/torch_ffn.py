"""The feed-forward blocks of layers in fp32, for the torch engine; ``torch_linear.py`` says how
rows keep their bits."""

from collections.abc import Callable
from typing import Final, Protocol

import torch

from hearthring.shards.families import Activation
from hearthring.shards.torch_linear import Linear, padded_rows

Act = Callable[[torch.Tensor, torch.Tensor], None]
"""Writes the activation of the first vector into the second."""


class FeedForward(Protocol):
    """A feed-forward block ``[n, width]`` to ``[n, width]``."""

    def rows(self, states: torch.Tensor) -> torch.Tensor:
        """Each row by itself."""

    def block(self, states: torch.Tensor) -> torch.Tensor:
        """A whole prompt block, ``[64, width]``."""


class Dense:
    """``down(act(gate) * up)``, gate and up side by side in one product."""

    def __init__(self, gate_up: Linear, down: Linear, activation: Activation) -> None:
        self._gate_up, self._down, self._act = gate_up, down, _ACTS[activation]
        self._inner = down.inner

    def rows(self, states: torch.Tensor) -> torch.Tensor:
        """As ``FeedForward.rows``."""
        gate_up = self._gate_up.rows(states)
        gated = padded_rows(len(states), self._inner)
        for row, out in zip(gate_up[:, : self._inner].unbind(), gated.unbind(), strict=True):
            self._act(row, out)
        return self._down.rows(gated.mul_(gate_up[:, self._inner :]))

    def block(self, states: torch.Tensor) -> torch.Tensor:
        """As ``FeedForward.block``."""
        gate_up = self._gate_up.block(states)
        gate = gate_up[:, : self._inner].contiguous()
        self._act(gate.view(-1), gate.view(-1))
        return self._down.block(gate.mul_(gate_up[:, self._inner :]))


class Experts:
    """A mixture of experts: a row goes to the ``used`` experts its router scores highest.

    Their shares are the router's softmax over all, made to sum up to 1 when ``normed``. Experts
    are added in their order. In a prompt block an expert works on all 64 rows and those sent to it
    are picked from the result: gathering them first would make its product depend on their number.
    """

    def __init__(self, router: Linear, experts: list[Dense], used: int, normed: bool) -> None:
        self._router, self._experts = router, experts
        self._used, self._normed = used, normed

    def rows(self, states: torch.Tensor) -> torch.Tensor:
        """As ``FeedForward.rows``."""
        out = padded_rows(*states.shape).zero_()
        scores = self._router.rows(states)
        for index in range(len(states)):
            chosen, shares = self._route(scores[index : index + 1])
            for expert, share in sorted(zip(chosen[0].tolist(), shares[0].unbind(), strict=True)):
                made = self._experts[expert].rows(states[index : index + 1])
                out[index].add_(made[0].mul_(share))
        return out

    def block(self, states: torch.Tensor) -> torch.Tensor:
        """As ``FeedForward.block``."""
        chosen, shares = self._route(self._router.block(states))
        out = torch.zeros_like(states)
        for expert in sorted(set(chosen.view(-1).tolist())):
            row, rank = torch.nonzero(chosen == expert, as_tuple=True)
            made = self._experts[expert].block(states)
            out[row] += made[row].mul_(shares[row, rank][:, None])
        return out

    def _route(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Experts chosen ``[n, used]`` and their shares."""
        shares, chosen = torch.topk(torch.softmax(scores, 1), self._used, 1)
        if self._normed:
            shares.div_(shares.sum(1, keepdim=True))
        return chosen, shares


def _silu(values: torch.Tensor, out: torch.Tensor) -> None:
    torch.ops.aten.silu.out(values, out=out)


def _gelu(values: torch.Tensor, out: torch.Tensor) -> None:
    torch.ops.aten.gelu.out(values, approximate="tanh", out=out)


_ACTS: Final[dict[Activation, Act]] = {Activation.SILU: _silu, Activation.GELU: _gelu}
