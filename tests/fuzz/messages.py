"""Messages of any type by its descriptor, from such that may succeed to such that cannot."""

import random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from pad.v1 import reward_pb2
from tests.fuzz.values import NUM_SESSIONS, friendly, hostile, hostile_count, pack
from tests.tiny_model import VOCABULARY_SIZE

RARE = {  # fields that make most requests fail, or undo what others did, where they are set
    "ScoreRequest.opens",
    "GenerateRequest.reference",
    "GenerateRequest.num_samples",
    "PutProfileRequest.expected_revision",
    "DeleteProfileRequest.expected_revision",
    "RestoreProfileRequest.expected_revision",
    "ListProfilesRequest.page_token",
    "GenerateRequest.preference_in_base_prompt",
    "ScoreRequest.closes",
}
NOT_EMPTY = {"preferences", "messages", "sequences", "candidates"}


class MessageMaker:
    """Makes messages.

    Args:
        rng: decides everything.
        hostility: share of the values that break a rule.
        fingerprint: the tokenizer's, without which the reward service opens nothing.
    """

    def __init__(self, rng: random.Random, hostility: float, fingerprint: str) -> None:
        self._rng = rng
        self._hostility = hostility
        self._fingerprint = fingerprint

    def make(self, kind: type[Message]) -> Message:
        """Return a message."""
        message = kind()
        self._fill(message, message.DESCRIPTOR)
        return message

    def _fill(self, message: Any, descriptor: Descriptor) -> None:
        if self._rng.random() >= self._hostility and self._fill_rows(message):
            return
        for oneof in descriptor.oneofs:
            if len(oneof.fields) > 1:
                self._set(message, self._rng.choice([oneof.fields[0], *oneof.fields]))
        for field in descriptor.fields:
            is_choice = (
                field.containing_oneof is not None and len(field.containing_oneof.fields) > 1
            )
            if not is_choice and self._rng.random() < self._share(field):
                self._set(message, field)

    def _share(self, field: FieldDescriptor) -> float:
        """Return how often a field is set."""
        if f"{field.containing_type.name}.{field.name}" in RARE:
            return 0.15
        return 0.98 if self._hostility < 0.2 else 0.6

    def _set(self, message: Any, field: FieldDescriptor) -> None:
        is_hostile = self._rng.random() < self._hostility
        if not field.is_repeated:
            self._set_one(message, field, is_hostile)
            return
        least = int(field.name in NOT_EMPTY)
        count = hostile_count(self._rng) if is_hostile else self._rng.randint(least, 2)
        values = getattr(message, field.name)
        if field.message_type is None:
            value = hostile if self._rng.random() < self._hostility else friendly
            values.extend([value(self._rng, field) for _ in range(count)])
            return
        if count > 32:  # many at once are equal: it is their number that hurts
            one = GetMessageClass(field.message_type)()
            self._fill(one, field.message_type)
            values.extend([one] * (count if one.ByteSize() < 200 else 32))
            return
        for _ in range(count):
            self._fill(values.add(), field.message_type)

    def _set_one(self, message: Any, field: FieldDescriptor, is_hostile: bool) -> None:
        if field.message_type is not None:
            getattr(message, field.name).SetInParent()
            if not is_hostile or self._rng.random() < 0.5:
                self._fill(getattr(message, field.name), field.message_type)
        elif field.name == "tokenizer_fingerprint" and not is_hostile:
            setattr(message, field.name, self._fingerprint)
        else:
            value = (hostile if is_hostile else friendly)(self._rng, field)
            setattr(message, field.name, value)

    def _fill_rows(self, message: Any) -> bool:
        """Fill arrays that must fit each other; return whether the message has such."""
        is_commit = isinstance(message, reward_pb2.CommitRows)
        if not is_commit and not isinstance(message, reward_pb2.CandidateRows):
            return False
        rng, count = self._rng, self._rng.randint(1, 4)
        message.sessions = pack([rng.randrange(NUM_SESSIONS) for _ in range(count)])
        message.epochs = pack([rng.choice([0, 0, 0, 0, 1]) for _ in range(count)])
        message.steps = pack([self._edge(rng.randrange(5)) for _ in range(count)])
        if isinstance(message, reward_pb2.CommitRows):
            message.token_ids = pack([self._token() for _ in range(count)])
            return True
        counts = [rng.choice([1, 2, 10]) for _ in range(count)]
        message.num_candidates = pack(counts)
        message.candidate_ids = pack([self._token() for _ in range(sum(counts))])
        return True

    def _token(self) -> int:
        return self._edge(self._rng.randrange(VOCABULARY_SIZE), 0.02)

    def _edge(self, value: int, share: float = 0.1) -> int:
        edges = [VOCABULARY_SIZE, 255, 256, (1 << 31) - 1, (1 << 32) - 1]
        return self._rng.choice(edges) if self._rng.random() < share else value
