"""One evaluation from models to summary: replies, scores, pairs, then every figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from torch import Tensor

from evaluation.bar import bar
from evaluation.bootstrap import NUM_RESAMPLES, Array
from evaluation.cells import BASE_USER, Measured, arrange
from evaluation.claims import claims
from evaluation.contenders import Plan, main_setting
from evaluation.fluency import Judge
from evaluation.models import (
    BASE,
    REWARD_MODEL,
    SMALL_BASE,
    LanguageModel,
    hidden,
    load_language_model,
    load_reward_models,
)
from evaluation.pair_accuracy import BETAS, PairSet, make_pair_set, measure_pairs
from evaluation.pair_scores import PairScorer
from evaluation.records import Reply, Setting, read_replies
from evaluation.replies import make_replies
from evaluation.scorers import Scorers, count_table, fit_scorers
from evaluation.summary import matched_cost, matched_kl, sweep_table, text_table, validity
from evaluation.writing import PAIRS, PREFERENCES, PROMPTS
from svc_common.preference_prompt import ChatMessage
from training.build_pairs import build_pairs
from training.data import read_rows, to_messages
from training.pair_encoding import PairEncoder
from training.pair_file import Pair, read_pair_files
from training.pairs import PairBatch
from training.wishes import DIRECTIONS, HELD_OUT_COMBINATIONS, read_phrase_book

DEV_PAIRS = "preferences/pairs_dev.jsonl.gz"
DEV_CANDIDATES = "preferences/candidates_dev.jsonl.gz"
NUM_EXAMPLES = 10


@dataclass(frozen=True)
class EvaluationConfig:
    """How much is measured on pairs, and how it is resampled."""

    num_pairs: int = 0  # dev pairs; 0: all
    num_new_persona_pairs: int = 60  # for each combination that training never shows
    betas: tuple[float, ...] = BETAS
    num_resamples: int = NUM_RESAMPLES
    seed: int = 0


QUICK = EvaluationConfig(num_pairs=400, num_new_persona_pairs=8, betas=(0.0, 1.0, 2.0))


class _Backbone:
    """A language model as `PairScorer` runs it."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def hidden(self, batch: PairBatch) -> Tensor:
        return hidden(self._model, batch)

    def logits(self, states: Tensor) -> Tensor:
        return self._model.logits(states)


def evaluate(
    data: Path, models: Path, out: Path, plan: Plan, config: EvaluationConfig
) -> dict[str, Any]:
    """Write the replies of `plan`, measure everything and return the summary.

    Returns:
        What `evaluation.summary` describes.

    Raises:
        ModelFolderError: a model cannot be used.
        ReplyFileError: a file of replies is broken.
    """
    main = main_setting(models)
    replies = read_replies(make_replies(data, models, out, plan))
    contexts = {str(row["id"]): to_messages(row["context"]) for row in read_rows(data / PROMPTS)}
    scorers = fit_scorers(data, out / "work", config.seed)
    pairs = read_pair_files([data / DEV_PAIRS])
    measured = measure_replies(replies, contexts, scorers, judge_of(models), config)
    return summarise(
        main,
        measured,
        validity(scorers, pairs, config.num_resamples),
        pair_figures(data, models, pairs, config),
        examples(measured, main, contexts),
        {"quick": plan.quick, "num_replies": len(replies), "seed": config.seed},
    )


def summarise(
    main: Setting,
    measured: Measured,
    scorer_figures: Mapping[str, Any],
    pairs: Mapping[str, Any],
    shown: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the summary of measured replies and pairs; see `evaluation.summary`."""
    text = text_table(measured)
    summary: dict[str, Any] = {
        "about": {
            **about,
            "main": main.label,
            "main_setting": {"variant": main.variant, "beta": main.beta, "k": main.k},
            "num_prompts": len(measured.prompt_ids),
            "num_resamples": measured.resampler.weights.shape[0] - 1,
        },
        "scorers": scorer_figures,
        "pairs": pairs,
        "text": text,
        "matched_kl": matched_kl(measured, main),
        "matched_cost": matched_cost(measured, main),
        "sweep": sweep_table(measured, main, text),
        "examples": list(shown),
    }
    return {**summary, "claims": claims(summary, main), "bar": bar(summary, main)}


def judge_of(models: Path) -> Judge | None:
    """Return the language model that judges fluency, or None where there is none."""
    folder = models / SMALL_BASE
    return Judge(folder) if folder.is_dir() else None


def measure_replies(
    replies: Sequence[Reply],
    contexts: Mapping[str, Sequence[ChatMessage]],
    scorers: Scorers,
    judge: Judge | None,
    config: EvaluationConfig,
) -> Measured:
    """Return the replies with their scores; the same text is scored and judged once."""
    texts = sorted({reply.text for reply in replies})
    rows = {text: i for i, text in enumerate(texts)}
    order = [rows[reply.text] for reply in replies]
    nll = np.full((len(replies), 2), np.nan)
    if judge is not None:
        nll = _judged(replies, contexts, judge)
    return arrange(
        replies,
        scorers.table(texts)[order],
        count_table(texts)[order],
        nll,
        config.num_resamples,
        config.seed,
    )


def _judged(
    replies: Sequence[Reply], contexts: Mapping[str, Sequence[ChatMessage]], judge: Judge
) -> Array:
    keys = sorted({(reply.prompt_id, reply.text) for reply in replies})
    losses = judge.losses(
        [contexts[prompt] for prompt, _ in keys], [text for _, text in keys], "judge"
    )
    rows = {key: i for i, key in enumerate(keys)}
    return losses[[rows[reply.prompt_id, reply.text] for reply in replies]]


def new_persona_pairs(data: Path, num_pairs: int, seed: int) -> list[Pair]:
    """Return pairs of two wishes that training never shows together, from validation prompts."""
    book = read_phrase_book(data / PREFERENCES)
    prompts = list(read_rows(data / DEV_CANDIDATES))
    rng = Random(seed)
    rows = [
        row
        for wishes in sorted(tuple(sorted(pair)) for pair in HELD_OUT_COMBINATIONS)
        for row in build_pairs(prompts, wishes, book, num_pairs, rng, flip=False)
    ]
    return [
        Pair(
            to_messages(row["context"]),
            row["preference"],
            row["chosen"],
            row["rejected"],
            tuple(row["labels"]),
            row["persona"],
        )
        for row in rows
    ]


def pair_set(data: Path, pairs: Sequence[Pair], config: EvaluationConfig) -> PairSet:
    """Return the validation pairs, with those of new personas beside them."""
    book = read_phrase_book(data / PREFERENCES)
    seen = {phrase for name in DIRECTIONS for phrase in book.phrases.get(name, ())}
    seen |= {pair.preference for pair in read_pair_files([data / PAIRS])}
    if config.num_pairs:
        pairs = Random(config.seed).sample(pairs, min(config.num_pairs, len(pairs)))
    new = new_persona_pairs(data, config.num_new_persona_pairs, config.seed)
    return make_pair_set(pairs, new, seen, config.num_resamples, config.seed)


def pair_figures(
    data: Path, models: Path, pairs: Sequence[Pair], config: EvaluationConfig
) -> dict[str, Any]:
    """Return the accuracies on preference pairs, by conditioning."""
    variants = load_reward_models(models)
    theta = next(iter(variants.values())).theta
    encoder = PairEncoder(models / REWARD_MODEL)
    base = load_language_model(models / BASE)
    scorer = PairScorer(_Backbone(base), _Backbone(theta), variants, config.betas, encoder.pad_id)
    return measure_pairs(scorer, encoder, pair_set(data, pairs, config))


def examples(
    measured: Measured, main: Setting, contexts: Mapping[str, Sequence[ChatMessage]]
) -> list[dict[str, Any]]:
    """Return some prompts, evenly spread, with the replies of the base and of every user."""
    cells = [(Setting(main.base), BASE_USER)]
    cells += [(main, user) for user in DIRECTIONS]
    cells += [
        key for key in sorted(measured.cells) if key[0].multi == "joined" and _is_main(key[0], main)
    ][:4]
    step = max(1, len(measured.prompt_ids) // NUM_EXAMPLES)
    shown = []
    for row in list(range(0, len(measured.prompt_ids), step))[:NUM_EXAMPLES]:
        prompt = measured.prompt_ids[row]
        replies = [
            {"user": user, "preference": cell.preference, "text": cell.texts[row]}
            for setting, user in cells
            if (cell := measured.cell(setting, user)) and cell.texts[row] is not None
        ]
        turns = [{"role": turn.role, "content": turn.content} for turn in contexts[prompt]]
        shown.append({"prompt_id": prompt, "context": turns, "replies": replies})
    return shown


def _is_main(setting: Setting, main: Setting) -> bool:
    return Setting(setting.contender, setting.variant, setting.beta, setting.k) == main
