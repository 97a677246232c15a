"""How answers look on the screen, and what is counted on them."""

import dataclasses
import io

from rich.console import Console

from pad_client import Candidate, Summary, Timings, Token
from pad_client.cli.answers import marked_text, print_candidates, summary_line
from pad_client.cli.attributes import Attributes, count_attributes


def test_changed_tokens_are_underlined_on_a_terminal() -> None:
    tokens = [
        Token(index, text, 1, -1.0, 0.0, True, is_changed, 2, "x")
        for index, (text, is_changed) in enumerate(
            [(" Hi", False), (" you", True), (" two", True), ("", True), (" .", False)]
        )
    ]
    plain = Console(force_terminal=False)
    assert marked_text(tokens, plain).plain == "Hi «you two» ."
    colour = Console(force_terminal=True, color_system="truecolor", no_color=False)
    text = marked_text(tokens, colour)
    assert text.plain == "Hi you two ."
    assert [(span.start, span.end) for span in text.spans if span.style] == [(3, 10)]


def test_candidates_of_a_token_that_fell_back_have_no_reward() -> None:
    candidates = (Candidate(1, "a", -0.5, 0.75, 0.25),)
    guided, fallen = (
        Token(index, "a", 1, -0.5, 0.0, is_guided, False, 1, "a", candidates)
        for index, is_guided in enumerate((True, False))
    )
    console = Console(record=True, width=80, file=io.StringIO())
    print_candidates(console, [guided, fallen])
    shown = console.export_text()
    assert (shown.count("-0.500"), shown.count("+0.750"), shown.count("0.250")) == (2, 1, 1)


def test_attributes_are_counted_on_the_text() -> None:
    text = "Hi! I'm sure it\N{RIGHT SINGLE QUOTATION MARK}s Anna's. Would you like tea, please? OK!"
    assert count_attributes(text) == Attributes(
        words=11, exclamations=2, questions=1, formal=2, casual=5
    )


def test_answer_without_rewards_says_so() -> None:
    timings = Timings(0, 0, 0, 0, 0, 0, 0.1)
    summary = Summary("r", None, 1, 5, 2, 1, 3, None, 1.0, 0, 0, "", timings)
    assert "3 UNGUIDED: no reward service answered, 20.0 ms per token" in summary_line(summary)
    assert summary_line(summary).startswith("5 tokens, ")
    one = dataclasses.replace(summary, num_tokens=1)
    assert summary_line(one).startswith("1 token, ")
