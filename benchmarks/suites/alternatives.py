"""What was not built, and why: compiled forwards, half-batches, speculation."""

import shutil
from dataclasses import dataclass
from functools import partial

from benchmarks.make_models import pair_dir
from benchmarks.options import Options, Scale
from benchmarks.report import Report
from benchmarks.rounds import Cell, Result, Sample, interleave
from benchmarks.stacks import cores
from benchmarks.worker import Worker

PROMPT = 64
WAITS_MS = (1.0, 10.0)  # for rewards beyond the forwards: one machine, or another region


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    size: str
    batches: tuple[int, ...]
    drafts: tuple[int, ...]
    num_tokens: int
    num_steps: int
    num_rounds: int


PLANS = {
    Scale.TINY: Plan("tiny", (2,), (2,), 12, 3, 1),
    Scale.QUICK: Plan("30m", (1,), (4,), 40, 20, 1),
    Scale.DEFAULT: Plan("30m", (1, 16, 64), (2, 4, 8), 200, 40, 3),
    Scale.FULL: Plan("30m", (1, 4, 16, 64), (2, 4, 8), 400, 60, 5),
}


def run(options: Options) -> Report:
    """Time forwards and drafts in one process."""
    plan = PLANS[options.scale]
    report = Report("alternatives")
    pair = pair_dir(f"{plan.size}-lora", options.cache)
    num_rounds = options.num_rounds or plan.num_rounds
    context = PROMPT + plan.num_tokens + 256
    with Worker(pair, cores()[0], max(plan.batches), context) as worker:
        for batch in plan.batches:
            report.results += _forwards(worker, plan, batch, num_rounds)
        for drafts in plan.drafts:
            cell = Cell(plan.size, 1, PROMPT)
            sample = worker.call(
                "alternative_speculation",
                num_prompt=PROMPT,
                num_tokens=plan.num_tokens,
                drafts=drafts,
            )
            name = f"speculation, drafts of {drafts}"
            report.results.append(Result(cell, name, [sample | costs(sample)]))
    report.notes = [
        "forwards without the output layer, on one core",
        "`two halves`: the batch as two forwards of half its rows, one after the other",
        "speculation: sampled, theta is a rank-8 adapter of the base with small noise; ms a token",
        "`ahead`: today's step, forwards side by side and then a wait; `spec`: drafts, then one"
        " pass of the reward model over them and a wait; with waits of 1 and 10 ms",
    ]
    return report


def _forwards(worker: Worker, plan: Plan, batch: int, num_rounds: int) -> list[Result]:
    def forward(kind: str, num_rows: int, times: int = 1) -> Sample:
        sample = worker.call(
            "alternative_forward",
            kind=kind,
            batch=num_rows,
            num_prompt=PROMPT,
            num_steps=plan.num_steps,
        )
        return {"step_ms": times * sample["step_ms"]}

    contenders = {kind: partial(forward, kind, batch) for kind in ("lean", "transformers")}
    if shutil.which("g++"):  # torch compiles with it
        contenders["compiled"] = partial(forward, "compiled", batch)
    if batch > 1:
        contenders["lean, two halves"] = partial(forward, "lean", batch // 2, 2)
    return interleave(Cell(plan.size, batch, PROMPT), contenders, num_rounds)


def costs(sample: Sample) -> Sample:
    """Return milliseconds a token of a step as it is and of speculation, by the wait."""
    found: Sample = {}
    for wait_ms in WAITS_MS:
        ahead = max(sample["base_ms"], sample["reward_ms"]) + wait_ms
        drafted = sample["draft_ms"] + sample["score_ms"] + wait_ms
        found[f"ahead_{wait_ms:g}_ms"] = ahead
        found[f"spec_{wait_ms:g}_ms"] = drafted / sample["tokens_per_round"]
    return found
