"""Real models: plain decoding, PAD in all its forms, and what others offer on the same weights."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.make_models import pair_dir
from benchmarks.options import Options, Scale
from benchmarks.prompts import make_prompts, pair_tokenizer
from benchmarks.report import Report, ratio_bar
from benchmarks.rounds import Cell, Result, Sample, interleave, say
from benchmarks.service_contenders import (
    MAX_TOKENS,
    PLAIN,
    SEQUENTIAL,
    TWO_ROWS,
    service_contenders,
)
from benchmarks.service_loop import ServiceLoop
from benchmarks.stacks import StackPlan, cores
from benchmarks.worker import Worker

ENGINE, GENERATE = "engine, in process", "transformers generate"
BESIDE = f"{ENGINE}, beside another"
NO_CACHE = "no cache (released code)"
MIXED_BATCH = 16
REWARD_PROMPT = 128  # tokens that the preference and its words add to a prompt, at most


@dataclass(frozen=True)
class Block:
    """Cells of one model that are measured on the same services: (batch size, prompt tokens)."""

    model: str
    cells: tuple[tuple[int, int], ...]
    num_steps: int
    num_rounds: int
    has_mixed: bool = False
    no_cache_prompts: tuple[int, ...] = ()
    two_rows: tuple[str, ...] = ("full",)  # kinds that run with a row for the reference too

    @property
    def most(self) -> tuple[int, int]:
        """The largest batch and the longest prompt."""
        batches, prompts = zip(*self.cells, strict=True)
        return max(batches), max(prompts)


BOTH = ("full", "lora")
BATCHES, PROMPTS = (1, 4, 16, 64), (64, 256, 1024)
BLOCKS = {
    Scale.TINY: (Block("tiny", ((1, 16), (2, 16)), 4, 1, True, (16,), ("lora",)),),
    Scale.QUICK: (Block("30m", ((1, 64), (16, 64)), 24, 1, two_rows=BOTH),),
    Scale.DEFAULT: (
        Block("demo", ((1, 64), (16, 64)), 48, 2),
        Block("30m", ((1, 64), (4, 64), (16, 64)), 48, 3, has_mixed=True, two_rows=BOTH),
        Block("30m", ((64, 64),), 16, 1, two_rows=()),  # else 20 GB of caches
        Block("30m", ((1, 256),), 32, 3, no_cache_prompts=(256,)),
        Block("30m", ((1, 1024),), 32, 2, no_cache_prompts=(1024,)),
        Block("135m", ((1, 64),), 12, 2),
    ),
    Scale.FULL: (
        Block("demo", tuple((b, p) for b in BATCHES for p in (64, 256)), 48, 5, True),
        *(
            Block(model, tuple((b, prompt) for b in BATCHES), steps, 3, prompt == 64, (prompt,))
            for model, steps in (("30m", 32), ("135m", 16))
            for prompt in PROMPTS
        ),
    ),
}


def run(options: Options) -> Report:
    """Measure all blocks of the scale."""
    report = Report("models")
    for block in BLOCKS[options.scale]:
        _measure(block, options, report)
    report.notes = [
        "time per step (one token of each answer) between first and last token, while all answers"
        " run; prompts are not in it",
        "`pad`: its reference is the base model, so the reward service runs theta alone;"
        " `two rows`: it runs both in one forward, as it must for any other reference",
        f"`{BESIDE}`: the same while a second one runs on the other core, without any message: what"
        " two models cost each other in this machine's memory",
        "`full`: theta has weights of its own; `lora`: theta is a rank-8 adapter of the base",
        f"`{NO_CACHE}`: 128 new tokens, integrated from steps timed at a few prefix lengths",
    ]
    return report


def _measure(block: Block, options: Options, report: Report) -> None:
    kinds = ["full"] if block.model == "demo" else ["full", "lora"]
    pairs = {
        kind: pair_dir("demo" if block.model == "demo" else f"{block.model}-{kind}", options.cache)
        for kind in kinds
    }
    num_rounds = options.num_rounds or block.num_rounds
    with ExitStack() as stack:
        services = stack.enter_context(_services(block, pairs))
        first = next(iter(pairs.values()))
        tokenizer = pair_tokenizer(first)
        most, longest = block.most
        worker, neighbour = (
            stack.enter_context(Worker(first, core, most, max(longest, 128) + 256))
            for core in cores()
        )
        library = _Library(worker, neighbour, first)
        for batch, prompt in block.cells:
            cell = Cell(block.model, batch, prompt)
            contenders = service_contenders(services, tokenizer, cell, block.num_steps)
            contenders |= library.steady(cell, block.num_steps)
            report.results += interleave(cell, contenders, num_rounds)
            _add_bars(report, cell)
        if block.has_mixed:
            cell = Cell(block.model, min(MIXED_BATCH, most), 0)
            report.results += interleave(cell, library.mixed(cell), num_rounds)
            _add_mixed_bars(report, cell)
        for prompt in block.no_cache_prompts:
            _add_no_cache(report, library, Cell(block.model, 1, prompt))


def _services(block: Block, pairs: Mapping[str, Path]) -> ServiceLoop:
    slots, prompt = block.most
    context = prompt + REWARD_PROMPT + MAX_TOKENS
    plans = {kind: service_plan(pair, slots, context) for kind, pair in pairs.items()}
    for kind in block.two_rows:
        plan = plans[kind]
        own = {**plan.generator, "shares_reference": "false"}
        rows = {**plan.reward, "num_slots": 2 * slots + 2}
        plans[kind + TWO_ROWS] = replace(plan, generator=own, reward=rows)
    first = next(iter(pairs.values()))
    plans[SEQUENTIAL] = service_plan(first, slots, context, "benchmarks.sequential")
    return ServiceLoop(plans)


def service_plan(
    pair: Path, num_slots: int, context: int, module: str = "generator_svc"
) -> StackPlan:
    """Return a stack with room for `num_slots` answers, each with one preference."""
    shared = {"context_length": context}
    return StackPlan(
        pair,
        generator_module=module,
        generator={
            **shared,
            "num_slots": num_slots,
            "max_prefix_cache_bytes": 0,  # each round asks for the same prompts
            "max_tokens": context,
            "reward_step_timeout_s": 60,
            "reward_open_timeout_s": 120,
        },
        reward={
            **shared,
            "num_slots": num_slots + 2,
            "max_waiting_sessions": 4 * num_slots + 64,
        },
    )


class _Library:
    """Contenders without services."""

    def __init__(self, worker: Worker, neighbour: Worker, pair: Path) -> None:
        self._worker = worker
        self._neighbour = neighbour  # on the reward service's core
        self._tokenizer = pair_tokenizer(pair)

    def steady(self, cell: Cell, num_steps: int) -> dict[str, Callable[[], Sample]]:
        ids = self._ids([cell.prompt] * cell.batch)
        return {
            ENGINE: self._call("engine_steady", prompts=ids, num_steps=num_steps),
            BESIDE: lambda: self._beside(prompts=ids, num_steps=num_steps),
            GENERATE: self._call("generate_steady", prompts=ids, num_steps=num_steps),
        }

    def _beside(self, prompts: list[list[int]], num_steps: int) -> Sample:
        """Time the engine while another one reads the same weights on the other core.

        Two services share the machine's memory: no message between them is in this.
        """
        self._neighbour.call("engine_steady", prompts=prompts[:1], num_steps=1)  # loads its model
        with ThreadPoolExecutor(1) as pool:
            call = {"prompts": prompts, "num_steps": 3 * num_steps}
            other = pool.submit(self._neighbour.call, "engine_steady", **call)
            sample = self._worker.call("engine_steady", prompts=prompts, num_steps=num_steps)
            other.result()
        return sample

    def mixed(self, cell: Cell) -> dict[str, Callable[[], Sample]]:
        """Prompts of 16 to 256 tokens, answers of 8 to 128."""
        spread = range(cell.batch)
        ids = self._ids([16 + 240 * (7 * i % cell.batch) // cell.batch for i in spread])
        counts = [8 + 120 * (5 * i % cell.batch) // cell.batch for i in spread]
        return {
            f"{ENGINE}, mixed": self._call("engine_mixed", prompts=ids, num_tokens=counts),
            f"{GENERATE}, mixed": self._call("generate_mixed", prompts=ids, num_tokens=counts),
            "transformers continuous, mixed": self._call(
                "continuous_mixed", prompts=ids, num_tokens=counts
            ),
        }

    def no_cache(self, num_prompt: int) -> Sample:
        return self._worker.call("no_cache", num_prompt=num_prompt, num_new=128, num_places=3)

    def _ids(self, lengths: list[int]) -> list[list[int]]:
        texts = make_prompts(self._tokenizer, lengths)
        return [self._tokenizer.encode_prompt(text) for text in texts]

    def _call(self, name: str, **arguments: object) -> Callable[[], Sample]:
        return lambda: self._worker.call(name, **arguments)


def _add_bars(report: Report, cell: Cell) -> None:
    def found(contender: str) -> Result | None:
        return report.find(contender, cell.model, cell.batch, cell.prompt)

    plain, generate = found(PLAIN), found(GENERATE)
    if cell.batch in (1, 16):
        for kind in ("lora", "full"):
            limits = {"pad-released": 1.25, "pad": 1.5}
            names = {f"{strategy}, {kind}": limit for strategy, limit in limits.items()}
            for name, limit in {**names, f"pad, {kind}{TWO_ROWS}": 1.5}.items():
                report.bars += ratio_bar(f"{name} / plain ({cell})", limit, found(name), plain)
    if cell.batch == 1:
        own = found(ENGINE)
        report.bars += ratio_bar(f"engine / generate ({cell})", 0.75, own, generate)
        own = found("pad-released, full")
        report.bars += ratio_bar(f"pad-released / generate ({cell})", 0.9, own, generate)
        own = found("pad, lora")
        report.bars += ratio_bar(f"pad, lora / generate ({cell})", 0.9, own, generate)


def _add_mixed_bars(report: Report, cell: Cell) -> None:
    own = report.find(f"{ENGINE}, mixed", cell.model, cell.batch, cell.prompt)
    for name, limit in ((f"{GENERATE}, mixed", 1.5), ("transformers continuous, mixed", 2.0)):
        other = report.find(name, cell.model, cell.batch, cell.prompt)
        text = f"engine tokens/s / {name} ({cell.model}, B = {cell.batch})"
        report.bars += ratio_bar(text, limit, own, other, "tokens_per_s", is_upper=False)


def _add_no_cache(report: Report, library: _Library, cell: Cell) -> None:
    """Time the loop once; it takes minutes, and its own spread is small."""
    say(f"{cell}: {NO_CACHE}")
    result = Result(cell, NO_CACHE, [library.no_cache(cell.prompt)])
    report.results.append(result)
    limit = {256: 15.0, 1024: 40.0}.get(cell.prompt)
    for name in ("pad-released, full", "pad, full"):
        own = report.find(name, cell.model, 1, cell.prompt)
        if own is None or limit is None:
            continue
        repeated = Result(cell, NO_CACHE, result.samples * len(own.samples))
        text = f"{NO_CACHE} / {name} ({cell})"
        report.bars += ratio_bar(text, limit, repeated, own, is_upper=False)
