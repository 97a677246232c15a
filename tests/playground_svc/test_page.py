"""The page in a real browser, before the real stack: what a person does, and sees."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from pad_client import GeneratorClient, Preference, Token, presets
from pad_client.embedded import EmbeddedStack
from playground_svc.presets import axes
from tests.edge_svc.edges import until
from tests.playground_svc.browser import Page
from tests.playground_svc.conftest import NUM_SLOTS, free_slots
from tests.playground_svc.playgrounds import ROOT, running_playground

MAX_FIRST_PAINT_S = 2.0
PROMPT = {"role": "user", "content": "What is the weather like in Seattle today?"}
ASKED: dict[str, Any] = {
    "messages": [PROMPT],
    "max_tokens": 60,
    "top_k": 10,
    "detail": "candidates",
}
FRIENDLY = "Be kind and chatty."


@pytest.fixture
def opened(page: Page, address: str) -> Page:
    page.open(address)
    return page


def rows(token: Token) -> list[list[Any]]:
    """Return what the table of a token must show."""
    return [
        [
            str(each.token_id),
            each.token_id == token.token_id,
            each.logprob,
            *((each.reward, each.score) if token.guided else ()),
        ]
        for each in token.candidates
    ]


def shown(table: list[list[str]]) -> list[list[Any]]:
    return [[*row[:2], *(float(cell.replace("\u2212", "-")) for cell in row[2:])] for row in table]


def same_rows(table: list[list[str]], token: Token) -> bool:
    """Return whether a table is a token's: numbers as they read, two digits after the point."""
    found, wanted = shown(table), rows(token)
    return [row[:2] for row in found] == [row[:2] for row in wanted] and all(
        row[2:] == pytest.approx(want[2:], abs=0.0061)
        for row, want in zip(found, wanted, strict=True)
    )


def test_the_page_paints_soon_and_every_field_has_a_name(opened: Page) -> None:
    script = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
    paint_s = opened.until(lambda: opened.js(script.replace("[0]", "[0]?"))) / 1000
    assert 0 < paint_s < MAX_FIRST_PAINT_S
    opened.button("+ Add a wish").click()
    opened.get("summary").click()
    fields = opened.all("input, textarea, select")
    assert len(fields) >= 2 * len(axes(presets.load()))
    for field in fields:
        assert field.accessible_name, field.get_attribute("outerHTML")
    assert opened.audit() == []


def test_both_answers_stream_and_say_what_the_profile_changed(
    opened: Page, pad: GeneratorClient
) -> None:
    opened.watch("a")
    opened.generate("base", "a")
    guided = pad.complete(**ASKED, preferences=[FRIENDLY])
    base = pad.complete(**ASKED, strategy="base")
    assert (opened.text("a"), opened.text("base")) == (guided.text, base.text)

    whole = len(guided.tokens)
    partial = [count for status, count in opened.seen() if status == "streaming"]
    assert any(0 < count < whole for count in partial)
    assert partial == sorted(partial)

    changed = [token.index for token in guided.tokens if token.changed]
    marked = [
        index
        for index, token in enumerate(opened.tokens("a"))
        if "changed" in str(token.get_attribute("class"))
    ]
    assert marked == changed
    above = opened.js("return [...document.querySelectorAll('rt')].map((rt) => rt.dataset.base)")
    told = [guided.tokens[index].base_text.strip() for index in changed]
    end = guided.tokens[-1].base_text if guided.tokens[-1].text == "" else ""
    assert above == ["end" if text == end else text for text in told]
    assert f"{len(changed)} of {whole} tokens changed" in opened.get('[data-column="a"]').text
    assert "a token" in opened.get('[data-column="base"] footer').text
    spoken = opened.get("main + [role=status]").get_attribute("textContent")
    assert guided.text in str(spoken)


def test_hover_and_keyboard_show_the_candidates_of_the_response(
    opened: Page, pad: GeneratorClient
) -> None:
    opened.generate("base", "a")
    guided = pad.complete(**ASKED, preferences=[FRIENDLY])
    opened.hover(opened.tokens("a")[4])
    assert same_rows(opened.table(), guided.tokens[4])
    assert opened.get("#inspector b").text == "Step 4"  # as the API and the CLI count
    opened.press(Keys.ESCAPE)  # focus is elsewhere: a card that was hovered stays with its token
    opened.hover(opened.get("h1"))
    opened.until(lambda: opened.find("#inspector") is None)

    first = opened.tokens("a")[0]
    opened.js("arguments[0].focus()", first)
    for index in range(3):
        assert same_rows(opened.table(), guided.tokens[index])
        assert opened.js("return document.activeElement.dataset.index") == str(index)
        opened.press(Keys.ARROW_RIGHT)
    changed = [token.index for token in guided.tokens if token.changed and token.index > 3]
    opened.press(Keys.ARROW_DOWN)
    assert opened.js("return document.activeElement.dataset.index") == str(changed[0])
    assert same_rows(opened.table(), guided.tokens[changed[0]])
    opened.press(Keys.ESCAPE)
    opened.until(lambda: opened.find("#inspector") is None)

    base = pad.complete(**ASKED, strategy="base")
    opened.js("arguments[0].focus()", opened.tokens("base")[1])
    opened.until(lambda: "Base model" in opened.get("#inspector").text)
    assert same_rows(opened.table(), base.tokens[1])


def test_the_strength_of_all_wishes_is_shown_and_can_be_shared_out(
    opened: Page, pad: GeneratorClient
) -> None:
    assert (
        opened.get("#strength-a").text == "Guides with strength 1.0 = \u03b2 1.0 \u00d7 weights 1.0"
    )
    assert opened.get(".caution").text == ""
    opened.slide(".axis:nth-of-type(1) input", -1)
    opened.slide(".axis:nth-of-type(4) input", 1)
    opened.until(
        lambda: "strength 3.0 = \u03b2 1.0 \u00d7 weights 3.0" in opened.get("#strength-a").text
    )
    assert opened.get(".caution").text == "Above 1.5 the text may break."
    assert opened.get(".caution").aria_role == "status"
    assert "strength-a" in str(opened.get("#beta-a").get_attribute("aria-describedby"))
    assert opened.audit() == []
    opened.button("+ Add a wish").click()  # without words it counts for nothing yet
    assert "weights 3.0" in opened.get("#strength-a").text

    opened.button("Share out").click()
    opened.until(lambda: opened.get(".caution").text == "")
    shown = opened.get("#strength-a").text
    assert shown == "Guides with strength 0.99 = \u03b2 0.33 \u00d7 weights 3.0"
    opened.generate("base", "a")
    sliders = [opened.get(f".axis:nth-of-type({place}) output").text for place in (1, 4)]
    assert sliders == ["1.0", "1.0"]  # what was chosen stays, and its ratio with it
    opened.button("Copy as", '[data-column="a"]').click()
    opened.until(lambda: "beta=0.33" in opened.get("pre").text)


def test_a_profile_that_was_put_by_levels_is_shown_on_their_sliders(
    opened: Page, pad: GeneratorClient
) -> None:
    choices = ["length=brief", "tone=friendly:1.5", "questions=telling:0.7"]
    wishes = [*presets.load().preferences(choices), Preference("Talk to me like a pirate.", 0.25)]
    pad.put_profile("page-levels", wishes)
    load(opened, "a", "page-levels")
    script = "return [...document.querySelectorAll('.axis')].map((axis) => axis.innerText)"
    read = [" ".join(str(each).split()) for each in opened.js(script)]
    assert read == [
        "length: Brief Long 1.0",
        "tone: Formal Casual \u2013",
        "tone: Businesslike Friendly 1.5",
        "expressiveness: Lively Calm \u2013",
        "detail: Specific General \u2013",
        "questions: Asking Telling 0.7",
    ]
    assert opened.get('[data-axis="length"]').get_attribute("value") == "-1"
    assert [each.get_attribute("value") for each in opened.all(".wish input")] == [
        "Talk to me like a pirate.",
        "0.3",  # the nearest step of the slider
    ]
    assert opened.get(".wish output").text == "0.25"  # and what is really stored
    assert "weights 3.45" in opened.get("#strength-a").text


def test_sliders_are_made_of_the_operators_own_levels(
    page: Page, stack: EmbeddedStack, tmp_path: Path
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        '[humour]\nabout = "Jokes."\nlevels.dry = "Joke with a straight face."\n'
        '[hurry]\nabout = "Pace."\nlevels.a = "Go slow."\nlevels.b = "Go on."\nlevels.c = "Run."\n'
    )
    with running_playground(stack.address, PLAYGROUND_PRESETS=str(file)) as (_, address):
        page.open(address)
        ids = [each.get_attribute("data-axis") for each in page.all(".axis-range")]
        assert ids == ["humour", "hurry.c", "hurry.b"]
        assert page.get('[data-axis="humour"]').get_attribute("min") == "0"
        assert page.get('[data-axis="humour"]').get_attribute("value") == "1"
        page.slide('[data-axis="hurry.b"]', 1.2)
        page.until(lambda: "weights 2.2" in page.get("#strength-a").text)
        assert page.audit() == []


@pytest.mark.usefixtures("idle")
def test_sliders_write_again_and_the_answer_before_leaves_the_server(
    opened: Page,
    pad: GeneratorClient,
    stack: EmbeddedStack,
    stopped_rewards: Callable[[], None],
) -> None:
    opened.generate("base", "a")
    opened.slide("#beta-a", 0)
    opened.settled("a")
    opened.until(lambda: opened.text("a") == opened.text("base"))
    opened.slide('[data-axis="length"]', -1.5)
    opened.slide("#beta-a", 1.2)
    expected = pad.complete(
        **ASKED, preferences=[FRIENDLY, Preference("Keep it brief.", 1.5)], beta=1.2
    )
    opened.until(lambda: opened.text("a") == expected.text and opened.status("a") == "done")

    stopped_rewards()
    for beta in (2.0, 2.5, 3.0):
        opened.slide("#beta-a", beta)
        opened.until(lambda: opened.status("a") == "running")
        until(lambda: free_slots(stack) == NUM_SLOTS - 1)
    opened.button("Stop").click()
    opened.until(lambda: opened.status("a") == "stopped")
    until(lambda: free_slots(stack) == NUM_SLOTS)


def test_two_users_are_compared_side_by_side(opened: Page, pad: GeneratorClient) -> None:
    pad.put_profile("page-brief", ["Keep it brief."], beta=1.5)
    pad.put_profile("page-loud", ["Use exclamation marks."])
    opened.generate("base", "a")
    load(opened, "a", "page-brief")
    opened.get("[role=switch]").click()
    opened.settled("b")
    load(opened, "b", "page-loud")
    for column, user in (("a", "page-brief"), ("b", "page-loud")):
        expected = pad.complete(**ASKED, user_id=user)
        opened.until(lambda column=column, text=expected.text: opened.text(column) == text)
        opened.settled(column)
        assert opened.get(f"#name-{column}").text == user
    assert len(opened.all(".answer")) == 3
    assert opened.audit() == []

    # The other's sliders are behind the other button; without comparison there is one column.
    opened.button("page-brief").click()
    assert opened.get('[data-axis="length"]').get_attribute("value") == "-1"
    opened.get("[role=switch]").click()
    assert len(opened.all(".answer")) == 2


def load(page: Page, editor: str, user: str) -> None:
    page.write(f"#user-{editor}", user)
    page.button("Load", ".storage").click()
    page.until(lambda: "Stored as revision" in page.get(f"#stored-{editor}").text)


def test_a_copied_request_gets_the_text_on_the_screen(opened: Page, address: str) -> None:
    opened.driver.execute_cdp_cmd(
        "Browser.grantPermissions",
        {
            "origin": f"http://{address}",
            "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"],
        },
    )
    opened.slide('[data-axis="expressiveness"]', -1.3)
    opened.generate("base", "a")
    opened.button("Copy as", '[data-column="a"]').click()
    opened.until(lambda: "pad_client" in opened.get("pre").text)
    opened.button("Copy", "dialog .row").click()
    opened.until(lambda: opened.get("dialog [role=status]").text == "Copied.")
    read = "navigator.clipboard.readText().then(arguments[arguments.length - 1])"
    program = opened.driver.execute_async_script(read)
    assert program == opened.get("pre").get_attribute("textContent")
    command = [sys.executable, "-c", program]
    written = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert written.stdout == f"{opened.text('a')}\n"

    for form, sign in (("pad CLI", "pad generate"), ("grpcurl", "grpcurl -plaintext")):
        opened.button(form, "dialog").click()
        assert opened.get("pre").text.startswith(sign)
    assert opened.audit() == []
    opened.press(Keys.ESCAPE)
    opened.until(lambda: opened.find("dialog") is None)


def test_a_profile_is_saved_and_a_change_by_somebody_else_is_told(
    page: Page, address: str, pad: GeneratorClient
) -> None:
    page.open(address)
    page.write("#user-a", "page-saved")
    page.slide('[data-axis="tone.casual"]', -2)
    page.button("+ Add a wish").click()
    page.write('[aria-label="Wish 1"]', "  Talk to me like a pirate.  ")
    page.button("Save").click()
    page.until(lambda: page.get("#stored-a").text == "Stored as revision 1, 3 wishes.")
    saved = pad.get_profile("page-saved")
    assert [(each.text, each.weight) for each in saved.preferences] == [
        (FRIENDLY, 1.0),
        ("Use formal language.", 2.0),
        ("Talk to me like a pirate.", 1.0),
    ]

    pad.put_profile("page-saved", ["Keep it brief."])
    page.slide('[data-axis="tone.casual"]', 1)
    assert page.get("#stored-a").text == "Edited since revision 1; not saved."
    page.button("Save").click()
    page.until(lambda: page.find(".rival"))
    problem = page.get(".problem").text
    assert "Somebody else changed this profile" in problem
    assert "Stored now is revision 2, you had loaded 1" in problem
    assert "Keep it brief." in problem
    assert pad.get_profile("page-saved").revision == 2
    assert page.get("[aria-label='Wish 1']").get_attribute("value")  # nothing of mine is lost
    page.button("Save mine instead").click()
    page.until(lambda: page.get("#stored-a").text == "Stored as revision 3, 3 wishes.")
    assert pad.get_profile("page-saved").preferences[1].text == "Be casual."

    pad.put_profile("page-saved", ["Keep it brief."], beta=0.5)
    page.slide('[data-axis="tone.casual"]', -1)
    page.button("Save").click()
    page.button("Load it").click()
    page.until(lambda: page.get("#stored-a").text == "Stored as revision 4, 1 wish.")
    assert page.get("#beta-a").get_attribute("value") == "0.5"
    network = [each for each in page.complaints() if each["source"] != "network"]
    assert network == []  # the two conflicts are no surprise


def test_of_several_wishes_it_is_told_which_one_changed_what(
    opened: Page, pad: GeneratorClient
) -> None:
    opened.slide('[data-axis="expressiveness"]', -1.5)
    opened.generate("base", "a")
    preferences = [FRIENDLY, Preference("Use exclamation marks.", 1.5)]
    expected = pad.explain(**{**ASKED, "detail": None}, preferences=preferences)
    opened.button("Which wish changed what?").click()
    opened.until(lambda: opened.find("ul.why"))
    account = expected.summary.explanation
    assert account is not None
    told = [row.text.split("\n") for row in opened.all("ul.why li")]
    assert told == [
        [each.text, f"{each.num_changed_tokens} token" + "s" * (each.num_changed_tokens != 1)]
        for each in account.preferences
    ]
    changed = next(token for token in expected.tokens if token.changed)
    assert changed.explanation is not None
    assert changed.explanation.changed_by is not None
    opened.js("arguments[0].focus()", opened.tokens("a")[changed.index])
    wish = account.preferences[changed.explanation.changed_by]
    opened.until(lambda: opened.get(".changed-by").text == f"Changed by {wish.text}")
    assert opened.audit() == []


def test_an_answer_by_a_newer_profile_than_the_shown_one_says_so(
    opened: Page, pad: GeneratorClient
) -> None:
    pad.put_profile("page-moved", ["Keep it brief."])
    load(opened, "a", "page-moved")
    pad.put_profile("page-moved", ["Use exclamation marks."])
    opened.generate("base", "a")
    note = opened.get(".changed-profile")
    assert "written by revision 2" in note.text
    opened.button("Load it again").click()
    opened.until(lambda: opened.find(".changed-profile") is None)
    assert opened.get('[data-axis="expressiveness"]').get_attribute("value") == "-1"


def test_a_conversation_keeps_its_earlier_turns(opened: Page, pad: GeneratorClient) -> None:
    opened.button("Restaurant").click()
    opened.settled("base", "a")
    turns = [turn.text.splitlines()[-1] for turn in opened.all(".turn")]
    assert turns == ["I want to find a restaurant in San Jose.", "What kind of food do you like?"]
    messages = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant"), turns, strict=True)
    ]
    messages.append({"role": "user", "content": "Italian, please."})
    expected = pad.complete(messages=messages, max_tokens=60, strategy="base")
    assert opened.text("base") == expected.text
    opened.button("Leave the earlier turns out").click()
    opened.generate("base", "a")
    expected = pad.complete(messages=messages[-1:], max_tokens=60, strategy="base")
    assert opened.text("base") == expected.text


def test_options_reach_the_generator(opened: Page, pad: GeneratorClient) -> None:
    opened.get("summary").click()
    for name, value in (("max-tokens", "12"), ("top-k", "4"), ("temperature", "0.9")):
        opened.write(f"#{name}", value)
    opened.write("#seed", "7")
    opened.write("#max-tokens", "0")
    assert opened.get("#max-tokens-rule").text == "Must be 1 to 512, whole; 12 is used."
    opened.write("#prompt", "Find me a flight.")
    opened.get("#prompt").send_keys(Keys.CONTROL, Keys.ENTER)
    opened.settled("base", "a")
    expected = pad.complete(
        messages=[{"role": "user", "content": "Find me a flight."}],
        preferences=[FRIENDLY],
        max_tokens=12,
        top_k=4,
        temperature=0.9,
        seed=7,
    )
    assert opened.text("a") == expected.text
    opened.hover(opened.tokens("a")[0])
    assert len(opened.table()) == 4


def test_the_page_fits_a_phone_and_heeds_what_its_reader_asks_for(page: Page, address: str) -> None:
    page.emulate(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    page.resize(390, 844)
    page.open(address)
    paper = "return getComputedStyle(document.body).backgroundColor"
    assert page.js(paper) == "rgb(19, 20, 22)"
    page.watch("a")
    page.js("window.moved = 0; document.addEventListener('animationstart', () => moved++)")
    page.generate("base", "a")
    assert page.js("return moved") == 0
    top = page.js("return document.querySelector('.answers').getBoundingClientRect().top")
    assert 0 <= top < 400  # the answers came into view
    page.js("arguments[0].focus()", page.tokens("a")[1])
    card = page.get("#inspector").rect
    assert card["x"] >= 0
    assert card["x"] + card["width"] <= 390
    assert page.js("return document.documentElement.scrollWidth") <= 390
    assert page.audit() == []
    page.js("document.querySelector('.theme select').value = 'light'")
    select = page.get(".theme select")
    page.js("arguments[0].dispatchEvent(new Event('change', {bubbles: true}))", select)
    assert page.js(paper) == "rgb(246, 245, 241)"
    page.open(address)
    assert page.js(paper) == "rgb(246, 245, 241)"  # also after a visit
    page.js("localStorage.clear()")


def test_a_tapped_word_stands_above_its_sheet_which_can_be_closed(page: Page, address: str) -> None:
    page.emulate(prefers_reduced_motion="reduce")
    page.resize(390, 844, is_phone=True)
    page.open(address)
    assert "Tap a word to see what else could have been said." in page.get(".lead").text
    page.generate("base", "a")
    for word in (page.tokens("a")[-1], page.tokens("a")[0]):
        page.js("arguments[0].scrollIntoView({block: 'end'})", word)
        page.tap(word)
        page.until(lambda word=word: "active" in str(word.get_attribute("class")))  # type: ignore[misc]
        sheet = page.js("return document.querySelector('#inspector').getBoundingClientRect()")
        stands = page.js("return arguments[0].getBoundingClientRect()", word)
        assert 0 <= stands["top"] < stands["bottom"] <= sheet["top"]
        assert sheet["bottom"] <= 844
        assert page.get("#inspector").aria_role == "dialog"
        assert page.audit() == []
        page.tap(page.get("#inspector [aria-label=Close]"))
        page.until(lambda: page.find("#inspector") is None)
        assert page.js("return document.activeElement === arguments[0]", word)
    page.tap(page.tokens("a")[0])  # the word that has the focus already
    page.get("#inspector")
