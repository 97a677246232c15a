"""A headless Chromium, and the page in it as a person would name its parts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

WAIT_S = 30.0
AXE = Path(__file__).with_name("vendor") / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SIZE = (1440, 1000)

_T = TypeVar("_T")

# Each state that the page passes through while answers are written: how many tokens stand there.
_WATCH = """
window.seen = [];
const column = document.querySelector(`[data-column="${arguments[0]}"]`);
new MutationObserver(() => {
  const status = column.dataset.status;
  seen.push([status, column.querySelectorAll(".token").length]);
}).observe(column, {subtree: true, childList: true, attributes: true});
"""
_AUDIT = "axe.run(document, {runOnly: arguments[0]}).then(arguments[arguments.length - 1])"


def new_driver(chromium: Path, chromedriver: Path, folder: Path) -> webdriver.Chrome:
    """Start the installed browser; nothing is downloaded."""
    options = Options()
    options.binary_location = str(chromium)
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"),
        *("--hide-scrollbars", "--force-color-profile=srgb", "--no-proxy-server"),
        *(f"--user-data-dir={folder}", f"--window-size={SIZE[0]},{SIZE[1]}"),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(executable_path=str(chromedriver)))


class Page:
    """What a person does with the page, and sees on it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def reset(self) -> None:
        """Forget the visit before."""
        self.driver.get("about:blank")
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        self.emulate()
        self.driver.get_log("browser")

    def complaints(self) -> list[Any]:
        """Return what the console says is wrong, since it was last asked."""
        return [
            entry
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]

    def open(self, address: str) -> None:
        self.driver.get(f"http://{address}/")
        self.until(lambda: self.find("textarea"))

    def emulate(self, **features: str) -> None:
        """Set what a person's system asks for, such as prefers-color-scheme."""
        given = {"prefers-color-scheme": "light", "prefers-reduced-motion": "no-preference"}
        given |= {name.replace("_", "-"): value for name, value in features.items()}
        listed = [{"name": name, "value": value} for name, value in given.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": listed})

    def resize(self, width: int, height: int, *, is_phone: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": is_phone})

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement | None:
        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found[0] if found else None

    def get(self, selector: str) -> WebElement:
        return self.until(lambda: self.find(selector))

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def button(self, name: str, within: str = "body") -> WebElement:
        """Return the button that reads so; the page is asked until it has one."""
        path = f".//button[starts-with(normalize-space(), '{name}')]"
        return self.until(lambda: next(iter(self.get(within).find_elements(By.XPATH, path)), None))

    def until(self, holds: Callable[[], _T | None]) -> _T:
        """Return what comes true on the page."""
        waiting = WebDriverWait(self.driver, WAIT_S, 0.02, [StaleElementReferenceException])
        return waiting.until(lambda driver: holds())  # type: ignore[return-value]

    def status(self, column: str) -> str | None:
        return self.get(f'[data-column="{column}"]').get_attribute("data-status")

    def generate(self, *columns: str) -> None:
        """Press the button and wait for whole answers."""
        self.button("Generate").click()
        self.settled(*columns)

    def settled(self, *columns: str) -> None:
        for column in columns:
            self.until(lambda column=column: self.status(column) == "done")  # type: ignore[misc]

    def text(self, column: str) -> str:
        """Return an answer as it reads, without what stands above its words."""
        script = """
            const tokens = document.querySelector(`[data-column="${arguments[0]}"] .tokens`);
            const clone = tokens.cloneNode(true);
            clone.querySelectorAll("rt, .end").forEach((each) => each.remove());
            return clone.textContent;"""
        return str(self.js(script, column))

    def tokens(self, column: str) -> list[WebElement]:
        return self.all(f'[data-column="{column}"] .token')

    def write(self, selector: str, text: str) -> None:
        """Put a text in a field's place."""
        field = self.get(selector)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text or Keys.DELETE)

    def slide(self, selector: str, value: float) -> None:
        """Move a slider, as a hand does: the page hears of it by `input`."""
        script = """
            const [slider, value] = arguments;
            slider.value = value;
            slider.dispatchEvent(new Event("input", {bubbles: true}));"""
        self.js(script, self.get(selector), value)

    def hover(self, element: WebElement) -> None:
        ActionChains(self.driver).move_to_element(element).perform()

    def tap(self, element: WebElement) -> None:
        """Touch the middle of an element, as a finger does, where it stands on the screen."""
        script = """
            const {left, top, width, height} = arguments[0].getBoundingClientRect();
            return {x: left + width / 2, y: top + height / 2};"""
        points = [self.js(script, element)]
        for kind, touched in (("touchStart", points), ("touchEnd", [])):
            event = {"type": kind, "touchPoints": touched}
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", event)

    def press(self, *keys: str) -> None:
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def watch(self, column: str) -> None:
        self.js(_WATCH, column)

    def seen(self) -> list[tuple[str, int]]:
        return [(status, count) for status, count in self.js("return seen")]

    def table(self) -> list[list[str]]:
        """Return the candidates that are shown, row by row."""
        self.get("#inspector")
        script = """
            return [...document.querySelectorAll("#inspector tbody tr")].map((row) => [
              row.dataset.token, row.classList.contains("chosen"),
              ...[...row.querySelectorAll("td")].map((cell) => cell.textContent.trim())]);"""
        return [list(row) for row in self.js(script)]

    def audit(self) -> list[str]:
        """Return what axe finds wrong for people with other eyes and hands."""
        if not self.js("return window.axe !== undefined"):
            self.js(AXE.read_text(encoding="utf-8"))
        found = self.driver.execute_async_script(_AUDIT, RULES)
        return [
            f"{each['id']}: {json.dumps([node['html'][:200] for node in each['nodes']])}"
            for each in found["violations"]
        ]
