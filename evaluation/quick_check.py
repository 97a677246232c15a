"""Compare the base model's replies with guided ones, preference by preference."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from evaluation.attributes import summarise
from evaluation.guided import Guidance, guided_replies
from svc_common.preference_prompt import ChatMessage, add_preference
from training.cli import add_folders, run_command, show
from training.config import DemoConfig
from training.data import read_prompts, require_data
from training.encoding import ChatEncoder
from training.model_card import write_cards
from training.saving import load_model, update_metrics
from training.tokenizer import load_tokenizer

PREFERENCES = {
    "brevity:short": "Be brief.",
    "brevity:long": "Use as many words as you need.",
    "warmth:friendly": "Be friendly and chat with me a little.",
    "warmth:businesslike": "No small talk, just the task.",
    "excitement:lively": "I love exclamation marks!",
    "excitement:calm": "Stay calm, no exclamation marks.",
    "register:formal": "Be formal and polite.",
    "register:casual": "Talk casually.",
    "detail:specific": "Give me specific details.",
    "detail:general": "Leave out the details for now.",
    "questions:asking": "Ask me questions.",
    "questions:telling": "Don't ask me questions.",
}
BASE = "base"


@dataclass(frozen=True)
class CheckConfig:
    """What is tried."""

    num_prompts: int = 40  # spread over the evaluation prompts
    num_candidates: int = 10  # K
    betas: tuple[float, ...] = (1.0, 1.5)  # guidance strengths compared with the base model
    max_new_tokens: int = 80


@dataclass(frozen=True)
class Checked:
    """Replies under one preference and strength, and their counts."""

    name: str
    preference: str
    beta: float
    replies: list[str]
    figures: dict[str, float]


class QuickCheck:
    """The two models of a folder and the prompts they are tried on."""

    def __init__(self, out: Path, prompts: Sequence[Sequence[ChatMessage]], config: CheckConfig):
        tokenizer = load_tokenizer(out / "demo-base")
        self._tokenizer = tokenizer
        self._encoder = ChatEncoder(tokenizer)
        self._base = load_model(out / "demo-base")
        self._theta = load_model(out / "demo-persrm")
        self._prompts = prompts
        self._config = config

    def reply(self, name: str, preference: str, beta: float) -> Checked:
        """Answer every prompt under one preference; `beta` 0 is the base model."""
        prompts = [
            (
                self._encoder.prompt_ids(prompt),
                self._encoder.prompt_ids(add_preference(prompt, preference)),
            )
            for prompt in self._prompts
        ]
        guidance = Guidance(beta, self._config.num_candidates)
        rows = guided_replies(
            self._base, self._theta, prompts, guidance, self._config.max_new_tokens
        )
        ended = [row[-1] == self._base.config.eos_token_id for row in rows]
        texts = [self._tokenizer.decode(row).strip() for row in rows]
        return Checked(name, preference, beta, texts, summarise(texts, ended))


def run_check(data: Path, out: Path, config: CheckConfig) -> list[Checked]:
    """Return the base model's replies, then those of every preference and strength.

    The counts go into the reward model's metrics.
    """
    require_data(data)
    torch.set_num_threads(1)
    prompts = read_prompts(data / "eval/prompts_dev.jsonl")
    step = max(1, len(prompts) // config.num_prompts)
    check = QuickCheck(out, prompts[::step][: config.num_prompts], config)
    runs = [(BASE, "", 0.0)] + [
        (name, preference, beta)
        for beta in config.betas
        for name, preference in PREFERENCES.items()
    ]
    results = [check.reply(*run) for run in tqdm(runs, desc="check", mininterval=5.0)]
    update_metrics(
        out / "demo-persrm",
        {
            "check_num_prompts": config.num_prompts,
            "check_num_candidates": config.num_candidates,
            "check": [
                {"direction": r.name, "preference": r.preference, "beta": r.beta, **r.figures}
                for r in results
            ],
        },
    )
    return results


def report(results: Sequence[Checked], num_texts: int) -> str:
    """Return the table of counts, then the first `num_texts` replies of every run."""
    names = [name.rjust(12) for name in results[0].figures]
    lines = [" ".join(["beta direction".ljust(28), *names])]
    for result in results:
        numbers = [f"{value:12.2f}" for value in result.figures.values()]
        lines.append(" ".join([f"{result.beta:.1f} {result.name}".ljust(28), *numbers]))
    for index in range(min(num_texts, len(results[0].replies))):
        lines.append("")
        lines += [f"[{r.beta:.1f} {r.name}] {r.replies[index]}" for r in results]
    return "\n".join(lines) + "\n"


def check_and_report(data: Path, out: Path, config: CheckConfig, num_texts: int) -> None:
    """Run the check, print it, and bring the model cards up to date."""
    show(report(run_check(data, out, config), num_texts))
    write_cards(out, DemoConfig())


def main() -> None:
    """Parse the folders and run."""
    parser = add_folders(argparse.ArgumentParser(description=__doc__))
    parser.add_argument("--texts", type=int, default=3, help="prompts whose replies are printed")
    args = parser.parse_args()
    run_command(lambda: check_and_report(args.data, args.out, CheckConfig(), args.texts))


if __name__ == "__main__":
    main()
