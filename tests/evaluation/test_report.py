"""The page from a small file of replies holds every figure and needs no other file."""

import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from evaluation.claims import shown
from evaluation.plain_counts import PLAIN_NAMES
from evaluation.records import ReplyFileError, Setting, read_replies
from evaluation.report import render, write_report
from evaluation.run import EvaluationConfig, examples, measure_replies, summarise
from evaluation.scorers import DIMENSIONS, Scorers
from evaluation.text_model import fit_text_model
from svc_common.preference_prompt import ChatMessage
from tests.evaluation.made_replies import MAIN, reply
from tests.evaluation.test_claims import accuracy, pair_table
from training.wishes import DIRECTIONS

TEXTS = ("A table.", "I hope you enjoy the Grand Hotel!", "Would you like 2 rooms", "Sure, great!")
GROUPS = ("single", "unseen_phrasings")
VOID = {"meta", "br", "path", "use", "rect", "image"}


@pytest.fixture(scope="module")
def replies_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Replies as the generating half writes them, with fields that are not read here."""
    path = tmp_path_factory.mktemp("replies") / "all.jsonl"
    rows = []
    settings = [
        *(replace(MAIN, beta=beta) for beta in (0.5, 1.0, 2.0)),
        *(Setting(name) for name in ("prompt", "user-lora")),
        *(Setting("best-of-n", "prompt", n=n) for n in (4, 16)),
    ]
    for p in range(4):
        rows.append(reply(Setting("base"), "base", f"e{p}", TEXTS[p]))
        for s, setting in enumerate(settings):
            rows += [
                reply(
                    setting,
                    user,
                    f"e{p}",
                    f"{TEXTS[(p + u + s) % 4]} {u} <b>",
                    kl_per_token=0.1 * s,
                )
                for u, user in enumerate(DIRECTIONS)
            ]
    lines = [json.dumps({**asdict(row), "row": "x"}, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def summary(replies_file: Path) -> dict[str, Any]:
    replies = read_replies([replies_file])
    model = fit_text_model(["I hope you enjoy it!"] * 5, ["A table."] * 5)
    contexts = {f"e{p}": (ChatMessage("user", f"Hi <{p}>"),) for p in range(4)}
    config = EvaluationConfig(num_resamples=50)
    scorers = Scorers(model, model, model)
    measured = measure_replies(replies, contexts, scorers, None, config)
    own = {name: {"independent": accuracy(0.9), "plain": accuracy(0.8)} for name in DIMENSIONS}
    validity = {"validity": own, "secondary": {"reading grade": accuracy(0.58)}}
    pairs = {"prompt": pair_table(0.9513, 0.8517, 0.5019)}
    about = {"quick": False, "num_replies": len(replies), "seed": 0}
    shown_replies = examples(measured, MAIN, contexts)
    return summarise(MAIN, measured, validity, pairs, shown_replies, about)


@pytest.fixture(scope="module")
def page(summary: dict[str, Any]) -> str:
    return render(summary)


def figures_in(node: Any) -> list[str]:
    """Return every figure of a part of the summary as it is shown."""
    if isinstance(node, dict):
        if set(node) == {"value", "low", "high", "n"}:
            return [shown(node)]  # type: ignore[arg-type]
        return [text for value in node.values() for text in figures_in(value)]
    if isinstance(node, list):
        return [text for value in node for text in figures_in(value)]
    return []


def test_the_page_shows_every_figure_of_every_table(summary: dict[str, Any], page: str) -> None:
    main = summary["text"][MAIN.label]
    wanted = figures_in([summary["scorers"], summary["pairs"], main["directions"]])
    wanted += figures_in([main["gain"], main["win_rate"], main["price"]])
    wanted += figures_in([summary["matched_kl"], summary["matched_cost"]])
    wanted += figures_in(
        [[row["gain"], row["kl_per_token"], row["ends_properly"]] for row in summary["sweep"]]
    )
    assert len(wanted) > 80
    assert [text for text in wanted if text not in page] == []
    for row in [*summary["claims"], *summary["bar"]]:
        assert row.get("verdict", row.get("wanted")) in page
    assert all(name in page for name in PLAIN_NAMES.values())


def test_the_page_needs_no_other_file_and_has_all_plots(page: str) -> None:
    assert page.count("<svg") == 6
    links = re.findall(r"(?:src|href)=\"([^\"]*)", page)
    assert [link for link in links if not link.startswith(("#", "data:image/png;base64,"))] == []
    assert "<script" not in page
    assert "<?xml" not in page


def test_the_page_is_well_formed_and_texts_are_escaped(page: str) -> None:
    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag not in VOID:
                self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: Any) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            if tag not in VOID:
                assert self.open.pop() == tag

    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert "Hi &lt;2&gt;" in page
    assert " 3 &lt;b&gt;" in page


def test_ids_in_the_plots_do_not_meet(page: str) -> None:
    plots = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    ids = [set(re.findall(r'clip-path="url\(#(\w+)\)"', plot)) for plot in plots]
    assert sum(map(len, ids)) == len(set().union(*ids))


def test_the_same_replies_give_the_same_page(
    summary: dict[str, Any], page: str, tmp_path: Path
) -> None:
    written, again = write_report(summary, tmp_path)
    assert again.read_text(encoding="utf-8") == page
    assert json.loads(written.read_text()) == summary


def test_examples_stand_side_by_side(summary: dict[str, Any]) -> None:
    first = summary["examples"][0]
    assert first["context"] == [{"role": "user", "content": "Hi <0>"}]
    assert [row["user"] for row in first["replies"]] == ["base", *DIRECTIONS]
    assert first["replies"][0]["text"] == TEXTS[0]


def test_a_page_without_pairs_and_guided_replies_says_so(summary: dict[str, Any]) -> None:
    empty = {**summary, "pairs": {}, "sweep": [], "matched_kl": [], "matched_cost": []}
    base = {"base": summary["text"]["base"]}
    assert "<svg" not in render({**empty, "text": base})


def test_a_broken_line_is_named(tmp_path: Path, replies_file: Path) -> None:
    good = replies_file.read_text().splitlines()[0]
    path = tmp_path / "x.jsonl"
    path.write_text(f"{good}\n{{")
    with pytest.raises(ReplyFileError, match=r"x\.jsonl:2: must be a JSON object"):
        read_replies([path])
    path.write_text('{"contender": "pad"}')
    with pytest.raises(ReplyFileError, match=r"x\.jsonl:1: must have the fields \['beta', 'k'"):
        read_replies([path])
