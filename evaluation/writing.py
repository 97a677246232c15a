"""From a row of the plan to its replies: builds the jobs of each contender and runs them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from evaluation.best_of_n import TEMPERATURE, best_of, score, seed_of, theta_scores
from evaluation.contenders import WEIGHTS, Plan, PlanRow
from evaluation.decoding import Decoder
from evaluation.jobs import Guide, Job, ThetaRow, Written
from evaluation.models import (
    BASE,
    SMALL_BASE,
    LanguageModel,
    RewardVariant,
    load_language_model,
    load_reward_models,
)
from evaluation.reader import PromptStore, Read
from evaluation.records import Setting
from evaluation.user_lora import adapter_folder, user_model
from evaluation.users import User, read_users
from generator_svc.request_parsing import DEFAULT_TOP_K
from svc_common.lm.loading import ModelFolderError
from svc_common.preference_prompt import ChatMessage, add_preference
from training.data import read_rows, to_messages
from training.pair_file import Pair, read_pair_files

PREFERENCES = "preferences/preferences.json"
PROMPTS = "eval/prompts_dev.jsonl"
PAIRS = "preferences/pairs_train.jsonl.gz"


@dataclass(frozen=True)
class EvalPrompt:
    """A conversation to answer."""

    prompt_id: str
    context: tuple[ChatMessage, ...]


@dataclass(frozen=True)
class _Task:
    """One reply that a row asks for."""

    setting: Setting
    user: User
    prompt: EvalPrompt


def spread(count: int, total: int) -> list[int]:
    """Return `count` of the numbers 0..total-1, evenly spread; all if there are no more."""
    return (
        [number * total // count for number in range(count)] if count < total else [*range(total)]
    )


def read_eval_prompts(path: Path, count: int) -> list[EvalPrompt]:
    """Return `count` prompts of an evaluation file, evenly spread."""
    rows = [EvalPrompt(row["id"], to_messages(row["context"])) for row in read_rows(path)]
    return [rows[number] for number in spread(count, len(rows))]


class Writer:
    """Everything that the rows of a plan need; models are loaded when a row first asks for them."""

    def __init__(self, data: Path, models: Path, work: Path, plan: Plan) -> None:
        self._data = data
        self._models = models
        self._work = work
        self._plan = plan
        self._store = PromptStore()
        self._users = read_users(data / PREFERENCES)
        self._prompts = read_eval_prompts(data / PROMPTS, plan.num_prompts)
        self._samples: dict[str, list[Written]] = {}  # by prompt

    @cached_property
    def _base(self) -> LanguageModel:
        return load_language_model(self._models / BASE)

    @cached_property
    def _small_base(self) -> LanguageModel:
        small = load_language_model(self._models / SMALL_BASE)
        if small.tokenizer.fingerprint != self._base.tokenizer.fingerprint:
            raise ModelFolderError(f"{self._models / SMALL_BASE}: must have {BASE}'s tokenizer")
        return small

    @cached_property
    def _variants(self) -> dict[str, RewardVariant]:
        return load_reward_models(self._models)

    @cached_property
    def _pairs(self) -> dict[str, list[Pair]]:
        """The training pairs of each single wish."""
        pairs: dict[str, list[Pair]] = {}
        for pair in read_pair_files([self._data / PAIRS]):
            if len(pair.labels) == 1:
                pairs.setdefault(pair.labels[0], []).append(pair)
        return pairs

    def write(self, row: PlanRow) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the replies of a row with their numbers, in the order in which they end."""
        few = spread(row.num_prompts, len(self._prompts))
        tasks = [
            _Task(setting, self._users[name], self._prompts[number])
            for name in row.users
            for number in few
            for setting in row.settings
        ]
        if row.contender == "best-of-n":
            for number, (task, written) in enumerate(self._best_of_n(tasks, len(row.settings))):
                yield number, self._record(row, task, written)
            return
        speaker = self._speaker(row)
        jobs = [self._job(task, speaker) for task in tasks]
        for number, written in self._decoder.write(jobs):
            yield number, self._record(row, tasks[number], written)

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self._store, max_new_tokens=self._plan.max_new_tokens)

    def _speaker(self, row: PlanRow) -> LanguageModel:
        if row.contender in ("base-small", "pad-small-base"):
            return self._small_base
        if row.contender == "theta":
            return self._variants[row.settings[0].variant].theta
        if row.contender != "user-lora":
            return self._base
        (name,) = row.users
        config = self._plan.user_lora
        folder = adapter_folder(self._work, name, self._base, config)
        (direction,) = self._users[name].directions
        return user_model(self._models / BASE, self._base, self._pairs[direction], folder, config)

    def _job(self, task: _Task, speaker: LanguageModel) -> Job:
        setting = task.setting
        is_tuned = setting.contender in ("user-lora", "theta")
        plain_model = self._base if is_tuned else speaker
        plain = _read(plain_model, task.prompt.context)
        spoken, guide = _read(speaker, self._spoken(task)), None
        if setting.contender in ("pad", "pad-released", "pad-small-base"):
            guide = self._guide(task)
        return Job(spoken, plain, setting.k or DEFAULT_TOP_K, guide)

    def _spoken(self, task: _Task) -> Sequence[ChatMessage]:
        """Return the conversation as the writing model reads it."""
        context = task.prompt.context
        if task.setting.contender in ("prompt", "theta"):
            return add_preference(context, task.user.preference(task.prompt.prompt_id))
        return [*self._examples(task), *context]

    def _examples(self, task: _Task) -> list[ChatMessage]:
        """Return exchanges of this user, as many as fit: a question, and the reply they chose."""
        if task.setting.contender != "in-context":
            return []
        (direction,) = task.user.directions
        rng = Random(f"{task.user.name}:{task.prompt.prompt_id}")
        drawn = rng.sample(self._pairs[direction], task.setting.n)
        messages: list[ChatMessage] = []
        for pair in drawn:
            longer = [*messages, pair.context[-1], ChatMessage("assistant", pair.chosen)]
            ids = _read(self._base, [*longer, *task.prompt.context]).token_ids
            if len(ids) <= self._plan.in_context_tokens:
                messages = longer
        return messages

    def _guide(self, task: _Task) -> Guide:
        """Return the rewards: one preference of all wishes, or one preference a wish.

        Weights sum to 1, so that both push with the same strength.
        """
        variant = self._variants[task.setting.variant]
        context, prompt_id = task.prompt.context, task.prompt.prompt_id
        wishes: Sequence[str] = [task.user.preference(prompt_id)]
        if task.setting.multi == WEIGHTS:
            wishes = task.user.wishes(prompt_id)
        vectors = variant.vectors(wishes)  # [P, 2D]
        rows = []
        for number, wish in enumerate(wishes):
            messages = add_preference(context, wish) if variant.guided else context
            vector = None if vectors is None else vectors[number]
            rows.append(ThetaRow(_read(variant.theta, messages), 1.0 / len(wishes), vector))
        is_released = task.setting.contender == "pad-released"
        reference = None if is_released else _read(self._base, context)
        return Guide(variant, tuple(rows), reference, task.setting.beta)

    def _best_of_n(
        self, tasks: Sequence[_Task], num_settings: int
    ) -> Iterator[tuple[_Task, Written]]:
        """Yield the best of the same samples under each user; settings differ in n alone."""
        most = max(task.setting.n for task in tasks)
        self._draw([task.prompt for task in tasks], most)
        for start in range(0, len(tasks), num_settings):
            same = tasks[start : start + num_settings]
            guide = self._guide(same[0])
            assert guide.reference is not None
            samples = self._samples[same[0].prompt.prompt_id][:most]
            replies = [sample.token_ids for sample in samples]
            theta = theta_scores(guide, replies)
            reference = score(guide.reference, guide.reference.model.logits, replies)
            for task in same:
                yield task, best_of(task.setting.n, samples, guide, theta, reference)

    def _draw(self, prompts: Sequence[EvalPrompt], count: int) -> None:
        """Draw samples of the base for the prompts that have none yet."""
        missing = {p.prompt_id: p for p in prompts if p.prompt_id not in self._samples}
        jobs, owners = [], []
        for prompt in missing.values():
            plain = _read(self._base, prompt.context)
            for number in range(count):
                seed = seed_of(prompt.prompt_id, number)
                jobs.append(Job(plain, plain, DEFAULT_TOP_K, None, TEMPERATURE, seed))
                owners.append(prompt.prompt_id)
        written = dict(self._decoder.write(jobs))
        for number, owner in enumerate(owners):
            self._samples.setdefault(owner, []).append(written[number])

    def _record(self, row: PlanRow, task: _Task, written: Written) -> dict[str, Any]:
        """Return a reply as the line of its file."""
        setting, user = task.setting, task.user
        is_stated = setting.contender not in ("base", "base-small", "in-context", "user-lora")
        tokens = written.token_ids
        return {
            "row": row.name,
            "contender": setting.contender,
            "variant": setting.variant,
            "beta": setting.beta,
            "k": setting.k,
            "n": setting.n,
            "multi": setting.multi,
            "user": user.name,
            "directions": list(user.directions),
            "preference": user.preference(task.prompt.prompt_id) if is_stated else "",
            "phrase_seen": user.phrase_seen,
            "prompt_id": task.prompt.prompt_id,
            "text": self._base.tokenizer.decode(tokens).strip(),
            "num_tokens": len(tokens) - written.ended,
            "ended": written.ended,
            "kl_per_token": round(written.kl_per_token, 6),
            "kl_is_bound": setting.contender == "best-of-n",
            "seconds": round(written.seconds, 6),
            "model_tokens": written.model_tokens,
        }


def _read(model: LanguageModel, messages: Sequence[ChatMessage]) -> Read:
    return Read(model, tuple(model.tokenizer.encode_prompt(tuple(messages))))
