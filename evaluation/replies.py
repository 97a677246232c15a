"""Write the replies of a plan row by row in several processes; a row that is there stays."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Never

import torch
from torch import multiprocessing
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm

from evaluation.contenders import Plan, PlanRow, plan_rows
from evaluation.models import BASE, REWARD_MODEL, SMALL_BASE, load_language_model
from evaluation.user_lora import ADAPTERS, adapter_folder, read_figures
from evaluation.users import read_users
from evaluation.writing import PAIRS, PREFERENCES, PROMPTS, Writer

FORMAT = 1  # raise it when the same settings would give other replies
FOLDER = "replies"
LORA_FIGURES = "user_lora.json"
POLL_S = 0.5  # between two looks at the processes


@dataclass(frozen=True)
class Folders:
    """Where data and models are, and where replies and adapters go."""

    data: Path
    models: Path
    out: Path


def make_replies(data: Path, models: Path, out: Path, plan: Plan) -> list[Path]:
    """Write all replies of `plan` into `out`/replies and return their files.

    A file is there whole or not at all, and its name holds a hash of all that it depends on, so a
    run that was killed goes on where it stopped; files of other settings are removed.

    Raises:
        ModelFolderError: a model cannot be used.
    """
    folders = Folders(data, models, out)
    rows = plan_rows(plan, models, read_users(data / PREFERENCES))
    digests = _Digests(folders, plan)
    paths = [out / FOLDER / f"{row.name}-{digests.of(row)}.jsonl" for row in rows]
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    for stale in {*(out / FOLDER).iterdir()} - {*paths}:
        stale.unlink()
    for unfinished in (out / ADAPTERS).glob("*.unfinished-*"):
        shutil.rmtree(unfinished)
    todo = [(row, path) for row, path in zip(rows, paths, strict=True) if not path.is_file()]
    if todo:
        _run(folders, plan, todo)
    _collect_lora_figures(folders, plan, rows)
    return paths


def _run(folders: Folders, plan: Plan, todo: Sequence[tuple[PlanRow, Path]]) -> None:
    total = sum(row.num_replies for row, _ in todo)
    context = multiprocessing.get_context("spawn")
    claimed, done = context.Value("i", 0), context.Value("i", 0)
    with tqdm(total=total, desc="replies", mininterval=5.0) as bar:
        if plan.num_jobs == 1:
            work_through(0, folders, plan, todo, claimed, done, lambda: _show(bar, done))
            return
        processes = spawn(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            work_through, (folders, plan, todo, claimed, done), nprocs=plan.num_jobs, join=False
        )
        while not processes.join(timeout=POLL_S):
            _show(bar, done)
        _show(bar, done)


def _show(bar: "tqdm[Never]", done: "Synchronized[int]") -> None:
    bar.update(done.value - bar.n)


def work_through(
    _rank: int,
    folders: Folders,
    plan: Plan,
    todo: Sequence[tuple[PlanRow, Path]],
    claimed: "Synchronized[int]",
    done: "Synchronized[int]",
    on_reply: Callable[[], None] | None = None,
) -> None:
    """Take rows until none is left."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        writer = Writer(folders.data, folders.models, folders.out, plan)
        while (number := _claim(claimed)) < len(todo):
            row, path = todo[number]
            lines: dict[int, str] = {}
            for place, record in writer.write(row):
                lines[place] = json.dumps(record, ensure_ascii=False)
                with done.get_lock():
                    done.value += 1
                if on_reply is not None:
                    on_reply()
            unfinished = path.with_suffix(".unfinished")
            text = "".join(lines[place] + "\n" for place in range(len(lines)))
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(path)
    finally:
        torch.set_num_threads(num_threads)


def _claim(claimed: "Synchronized[int]") -> int:
    with claimed.get_lock():
        claimed.value += 1
        return claimed.value - 1


class _Digests:
    """Hashes of what the replies of a row depend on."""

    def __init__(self, folders: Folders, plan: Plan) -> None:
        data = [_file_hash(folders.data / name) for name in (PREFERENCES, PROMPTS, PAIRS)]
        lengths = [plan.num_prompts, plan.max_new_tokens, plan.in_context_tokens]
        self._shared = [FORMAT, data, lengths]
        self._lora = asdict(plan.user_lora)
        names = [
            name for name in (BASE, REWARD_MODEL, SMALL_BASE) if (folders.models / name).is_dir()
        ]
        self._models = {name: _folder_hash(folders.models / name) for name in names}

    def of(self, row: PlanRow) -> str:
        """Return the hash of a row."""
        needed = [BASE]
        needed += [REWARD_MODEL] if row.settings[0].variant else []
        needed += [SMALL_BASE] if "small" in row.contender else []
        parts = [self._shared, asdict(row), [self._models[name] for name in needed]]
        parts += [self._lora] if row.contender == "user-lora" else []
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _folder_hash(folder: Path) -> str:
    """Return the hash of a model folder's weights and settings; its figures do not count."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    kept = [path for path in files if path.name != "metrics.json" and path.suffix != ".md"]
    return hashlib.sha256(
        json.dumps([[str(p.relative_to(folder)), _file_hash(p)] for p in kept]).encode()
    ).hexdigest()


def _collect_lora_figures(folders: Folders, plan: Plan, rows: Sequence[PlanRow]) -> None:
    """Write down what the users' adapters cost."""
    base = load_language_model(folders.models / BASE)
    users = {}
    for row in rows:
        if row.contender == "user-lora":
            (name,) = row.users
            folder = adapter_folder(folders.out, name, base, plan.user_lora)
            users[name] = read_figures(folder)
    names = ("num_parameters", "training_tokens", "seconds")
    totals = {name: sum(own[name] for own in users.values()) for name in names}
    path = folders.out / LORA_FIGURES
    path.write_text(json.dumps({**totals, "users": users}, indent=1) + "\n", encoding="utf-8")
