"""From the base model's logits to the K candidates of a step."""

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 64  # tokens
WORTH_BLOCKS = 1 << 15  # logits that take as long to search as the calls that blocks need


@dataclass(frozen=True)
class Candidates:
    """The K tokens a row chooses from, by falling log-probability.

    Args:
        token_ids: `[B, K]` int64.
        logprobs: `[B, K]` float32, ln p_base over the whole vocabulary; -inf where a row has
            fewer than K candidates.
    """

    token_ids: Tensor
    logprobs: Tensor


def top_candidates(logits: Tensor, num_candidates: int) -> Candidates:
    """Return the most likely tokens of each row of `[B, V]` logits, on the CPU.

    Source: arXiv 2410.04070, section 4: over the k tokens that pi_LM ranks highest.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)  # [B, V]
    has_blocks = logprobs.shape[1] >= 4 * num_candidates * BLOCK  # else much is left to search
    if logprobs.device.type == "cpu" and has_blocks and logprobs.numel() >= WORTH_BLOCKS:
        token_ids = _largest(logprobs, num_candidates)
        return Candidates(token_ids, logprobs.gather(1, token_ids))
    best = logprobs.topk(num_candidates, dim=-1)  # [B, K]
    return Candidates(token_ids=best.indices.cpu(), logprobs=best.values.cpu())


def _largest(values: Tensor, count: int) -> Tensor:
    """Return where the `count` largest of each row of `[B, V]` are, by falling value: `[B, K]`.

    They lie in the `count` blocks whose own largest values are the largest, and a maximum takes a
    twentieth of a search.
    """
    num_rows, num_values = values.shape
    num_blocks = num_values // BLOCK
    blocks = values[:, : num_blocks * BLOCK].view(num_rows, num_blocks, BLOCK)
    best = blocks.amax(-1).topk(count, dim=-1, sorted=False).indices  # [B, count] of blocks
    places = (best.unsqueeze(-1) * BLOCK + torch.arange(BLOCK)).flatten(1)
    behind = torch.arange(num_blocks * BLOCK, num_values)  # what fills no block
    places = torch.cat([places, behind.expand(num_rows, -1)], dim=1)
    return places.gather(1, values.gather(1, places).topk(count, dim=-1).indices)


@dataclass(frozen=True)
class CandidateRow:
    """The first `count` candidates of one row of a block, not copied."""

    block: Candidates  # [B, K], count <= K
    row: int
    count: int


def gather_candidates(rows: list[CandidateRow]) -> Candidates:
    """Return one batch `[B, K]` of rows of different K, padded with -inf.

    Rows that are a whole block in its order, as in most steps, are not copied.
    """
    block = rows[0].block
    counts = [row.count for row in rows]
    width = max(counts)
    if len(rows) == block.token_ids.shape[0] and all(
        row.block is block and row.row == i for i, row in enumerate(rows)
    ):
        token_ids, logprobs = block.token_ids[:, :width], block.logprobs[:, :width]
    else:
        shape = (len(rows), width)
        token_ids = torch.zeros(shape, dtype=torch.int64)
        logprobs = torch.full(shape, -torch.inf)
        for i, row in enumerate(rows):
            token_ids[i, : row.count] = row.block.token_ids[row.row, : row.count]
            logprobs[i, : row.count] = row.block.logprobs[row.row, : row.count]
    if min(counts) < width:
        is_padding = torch.arange(width) >= torch.tensor(counts).unsqueeze(1)  # [B, K]
        logprobs = logprobs.masked_fill(is_padding, -torch.inf)
    return Candidates(token_ids, logprobs)
