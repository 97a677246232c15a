"""The pictures of the documentation, made of the page as it is; PAD_SCREENSHOTS=1 writes them."""

import io
import os
from pathlib import Path

from PIL import Image

from tests.playground_svc.browser import Page
from tests.playground_svc.playgrounds import ROOT

MAX_PICTURE_BYTES = 150_000
IMAGES = ROOT / "docs/pictures"


def save(page: Page, folder: Path, name: str) -> Path:
    """Write what is seen in 256 colours: those that cover most, so that rare ones stay."""
    path = folder / name
    seen = Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
    seen.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2).save(path, optimize=True)
    return path


def test_pictures_of_the_documentation_are_small(page: Page, address: str, tmp_path: Path) -> None:
    folder = IMAGES if os.environ.get("PAD_SCREENSHOTS") == "1" else tmp_path
    page.emulate(prefers_reduced_motion="reduce")
    page.resize(1280, 760)
    page.open(address)
    page.generate("base", "a")
    changed = [token for token in page.tokens("a") if "changed" in token.get_attribute("class")]
    page.hover(changed[-1])
    page.table()
    pictures = [save(page, folder, "playground.png")]

    page.emulate(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    page.resize(1280, 860)
    page.hover(page.get("h1"))
    page.get("[role=switch]").click()
    page.until(lambda: page.find("#inspector") is None)
    page.settled("base", "a", "b")
    pictures.append(save(page, folder, "playground-compare.png"))
    for picture in pictures:
        assert 10_000 < picture.stat().st_size < MAX_PICTURE_BYTES
