from typing import Any

from evaluation import markdown
from evaluation.claims import OURS


def figure(value: float | None, low: float | None = None, high: float | None = None) -> Any:
    return {"value": value, "low": low, "high": high, "n": 5}


def setting(contender: str, variant: str = "", beta: float = 0.0, k: int = 0) -> dict[str, Any]:
    return {"contender": contender, "variant": variant, "beta": beta, "k": k, "n": 1, "multi": ""}


def entry(what: dict[str, Any], gain: float | None) -> dict[str, Any]:
    return {
        "setting": what,
        "gain": figure(gain, 1.0, 2.0),
        "price": {"kl_per_token": figure(0.3), "relative_tokens": figure(2.96)},
        "fluency": {"perplexity_ratio": figure(1.16)},
        "directions": {
            "brevity:short": {
                "shift": figure(0.5, 0.4, 0.6),
                "plain_shift": figure(0.7),
                "win_rate": figure(0.9),
            }
        },
    }


SUMMARY = {
    "about": {"main": "pad prompt b1 k10"},
    "text": {
        "pad prompt b1 k10": entry(setting("pad", "prompt", 1.0, 10), 1.5),
        "base": entry(setting("base"), None),
        "pad weights": entry({**setting("pad"), "multi": "weights"}, 1.5),
    },
    "pairs": {
        "prompt": {
            "rm": {"sum": {"single": figure(0.95)}},
            "policy": {"1": {"mean": {"single": figure(0.86)}}},
        }
    },
    "bar": [
        {"what": "a", "wanted": "at least 1", "got": "2", "passed": True},
        {"what": "b", "wanted": "at least 1", "got": "0", "passed": False},
    ],
    "claims": [{"claim": "c", "verdict": "holds", "evidence": "e"}],
}


def test_contenders_stand_with_gain_and_price() -> None:
    lines = markdown.contender_table(SUMMARY).splitlines()
    assert lines[2:] == ["| pad | prompt b1 k10 | 1.5 [1, 2] | 0.3 | 1.16 | 3.0 x |"]


def test_what_was_missed_is_said_as_clearly_as_what_was_reached() -> None:
    lines = markdown.bar_table(SUMMARY).splitlines()
    assert lines[2:] == ["| a | at least 1 | 2 | yes |", "| b | at least 1 | 0 | **no** |"]


def test_directions_and_pairs_are_those_of_the_main_setting() -> None:
    assert "| brevity:short | 0.5 [0.4, 0.6] | 0.7 | 0.9 |" in markdown.direction_table(SUMMARY)
    rows = markdown.pair_table(SUMMARY).splitlines()[2:]
    assert rows == [
        "| prompt | rewards | 0.95 |  |  |  |  |",
        "| prompt | policy | 0.86 |  |  |  |  |",
    ]


def test_claims_keep_their_verdict_and_evidence_and_say_who_asked() -> None:
    ours = {"claim": min(OURS), "verdict": "holds", "evidence": "f"}
    assert "| c | the paper | holds | e |" in markdown.claims_table(SUMMARY)
    assert f"| {min(OURS)} | us | holds | f |" in markdown.claims_table({"claims": [ours]})
