"""Attention for the torch engine: one generated row, or one block of prompt rows, at a time."""

from functools import lru_cache

import torch

from hearthring.shards.torch_linear import BLOCK, soft_cap
from hearthring.shards.torch_threads import Team

WORTH = 1 << 12
"""Heads times keys of a block whose attention is long enough to be shared: about a millisecond."""


def attend_row(
    query: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, cap: float = 0.0
) -> None:
    """Attention of one generated row: ``query`` and ``out`` ``[kv_heads, group, head_width]``,
    ``k`` and ``v`` ``[path, kv_heads * head_width]`` in path order. ``query`` is scaled already;
    ``cap`` is the scores' soft cap."""
    kv_heads, _, width = query.shape
    keys = k.view(-1, kv_heads, width).permute(1, 2, 0)
    scores = torch.bmm(query, keys)
    if cap:
        soft_cap(scores.view(-1), cap)
    torch.bmm(torch.softmax(scores, 2), v.view(-1, kv_heads, width).transpose(0, 1), out=out)


def attend_block(
    team: Team,
    query: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
    cap: float = 0.0,
) -> torch.Tensor:
    """Attention of a prompt block: ``query`` ``[64, kv_heads, group, head_width]``, scaled;
    ``k`` and ``v`` ``[positions up to the block's end, kv_heads * head_width]``, zero where no row
    is; ``mask`` ``[64, last positions]`` of 0 and -inf; ``cap`` is the scores' soft cap. Returns
    ``[64, heads * head_width]``. ``team`` shares KV heads.

    A masked key has weight exactly 0. Adding 0.0 turns the -0.0 that 0 times a negative value may
    leave into what 0 times nothing leaves.
    """
    _, kv_heads, group, width = query.shape
    out = torch.empty(BLOCK, kv_heads, group, width)

    def attend(head: int) -> None:
        columns = slice(head * width, (head + 1) * width)
        rows = query[:, head].transpose(0, 1).reshape(group * BLOCK, width)
        scores = torch.mm(rows, k[:, columns].t())
        if cap:
            soft_cap(scores.view(-1), cap)
        scores.view(group, BLOCK, -1)[:, :, -mask.shape[1] :].add_(mask)
        mixed = torch.mm(torch.softmax(scores, 1), v[:, columns]).add_(0.0)
        out[:, head] = mixed.view(group, BLOCK, width).transpose(0, 1)

    team.share(attend, kv_heads, kv_heads * group * len(k) >= WORTH)
    return out.view(BLOCK, -1)


def first_key(block: int, window: int) -> int:
    """The first position that block ``block`` needs keys of, as a multiple of 64."""
    return max(0, block * BLOCK - window + 1) // BLOCK * BLOCK if window else 0


@lru_cache(maxsize=64)
def block_mask(before: int, window: int) -> torch.Tensor:
    """The mask of a block that sees ``before`` positions ahead of it, through a window of the last
    ``window`` positions (0: all): ``[64, 64]``, or wider where the window hides some."""
    if not window or before + BLOCK <= window:
        return torch.full((BLOCK, BLOCK), -torch.inf).triu_(1)
    mask = torch.full((BLOCK, before + BLOCK), -torch.inf)
    return mask.triu_(before + 1).add_(torch.full_like(mask, -torch.inf).tril_(before - window))
