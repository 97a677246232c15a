"""The preference head: from the embedding of a preference to the vector that PAD calls w_p.

A row's logits are lm_head(w_p * h + b_p), h its last hidden state, so the reward of a token is
linear in w_p and another user is another vector in the same batch. Source: arXiv 2410.04070,
equation 4 with phi(s, a) = e_a * h(s), e_a the token's row of lm_head.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from svc_common.lm.loading import ModelFolderError


class PreferenceHead(nn.Module):
    """Maps preference embeddings `[B, E]` to vectors `[B, 2D]`: w_p, then b_p.

    Fresh from the constructor it gives w_p = 1 and b_p = 0, which leaves every logit as it is.

    Args:
        embedding_size: E, of the preference encoder.
        hidden_size: D, of the reward model.
        width: M, of the layer between them.
    """

    def __init__(self, embedding_size: int, hidden_size: int, width: int) -> None:
        super().__init__()
        self.input = nn.Linear(embedding_size, width)
        self.output = nn.Linear(width, 2 * hidden_size)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @property
    def embedding_size(self) -> int:
        return self.input.in_features

    @property
    def hidden_size(self) -> int:
        return self.output.out_features // 2

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return w_p and b_p of each preference: `[B, E]` -> `[B, 2D]`."""
        normed = functional.layer_norm(embeddings, embeddings.shape[-1:])
        change = self.output(functional.gelu(self.input(normed)))  # [B, 2D]
        scale, shift = change.chunk(2, dim=-1)
        return torch.cat([1.0 + scale, shift], dim=-1)


def apply_vectors(hidden: Tensor, vectors: Tensor) -> Tensor:
    """Return `w_p * h + b_p`: `[..., D]`, `[..., 2D]` -> `[..., D]`, in the format of `hidden`."""
    scale, shift = vectors.chunk(2, dim=-1)
    return (hidden * scale + shift).to(hidden.dtype)


def save_preference_head(head: PreferenceHead, path: Path) -> None:
    """Write the head as safetensors, float32."""
    tensors = {name: value.float().contiguous() for name, value in head.state_dict().items()}
    save_file(tensors, path)
    path.chmod(0o644)  # safetensors writes for the owner alone


def load_preference_head(path: Path, embedding_size: int, hidden_size: int) -> PreferenceHead:
    """Load a head for an encoder and a reward model of these sizes.

    Raises:
        ModelFolderError: the file is missing, broken, or of other sizes.
    """
    try:
        tensors = load_file(path)
        width, found_embedding = tensors["input.weight"].shape
        head = PreferenceHead(found_embedding, hidden_size, width)
        head.load_state_dict(tensors)
    except (OSError, SafetensorError) as error:
        raise ModelFolderError(f"{path}: cannot be read: {error}") from error
    except (KeyError, ValueError, RuntimeError) as error:
        raise ModelFolderError(f"{path}: must hold a preference head: {error}") from error
    if found_embedding != embedding_size:
        rule = f"must read embeddings of the encoder's size {embedding_size}"
        raise ModelFolderError(f"{path}: {rule}, reads {found_embedding}")
    return head.eval().requires_grad_(False)
