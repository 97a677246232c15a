"""Every code block of README.md and docs/ does what it says: run, parsed, compiled or compared."""

from pathlib import Path

import pytest

from pad_client.embedded import EmbeddedStack
from tests.docs import elsewhere
from tests.docs.blocks import ROOT, Block, blocks, pages
from tests.docs.reader import TEXTS, Reader

PAGES = [path for path in pages() if blocks(path)]
BLOCKS = [block for path in PAGES for block in blocks(path)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_says_works(
    page: Path, stack: EmbeddedStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = elsewhere.workspace(tmp_path)
    monkeypatch.chdir(folder)
    reader = Reader(stack, folder)
    try:
        for block in blocks(page):
            reader.do(block)
    finally:
        reader.leave()


@pytest.mark.parametrize(
    ("language", "text", "message"),
    [
        ("", "indented\n", "language must be one of"),
        ("rust", "fn main() {}\n", "language must be one of"),
        ("text", "whatever this is\n", "say what this text is|is not there"),
        ("bash", "pad no-such-command\n", "No such command"),
        ("bash", "make no-such-target\n", "No rule to make"),
        ("bash", "docker compose --profile none up\n", "none"),
        ("bash", "kubectl scale deployment/none --replicas 2\n", "not among"),
        ("bash", "pip install '.[none]'\n", "none"),
        ("promql", "rate(pad_no_such_total[5m])\n", "no metric"),
        ("output", "something else\n", "shown was"),
    ],
)
def test_a_block_that_does_not_work_or_is_of_no_known_kind_fails(
    language: str, text: str, message: str, stack: EmbeddedStack, tmp_path: Path
) -> None:
    reader = Reader(stack, elsewhere.workspace(tmp_path))
    block = Block(Path("page.md"), 1, language, text)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=message):
        reader.do(block)


def test_no_exception_outlives_its_blocks() -> None:
    lines = [
        line
        for block in BLOCKS
        if block.language == "bash"
        for line in elsewhere.logical_lines(block.text)
    ]
    used = {id(entry) for line in lines if (entry := elsewhere.find(line))}
    assert [entry.pattern for entry in elsewhere.ELSEWHERE if id(entry) not in used] == []
    texts = [block.text for block in BLOCKS if block.language == "text"]
    assert all(any(text.startswith(each) for text in texts) for each in TEXTS)
