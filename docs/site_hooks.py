"""MkDocs hooks: a link that leaves docs/ leads to a page with that file's text.

In the repository such a link opens the file; on the site it would open nothing. Links to folders
become plain text, and a link to nothing stays as it is, so that a strict build refuses it.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs/"
SOURCE = "source/"  # where the site has the pages of other files
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_EXTERNAL = re.compile(r"[a-z]+:|#|/")
_LANGUAGES = {".toml": "toml", ".yml": "yaml", ".yaml": "yaml", ".py": "python", ".proto": "proto"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside of docs/ that a page links to, or such a page in turn."""
    waiting = [(DOCS + file.src_uri, file.content_string) for file in files.documentation_pages()]
    seen: set[str] = set()
    while waiting:
        path, text = waiting.pop()
        for match in _LINK.finditer(text):
            target = _repository_path(path, match[3])
            if target is None or target in seen or target.startswith(DOCS):
                continue
            if not (ROOT / target).is_file():
                continue
            seen.add(target)
            content = (ROOT / target).read_text(encoding="utf-8")
            if target.endswith(".md"):
                waiting.append((target, content))
            else:
                content = _as_code(target, content)
            files.append(File.generated(config, _page_uri(target), content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    uri = page.file.src_uri
    is_source = uri.startswith(SOURCE)
    path = uri.removeprefix(SOURCE) if is_source else DOCS + uri

    def relinked(match: re.Match[str]) -> str:
        target = _repository_path(path, match[3])
        if target is None or (target.startswith(DOCS) and not is_source):
            return match[0]
        if (ROOT / target).is_dir():
            return match[2]
        there = target.removeprefix(DOCS) if target.startswith(DOCS) else _page_uri(target)
        anchor = match[3].partition("#")[2]
        link = posixpath.relpath(there, posixpath.dirname(uri)) + (f"#{anchor}" if anchor else "")
        return f"{match[1]}[{match[2]}]({link})"

    return _LINK.sub(relinked, markdown)


def _repository_path(path: str, link: str) -> str | None:
    """Return what a link in the file `path` names, from the repository's root; None: not a file."""
    if _EXTERNAL.match(link):
        return None
    file = link.partition("#")[0]
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
    return None if target.startswith("..") else target


def _page_uri(target: str) -> str:
    return SOURCE + (target if target.endswith(".md") else f"{target}.md")


def _as_code(target: str, content: str) -> str:
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", content)), 3)
    language = _LANGUAGES.get(Path(target).suffix, "text")
    return f"# {Path(target).name}\n\n`{target}`\n\n{fence}{language}\n{content}\n{fence}\n"
