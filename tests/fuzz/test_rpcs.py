"""Any bytes at any method: a proper status each time, and nobody else notices.

A finding names its case; `python -m tests.fuzz CASE` makes that call again. `PAD_FUZZ_SEED` chooses
another round; `make soak` runs many.
"""

import os
from collections import Counter

from pad_client.embedded import EmbeddedStack
from tests.fuzz.campaign import run_round
from tests.fuzz.cases import make_case
from tests.fuzz.methods import all_methods

SEED = int(os.environ.get("PAD_FUZZ_SEED", "1"))
NUM_MESSAGES = 20_000


def test_every_method_answers_any_message_with_a_proper_status(stack: EmbeddedStack) -> None:
    report = run_round(stack, SEED)
    assert report.num_messages >= NUM_MESSAGES
    codes: dict[str, Counter[str]] = {}
    for status, count in report.statuses.items():
        path, code = status.split()
        codes.setdefault(path, Counter())[code] += count
    assert set(codes) == {method.path for method in all_methods()}
    for path, found in codes.items():  # a round that never succeeds would test the door alone
        assert found["INVALID_ARGUMENT"] > 0, path
        # What is to be deleted or restored is rarely there.
        is_rare = path.endswith(("/Watch", "/DeleteProfile", "/RestoreProfile"))
        assert is_rare or found["OK"] > 20, (path, found)


def test_a_case_is_made_by_its_seed_alone() -> None:
    for method in all_methods():
        one, two = (make_case(method, SEED, 3, "fingerprint") for _ in range(2))
        assert one == two
        assert one != make_case(method, SEED + 1, 3, "fingerprint")
