"""From a preference's text to w_p and b_p: encoder, then head; the last used ones are kept."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from reward_svc.pad_config import Conditioning
from reward_svc.preference_encoders import FOLDER_NAME, FolderEncoder, TextEncoder
from reward_svc.preference_head import PreferenceHead, load_preference_head
from reward_svc.prompts import Term
from reward_svc.value_head import file_digest
from svc_common.errors import ModelMismatchError
from svc_common.lm.forgotten import Forgotten
from svc_common.lm.loading import ModelFolderError
from svc_common.lm.ownership import Ownership
from svc_common.lm.partitions import owner_of, partition_of

HEAD_FILES = {
    Conditioning.VECTOR: "vector_head.safetensors",
    Conditioning.BOTH: "both_head.safetensors",
}
_Key = tuple[bytes, str]  # of which tenant (see `partitions`), and the text
MAX_KEPT = 1024  # a vector of a model with D = 4096 takes 32 KiB


class PreferenceVectors:
    """Computes vectors on the model thread, where all calls but `check` must come from.

    Args:
        encoder: makes the embeddings that `head` reads.
        head: of the reward model that the vectors are for.
        version: changes where equal texts get other vectors, the backbone's weights aside.
        max_kept: texts whose vectors are kept.
    """

    def __init__(
        self, encoder: TextEncoder, head: PreferenceHead, version: str, max_kept: int = MAX_KEPT
    ) -> None:
        self._encoder = encoder
        self._head = head
        self._device = next(head.parameters()).device
        # With the time each was made; oldest use first.
        self._kept: OrderedDict[_Key, tuple[Tensor, float]] = OrderedDict()
        self._ownership: Ownership[_Key] = Ownership()
        self._forgotten = Forgotten()
        self._max_kept = max_kept
        self.version = version

    @property
    def size(self) -> int:
        """2D, numbers of a vector."""
        return 2 * self._head.hidden_size

    def check(self, field: str, text: str) -> None:
        """Refuse a text that cannot be encoded.

        Raises:
            InvalidRequestError: It holds a control token, or is too long.
        """
        self._encoder.check(field, text)

    def of_terms(
        self, terms: Sequence[Term], subject: bytes = b""
    ) -> Generator[int, None, Tensor | None]:
        """Return the vectors of the terms that have a preference: `[P, 2D]` float32, or None.

        They are kept for `subject`.

        One that came with the request is taken as it is. Yields for each that is computed about
        how many tokens were run.
        """
        found = []
        for term in terms:
            if term.preference is None:
                continue
            if term.preference.vector is not None:
                # Bytes of a message must not be written to: torch.tensor copies.
                found.append(torch.tensor(term.preference.vector, device=self._device))
                continue
            vector = yield from self.of(term.preference.text, subject)
            found.append(vector)
        return torch.stack(found) if found else None

    def of(self, text: str, subject: bytes = b"") -> Generator[int, None, Tensor]:
        """Return the vector of a text: `[2D]` float32; if it is computed, yields as `of_terms`.

        For a subject who was just forgotten nothing is kept, nor is it an owner of what there is.
        """
        key, owner = (partition_of(subject), text), owner_of(subject)
        is_forgotten = subject in self._forgotten
        if key in self._kept:
            self._kept.move_to_end(key)
            if not is_forgotten:
                self._ownership.claim(key, owner)
            return self._kept[key][0]
        vector = self._compute(text)
        if not is_forgotten:
            self._kept[key] = vector, time.monotonic()
            self._ownership.claim(key, owner)
            if len(self._kept) > self._max_kept:
                self._drop(next(iter(self._kept)))
        yield len(text)  # characters: as many as its tokens, or more
        return vector

    def forget(self, subjects: Iterable[bytes]) -> None:
        """Drop the vectors that are kept for these users alone, and keep none for them for a while.

        What waits for its turn now, or is opened by a generator that has not heard of it yet, would
        else bring them back.
        """
        subjects = list(subjects)
        for subject in subjects:
            for key in self._ownership.forget(subject):
                self._drop(key)
        self._forgotten.add(subjects)

    def drop_old(self, max_age_s: float) -> None:
        """Drop the vectors that were made longer ago than that."""
        self._forgotten.drop_old()
        limit = time.monotonic() - max_age_s
        for key in [key for key, (_, made_at) in self._kept.items() if made_at < limit]:
            self._drop(key)

    def _drop(self, key: _Key) -> None:
        del self._kept[key]
        self._ownership.discard(key)

    @torch.inference_mode()
    def _compute(self, text: str) -> Tensor:
        vectors: Tensor = self._head(self._encoder.encode([text]).to(self._device))  # [1, 2D]
        return vectors[0]


def load_preference_vectors(
    model_dir: Path, conditioning: Conditioning, own: TextEncoder, hidden_size: int, device: str
) -> PreferenceVectors | None:
    """Load what makes vectors of preferences, or nothing if the conditioning needs none.

    Args:
        model_dir: The reward model's folder.
        conditioning: How preferences reach the model.
        own: The encoder that is used where the folder brings none.
        hidden_size: D.
        device: A torch device name.

    Raises:
        ModelFolderError: Head or encoder is missing, broken, or of another size.
    """
    if not conditioning.has_vector:
        return None
    path = model_dir / HEAD_FILES[conditioning]
    if not path.is_file():
        rule = f"must hold {path.name} for conditioning {conditioning.value}"
        raise ModelFolderError(f"REWARD_MODEL_DIR={model_dir}: {rule}, has none")
    folder = model_dir / FOLDER_NAME
    encoder: TextEncoder = FolderEncoder(folder, device) if folder.is_dir() else own
    head = load_preference_head(path, encoder.size, hidden_size).to(device)
    try:
        parts = f"{conditioning.value}:{file_digest(path)}:{encoder.fingerprint}"
    except ModelMismatchError as error:
        raise ModelFolderError(f"REWARD_MODEL_DIR={model_dir}: {error}") from error
    return PreferenceVectors(encoder, head, hashlib.sha256(parts.encode()).hexdigest()[:16])
