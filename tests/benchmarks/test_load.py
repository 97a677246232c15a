"""The window that is measured begins with the last answer's first token."""

import pytest

from benchmarks.load import Answer, Watch, mixed_rate


def test_steps_are_timed_while_all_answers_run() -> None:
    watch = Watch(2, 3)
    for now in (1.0, 2.0, 3.0):  # the first answer runs alone
        watch.token(0, now)
    watch.token(1, 4.0)
    for now in (5.0, 7.0, 9.0):
        assert not watch.done.is_set()
        watch.token(0, now)
        watch.token(1, now)
    assert watch.done.is_set()
    assert watch.window == (4.0, 9.0)
    sample = watch.sample()
    assert sample["step_ms"] == pytest.approx(1e3 * 5 / 3)
    assert sample["tokens_per_s"] == pytest.approx(2 * 3 / 5)


def test_first_tokens_are_timed_from_the_request() -> None:
    watch = Watch(3, 1)
    for i, answer in enumerate(watch.answers):
        answer.asked_at = 10.0
        watch.token(i, 11.0 + i)
    for i in range(3):
        watch.token(i, 20.0)
    assert watch.sample()["first_token_ms"] == pytest.approx(2000.0)


def test_answers_that_never_run_together_are_refused() -> None:
    with pytest.raises(ValueError, match="must run together"):
        Watch(1, 1).sample()


def test_the_rate_of_a_job_is_over_all_its_time() -> None:
    answers = [Answer(0.0, [1.0, 2.0]), Answer(1.0, [3.0, 4.0, 5.0])]
    assert mixed_rate(answers) == 1.0
    assert answers[1].gaps_s == [1.0, 1.0]
    assert answers[1].first_token_s == 2.0
