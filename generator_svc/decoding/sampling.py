"""From scores to one token a row: greedy or sampled, the same whatever else is in the batch."""

import torch
from torch import Tensor


def pick(scores: Tensor, noise: Tensor, temperature: Tensor, top_p: Tensor) -> Tensor:
    """Return the chosen column of each row, `[B]` int64.

    argmax(score + T * Gumbel noise) is a sample of softmax(score / T), and argmax(score) at T = 0.

    Args:
        scores: `[B, K]` float32; -inf is never chosen.
        noise: `[B, K]` float32, from `gumbel_noise`.
        temperature: `[B]` float32, >= 0.
        top_p: `[B]` float32, > 0 and <= 1.
    """
    kept = _nucleus(scores, temperature, top_p)  # [B, K]
    noisy = scores + temperature.unsqueeze(-1) * noise
    return noisy.masked_fill(~kept, -torch.inf).argmax(dim=-1)


def _nucleus(scores: Tensor, temperature: Tensor, top_p: Tensor) -> Tensor:
    """Return which candidates are among the likeliest that together reach `top_p`: `[B, K]`."""
    scale = torch.where(temperature > 0, temperature, 1.0).unsqueeze(-1)
    # Stable: else the order of equals, and so who is kept, would depend on K, the widest row's.
    order = scores.sort(dim=-1, descending=True, stable=True)
    share = torch.softmax(order.values / scale, dim=-1)
    before = share.cumsum(dim=-1) - share  # probability of the likelier ones
    # The likeliest stays even where rounding lifts `before` above 0.
    kept = (before < top_p.unsqueeze(-1)) | (torch.arange(scores.shape[-1]) == 0)
    kept &= order.values > -torch.inf
    return torch.zeros_like(kept).scatter(-1, order.indices, kept)


def gumbel_noise(seeds: Tensor, steps: Tensor, token_ids: Tensor) -> Tensor:
    """Return Gumbel noise `[B, K]` float32 that depends on nothing but seed, step and token.

    So a row draws the same whatever else is in the batch, and after it moved to another replica.

    Args:
        seeds: `[B]` int64.
        steps: `[B]` int64, position in the answer.
        token_ids: `[B, K]` int64.
    """
    state = _mix(_mix(seeds) + steps).unsqueeze(-1) + token_ids  # [B, K]
    bits = _shift(_mix(state), 11)  # 53 random bits
    uniform = (bits.double() + 0.5) * 2.0**-53  # (0, 1)
    return (-torch.log(-torch.log(uniform))).float()


def _mix(x: Tensor) -> Tensor:
    """Scramble 64-bit integers (wrapping arithmetic).

    Source: splitmix64, Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014.
    """
    x = x + signed(0x9E3779B97F4A7C15)
    x = (x ^ _shift(x, 30)) * signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros (torch shifts the sign in)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def signed(x: int) -> int:
    """Return the 64-bit integer with the same bits as `x`, 0 <= x < 2**64, as torch holds it."""
    return x - (1 << 64) if x >= 1 << 63 else x
