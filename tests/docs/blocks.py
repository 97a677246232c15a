"""The code blocks of README.md and docs/, as a Markdown parser finds them."""

from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
READMES = ("client/README.md", "examples/README.md")
GENERATED = {"changelog.md"}  # has the text of CHANGELOG.md alone


@dataclass(frozen=True)
class Block:
    """A block of code; an indented one has the language ""."""

    path: Path
    line: int  # of the first line of code, from 1
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"


def site_pages() -> list[Path]:
    """Return the pages of the site that are written here."""
    return [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name not in GENERATED]


def pages() -> list[Path]:
    """Return these and what somebody reads who finds the project, its client or its examples."""
    return [ROOT / "README.md", *(ROOT / name for name in READMES), *site_pages()]


def blocks(path: Path) -> list[Block]:
    """Return the blocks of a page in its order."""
    tokens = MarkdownIt("commonmark").parse(path.read_text(encoding="utf-8"))
    return [
        Block(
            path,
            token.map[0] + (2 if token.type == "fence" else 1),
            token.info.split()[0] if token.info.strip() else "",
            token.content,
        )
        for token in tokens
        if token.type in ("fence", "code_block") and token.map is not None
    ]
