"""What is compared: a row for each contender and group of users, small enough to be resumed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from evaluation.decoding import MAX_NEW_TOKENS
from evaluation.models import REWARD_MODEL, SMALL_BASE, available_variants, default_variant
from evaluation.records import Setting
from evaluation.user_lora import UserLoraConfig
from evaluation.users import (
    BASE_USER,
    User,
    new_persona_users,
    persona_users,
    single_users,
    unseen_users,
    untrained_users,
)
from generator_svc.request_parsing import DEFAULT_TOP_K

MAIN_BETA = 1.0  # the generator's default
JOINED, WEIGHTS = "joined", "weights"
Group = Callable[[Mapping[str, User]], list[User]]


@dataclass(frozen=True)
class Plan:
    """How much is generated; `full_plan` and `quick_plan` are the two that are used."""

    num_prompts: int = 50  # of the evaluation prompts, evenly spread
    num_sweep_prompts: int = 24  # of those, for sweeps and costly groups
    quick: bool = False
    num_jobs: int = 2  # processes, one torch thread each
    max_new_tokens: int = MAX_NEW_TOKENS
    in_context_tokens: int = 304  # longest prompt with examples: the demo base was trained on 384
    betas: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    candidate_counts: tuple[int, ...] = (5, 20, 50)  # K, besides the main one
    candidate_betas: tuple[float, ...] = (0.5, 1.0, 2.0)  # at those K
    variant_betas: tuple[float, ...] = (0.5, 1.0, 2.0)  # of the other conditionings
    sample_counts: tuple[int, ...] = (4, 16)  # n of best-of-n
    example_counts: tuple[int, ...] = (2, 8)  # exchanges of in-context, as many as fit
    user_lora: UserLoraConfig = field(default_factory=UserLoraConfig)


def full_plan(num_jobs: int = 2) -> Plan:
    """Return the plan that the report is made from."""
    return Plan(num_jobs=num_jobs)


def quick_plan(num_jobs: int = 2) -> Plan:
    """Return a plan of about two minutes: every contender and kind of user, few prompts."""
    return Plan(
        num_prompts=10,
        num_sweep_prompts=4,
        quick=True,
        num_jobs=num_jobs,
        betas=(0.5, 1.0, 2.0),
        candidate_counts=(20,),
        candidate_betas=(1.0,),
        variant_betas=(1.0,),
        user_lora=UserLoraConfig(num_pairs=60, num_held_out=20),
    )


@dataclass(frozen=True)
class PlanRow:
    """One file of replies: some settings for some users on the first prompts of the plan."""

    name: str
    settings: tuple[Setting, ...]
    users: tuple[str, ...]
    num_prompts: int

    @property
    def contender(self) -> str:
        return self.settings[0].contender

    @property
    def num_replies(self) -> int:
        return len(self.settings) * len(self.users) * self.num_prompts


def main_setting(models: Path) -> Setting:
    """Return how the shipped reward model is used by default: what the bar is measured at."""
    return Setting("pad", default_variant(models / REWARD_MODEL), MAIN_BETA, DEFAULT_TOP_K)


def plan_rows(plan: Plan, models: Path, users: Mapping[str, User]) -> list[PlanRow]:
    """Return all rows for the models that are there, the largest first."""
    main = main_setting(models)
    rows = [PlanRow("base", (Setting("base"),), (BASE_USER,), plan.num_prompts)]
    rows += _prompted(plan, users)
    rows += _best_of_n(plan, main, users)
    rows += _guided(plan, main, users)
    rows += _variants(plan, main, models, users)
    rows += _sweep(plan, main, users)
    rows += [
        PlanRow(f"user-lora-{_file_name(user.name)}", (Setting("user-lora"),), (user.name,), n)
        for user in single_users(users)
        for n in (plan.num_prompts,)
    ]
    if (models / SMALL_BASE).is_dir():
        rows += _small_base(plan, main, users)
    return sorted(rows, key=lambda row: -row.num_replies)


def _names(users: Sequence[User]) -> tuple[str, ...]:
    return tuple(user.name for user in users)


def _row(
    name: str, settings: Sequence[Setting], group: Group, users: Mapping[str, User], count: int
) -> PlanRow:
    return PlanRow(name, tuple(settings), _names(group(users)), count)


def _prompted(plan: Plan, users: Mapping[str, User]) -> list[PlanRow]:
    """Return what a base model can do alone: the wish in the prompt, or examples of it."""
    one, two, count = Setting("prompt"), Setting("prompt", multi=JOINED), plan.num_prompts
    examples = [Setting("in-context", n=n) for n in plan.example_counts]
    return [
        _row("prompt-singles", [one], single_users, users, count),
        _row("prompt-unseen", [one], unseen_users, users, count),
        _row("prompt-personas", [two], persona_users, users, count),
        _row("prompt-new-personas", [two], new_persona_users, users, count),
        _row("prompt-untrained", [one], untrained_users, users, count),
        _row("in-context-singles", examples, single_users, users, count),
    ]


def _best_of_n(plan: Plan, main: Setting, users: Mapping[str, User]) -> list[PlanRow]:
    one = [Setting("best-of-n", main.variant, n=n) for n in plan.sample_counts]
    two = [replace(setting, multi=JOINED) for setting in one]
    few = plan.num_sweep_prompts
    return [
        _row("best-of-n-singles", one, single_users, users, plan.num_prompts),
        _row("best-of-n-unseen", one[:1], unseen_users, users, few),
        _row("best-of-n-personas", two[:1], persona_users, users, few),
    ]


def _guided(plan: Plan, main: Setting, users: Mapping[str, User]) -> list[PlanRow]:
    """Return the main setting for everybody, and the released code's rule."""
    joined, weights = replace(main, multi=JOINED), replace(main, multi=WEIGHTS)
    released = replace(main, contender="pad-released")
    count = plan.num_prompts
    return [
        _row("pad-singles", [main], single_users, users, count),
        _row("pad-unseen", [main], unseen_users, users, count),
        _row("pad-personas", [joined, weights], persona_users, users, count),
        _row("pad-new-personas", [joined, weights], new_persona_users, users, count),
        _row("pad-untrained", [main], untrained_users, users, count),
        _row("pad-released-singles", [released], single_users, users, count),
        _row("theta-singles", [Setting("theta", main.variant)], single_users, users, count),
    ]


def _variants(plan: Plan, main: Setting, models: Path, users: Mapping[str, User]) -> list[PlanRow]:
    """Return the other conditionings of the reward model."""
    rows = []
    for variant in available_variants(models / REWARD_MODEL):
        if variant == main.variant:
            continue
        own = replace(main, variant=variant)
        others = [replace(own, beta=beta) for beta in plan.variant_betas if beta != main.beta]
        two = [replace(own, multi=JOINED)]
        few = plan.num_sweep_prompts
        rows += [
            _row(f"pad-{variant}-singles", [own], single_users, users, plan.num_prompts),
            _row(f"pad-{variant}-unseen", [own], unseen_users, users, plan.num_prompts),
            _row(f"pad-{variant}-personas", two, persona_users, users, few),
        ]
        rows += [_row(f"sweep-{variant}", others, single_users, users, few)] if others else []
    return rows


def _sweep(plan: Plan, main: Setting, users: Mapping[str, User]) -> list[PlanRow]:
    """Return the strengths and candidate counts around the main setting, without it."""
    rows = []
    for count, betas in [
        (main.k, plan.betas),
        *((count, plan.candidate_betas) for count in plan.candidate_counts),
    ]:
        settings = [replace(main, beta=beta, k=count) for beta in betas]
        settings = [setting for setting in settings if setting != main]
        rows.append(_row(f"sweep-k{count}", settings, single_users, users, plan.num_sweep_prompts))
    return rows


def _small_base(plan: Plan, main: Setting, users: Mapping[str, User]) -> list[PlanRow]:
    """Return a base of another size under the same reward model."""
    betas = sorted({main.beta, 2 * main.beta})
    guided = [replace(main, contender="pad-small-base", beta=beta) for beta in betas]
    return [
        PlanRow("base-small", (Setting("base-small"),), (BASE_USER,), plan.num_prompts),
        _row("pad-small-base-singles", guided, single_users, users, plan.num_prompts),
    ]


def _file_name(text: str) -> str:
    return text.replace(":", "-")
