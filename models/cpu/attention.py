"""Attention between tokens of up to 102400 numbers, in blocks of queries."""

import torch
from torch import Tensor

SCORES = 2**22  # products of queries and keys that are held at once without gradients


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(size)) v over (B, tokens, size); values may have another size."""
    # Tokens of up to 102400 numbers are too large for the blocks that PyTorch's fused attention
    # works in; plain matrix products are up to six times faster.
    if torch.is_grad_enabled():
        return _attend_at_once(query, key, value)
    blocks = query.split(max(SCORES // (len(key) * key.shape[1]), 64), dim=1)
    return torch.cat([_attend_at_once(block, key, value) for block in blocks], dim=1)


def _attend_at_once(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    exact = torch.promote_types(query.dtype, torch.float32)
    scores = torch.bmm(query, key.transpose(1, 2)).to(exact) * query.shape[-1] ** -0.5
    return torch.bmm(torch.softmax(scores, dim=-1).to(value.dtype), value)
