"""Text to token ids and back, with chat templates, for one model folder."""

import hashlib
import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from svc_common.errors import InvalidRequestError, ModelMismatchError
from svc_common.lm.chat_template import render_chat
from svc_common.lm.control_tokens import control_tokens
from svc_common.preference_prompt import ChatMessage, Prompt

REPLACEMENT = "\ufffd"  # what an unfinished UTF-8 sequence decodes to


class Tokenizer:
    """A model's tokenizer; `end_of_turn_ids` end an answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_of_turn_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self.end_of_turn_ids = end_of_turn_ids
        self._control_tokens = control_tokens(tokenizer)
        self._token_texts: dict[int, str] = {}  # at most the vocabulary

    @cached_property
    def fingerprint(self) -> str:
        """Equal for tokenizers whose ids mean the same tokens."""
        vocabulary = sorted(self._tokenizer.get_vocab().items())
        return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()[:16]

    @cached_property
    def prompt_fingerprint(self) -> str:
        """Equal for tokenizers that make the same ids of any prompt; empty if nobody can tell."""
        if not self._tokenizer.is_fast:
            return ""
        parts = [self._tokenizer.backend_tokenizer.to_str(), self._tokenizer.chat_template]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Return the ids to write from: raw text as it is, a conversation by the chat template.

        Raises:
            InvalidRequestError: a message holds a control token, the chat template refuses the
                conversation, or nothing is left to encode.
            ModelMismatchError: a conversation, but the model has no chat template.
        """
        if isinstance(prompt, str):
            ids = self._ids(prompt, add_special_tokens=True)
        else:
            for i, message in enumerate(prompt):
                self._check_names(f"chat.messages[{i}].content", message.content)
            ids = self._ids(self._render_chat(prompt), add_special_tokens=False)
            self._check_turns(prompt, ids)
        if not ids:
            raise InvalidRequestError("prompt: must hold at least one token, got 0")
        return ids

    def check_text(self, field: str, text: str) -> None:
        """Refuse text that would be read as the model's own turn markers.

        Raises:
            InvalidRequestError: a control token of the model stands in `text`.
        """
        self._check_names(field, text)
        ids = self._ids(text, add_special_tokens=False)
        found = next((self._control_tokens[i] for i in ids if i in self._control_tokens), None)
        if found is not None:  # by a tokenizer that changes text before it looks for tokens
            raise InvalidRequestError(f"{field}: must not hold what is read as {found!r}")

    def _check_names(self, field: str, text: str) -> None:
        found = next((token for token in self._control_tokens.values() if token in text), None)
        if found is not None:
            raise InvalidRequestError(f"{field}: must not hold the control token {found!r}")

    def _check_turns(self, messages: tuple[ChatMessage, ...], token_ids: list[int]) -> None:
        """Refuse a conversation that reads as other turns than those of its messages."""
        plain = tuple(replace(m, content="x") if m.content.strip() else m for m in messages)
        expected = self._ids(self._render_chat(plain), add_special_tokens=False)
        marks, wanted = (self._marks(ids) for ids in (token_ids, expected))
        if marks != wanted:
            raise InvalidRequestError(
                "chat.messages: must hold no text that is read as control tokens,"
                f" got {len(marks)} where the template writes {len(wanted)}"
            )

    def _marks(self, token_ids: list[int]) -> list[int]:
        return [token_id for token_id in token_ids if token_id in self._control_tokens]

    @cached_property
    def _longest_token(self) -> int:
        """Characters of the longest token, so that few of them bound a text from below."""
        return max(len(token) for token in self._tokenizer.get_vocab())

    def check_length(self, field: str, text: str, max_tokens: int) -> None:
        """Refuse a text that cannot fit, whatever its tokens are, before it is tokenised.

        Raises:
            InvalidRequestError: it has more characters than `max_tokens` tokens could have.
        """
        most = max_tokens * self._longest_token
        if len(text) > most:
            raise InvalidRequestError(
                f"{field}: must fit in {max_tokens} tokens, got {len(text)} characters"
            )

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of ids, without control tokens."""
        text: str = self._tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def token_text(self, token_id: int) -> str:
        """Return one token as a person would want to see it, control tokens included."""
        text = self._token_texts.get(token_id)
        if text is None:
            text = self._token_texts[token_id] = self._token_text(token_id)
        return text

    def _token_text(self, token_id: int) -> str:
        if token_id in self._control_tokens:
            return str(self._tokenizer.convert_ids_to_tokens(token_id))
        return self.decode([token_id])

    def _render_chat(self, messages: tuple[ChatMessage, ...]) -> str:
        if not self._tokenizer.chat_template:
            raise ModelMismatchError("chat: the loaded model has no chat template; send a prompt")
        try:
            return render_chat(self._tokenizer, [vars(message) for message in messages])
        except TemplateError as error:  # for example roles in an order the model does not know
            raise InvalidRequestError(f"chat: the model's template refuses it: {error}") from error

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=add_special_tokens).input_ids
        return ids


def load_tokenizer(model_dir: Path, weights_dir: Path | None = None) -> Tokenizer:
    """Load the tokenizer of a local model folder.

    Args:
        model_dir: holds the tokenizer.
        weights_dir: holds the config.json, by whose kind of model transformers chooses the kind of
            tokenizer, and the generation_config.json, which may name further ends of a turn;
            `model_dir` if None.

    Raises:
        OSError: the folder holds no tokenizer.
    """
    weights_dir = weights_dir or model_dir
    config = None  # that of `model_dir`, if it has one
    if weights_dir != model_dir:
        config = AutoConfig.from_pretrained(
            weights_dir, local_files_only=True, trust_remote_code=False
        )
    tokenizer = AutoTokenizer.from_pretrained(
        model_dir, local_files_only=True, trust_remote_code=False, config=config
    )
    ends = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    if (weights_dir / "generation_config.json").is_file():
        eos = GenerationConfig.from_pretrained(weights_dir, local_files_only=True).eos_token_id
        if eos is not None:
            ends |= {eos} if isinstance(eos, int) else set(eos)
    return Tokenizer(tokenizer, frozenset(ends))


class TextStream:
    """Turns the tokens of one answer into text, holding back what is not certain yet.

    Held back are an unfinished UTF-8 sequence and the beginning of a stop string. What was once
    returned stays; the deltas together are the answer's text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._token_ids: list[int] = []
        self._start = 0  # first token of the window that is decoded again with each new token
        self._done = 0  # tokens whose text is in `_pending` or was returned
        self._pending = ""  # text held back as a possible stop string
        self.is_stopped = False  # a stop string appeared

    @property
    def can_stop(self) -> bool:
        """Whether there are stop strings to look for."""
        return bool(self._stop)

    def push(self, token_id: int) -> str:
        """Add a token and return the text that became certain."""
        self._token_ids.append(token_id)
        before = self._tokenizer.decode(self._token_ids[self._start : self._done])
        window = self._tokenizer.decode(self._token_ids[self._start :])
        if window.endswith(REPLACEMENT) or len(window) <= len(before):
            return ""
        self._pending += window[len(before) :]
        self._start, self._done = self._done, len(self._token_ids)
        return self._release()

    def finish(self) -> str:
        """Return what was held back; the answer is over."""
        if self.is_stopped:
            return ""
        before = self._tokenizer.decode(self._token_ids[self._start : self._done])
        rest = self._tokenizer.decode(self._token_ids[self._start :])[len(before) :]
        text, self._pending = self._pending + rest, ""
        return text

    def _release(self) -> str:
        hits = [at for stop in self._stop if (at := self._pending.find(stop)) >= 0]
        if hits:
            self.is_stopped = True
            text, self._pending = self._pending[: min(hits)], ""
            return text
        keep = max((_overlap(self._pending, stop) for stop in self._stop), default=0)
        cut = len(self._pending) - keep
        text, self._pending = self._pending[:cut], self._pending[cut:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
