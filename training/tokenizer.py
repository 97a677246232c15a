"""The demo models' byte-level BPE tokenizer and its chat template."""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from svc_common.preference_prompt import guide_text
from training.cli import add_folders, run_command
from training.config import (
    BASE,
    PERSRM,
    SMALL_BASE,
    DemoConfig,
    ModelConfig,
    TokenizerConfig,
)
from training.data import read_candidates, read_dialogues, read_phrases, require_data

BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{{ '<|bos|>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Words with their leading space, numbers two digits at a time (times and prices stay short),
# runs of punctuation, white space.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PHRASE_REPEATS = 20  # so that the guideline and the phrasings become few tokens


def role_token(role: str) -> str:
    """Return the token that opens a turn of `role`."""
    return f"<|{role}|>"


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Train the tokenizer; every text of any language round-trips, byte by byte if need be."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[PAD, BOS, END, *(role_token(role) for role in ROLES)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def corpus(data: Path) -> Iterator[str]:
    """Yield the texts the tokenizer is trained on: dialogues, candidates, preference phrasings."""
    for dialogue in read_dialogues(data / "lm/dialogues_train.jsonl.gz"):
        for turn in dialogue:
            yield from (turn.message.content, *turn.before, *turn.after)
    for prompt in read_candidates(data / "preferences/candidates_train.jsonl.gz"):
        yield from prompt.replies[:2]
    for phrase in read_phrases(data / "preferences/preferences.json"):
        yield from [guide_text("", phrase)] * PHRASE_REPEATS


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_positions: int) -> None:
    """Write `tokenizer` with its chat template the way `AutoTokenizer` reads it."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[role_token(role) for role in ROLES],
        model_max_length=max_positions,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder, save_jinja_files=False)
    settings = folder / "tokenizer_config.json"
    fields = json.loads(settings.read_text(encoding="utf-8"))
    fields["tokenizer_class"] = "PreTrainedTokenizerFast"  # a name that transformers 4 knows too
    settings.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the bare tokenizer of a model folder."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def make_tokenizer(data: Path, out: Path, config: TokenizerConfig, model: ModelConfig) -> None:
    """Train the tokenizer on `data` and write it into all model folders."""
    require_data(data)
    tokenizer = train_tokenizer(corpus(data), config)
    for name in (BASE, SMALL_BASE, PERSRM):
        save_tokenizer(tokenizer, out / name, model.max_positions)


def main() -> None:
    """Run this step alone."""
    parser = add_folders(argparse.ArgumentParser(description=__doc__))
    args = parser.parse_args()
    config = DemoConfig()
    run_command(lambda: make_tokenizer(args.data, args.out, config.tokenizer, config.model))


if __name__ == "__main__":
    main()
