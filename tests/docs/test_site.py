"""The site is built without a warning, needs nothing from elsewhere, and all its links lead on."""

import logging
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from mkdocs.commands.build import build
from mkdocs.config import load_config

from tests.docs.blocks import READMES, ROOT, site_pages

PICTURES = sorted((ROOT / "docs/pictures").glob("*.svg"))
# Attributes by which a page makes a browser fetch something at once.
FETCHED = {
    ("link", "href"),
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("video", "src"),
    ("object", "data"),
}
EXTERNAL = re.compile(r"(https?:)?//")


class Page(HTMLParser):
    """What a page fetches, where it links to, what can be linked to, and its pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = {""}
        self.pictures: list[dict[str, str | None]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        is_asset = tag != "link" or found.get("rel") not in ("canonical", "next", "prev")
        for name, text in attrs:
            if text and (tag, name) in FETCHED and is_asset:
                self.fetched.append(text)
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        if tag == "img":
            self.pictures.append(found)
        self.anchors |= {text for name, text in attrs if name in ("id", "name") and text}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning fails it, as with `mkdocs build --strict`."""
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    warnings = _Warnings()
    logging.getLogger("mkdocs").addHandler(warnings)
    try:
        build(config)
    finally:
        logging.getLogger("mkdocs").removeHandler(warnings)
        config.plugins.on_shutdown()
    assert not warnings.texts
    return folder


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture(scope="module")
def html(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_the_site_has_every_page_and_is_not_kept_in_the_repository(site: Path) -> None:
    written = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    assert all((site / path).with_suffix(".html").is_file() for path in written)
    assert (site / "evaluation/report.html").is_file()
    assert "/site/" in (ROOT / ".gitignore").read_text().splitlines()


def test_nothing_is_fetched_from_elsewhere(site: Path, html: dict[Path, Page]) -> None:
    for path, page in html.items():
        assert not [text for text in page.fetched if EXTERNAL.match(text)], path
        assert 'class="mermaid"' not in path.read_text("utf-8"), path  # its script comes from a CDN
    for path in site.rglob("*.css"):
        found = re.findall(
            r"(?:url\(|@import\s)\s*[\"']?((?:https?:)?//[^\"')]+)", path.read_text("utf-8")
        )
        assert not found, path


def test_every_link_leads_to_a_page_and_a_heading_of_it(html: dict[Path, Page]) -> None:
    for path, page in html.items():
        if path.name == "404.html":
            continue  # shown at any address, so that its links begin with the site's
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), f"{path}: {link}"
            if target in html:
                assert anchor in html[target].anchors, f"{path}: {link}"


@pytest.mark.parametrize("name", ["README.md", *READMES])
def test_a_readmes_links_lead_somewhere(name: str, html: dict[Path, Page], site: Path) -> None:
    readme = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", readme.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (readme.parent / file).resolve()
        assert target.exists(), link
        if anchor:
            page = html[(site / target.relative_to(ROOT / "docs")).with_suffix(".html")]
            assert anchor in page.anchors, link


@pytest.mark.parametrize("path", site_pages(), ids=lambda path: path.name)
def test_a_page_is_the_same_on_the_site_as_in_the_repository(path: Path, site: Path) -> None:
    """Markdown's flavours differ in what begins a list: a lost item is read as text."""
    known = MarkdownIt("commonmark").enable("table").render(path.read_text(encoding="utf-8"))
    built = (site / path.relative_to(ROOT / "docs")).with_suffix(".html").read_text("utf-8")
    article = built[built.index("<article") : built.index("</article>")]
    for tag in ("li", "tr"):
        assert article.count(f"<{tag}>") == known.count(f"<{tag}>"), tag


def test_every_picture_says_what_it_shows(html: dict[Path, Page]) -> None:
    pictures = [
        each
        for path, page in html.items()
        for each in page.pictures
        if path.parent.name != "evaluation"
    ]
    assert len(pictures) >= len(PICTURES)
    assert all(each.get("alt") for each in pictures)


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_can_be_read_in_the_dark_and_by_a_screen_reader(path: Path) -> None:
    space = "{http://www.w3.org/2000/svg}"
    root = ElementTree.parse(path).getroot()
    assert root.get("role") == "img"
    assert root.findtext(f"{space}title")
    assert root.findtext(f"{space}desc")
    text = path.read_text(encoding="utf-8")
    assert "@media (prefers-color-scheme: dark)" in text
    assert not re.search(r"<script|<image|href=|@import|url\((?!#)", text)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 250
