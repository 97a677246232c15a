"""Who begins next: priorities without starving, tenants in turn, arrival within a tenant."""

from collections import Counter, deque
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from generator_svc.engine.fair_line import BATCH_TURN, FairLine, Priority

INTERACTIVE, BATCH = Priority


@dataclass(eq=False)
class Waiter:
    tenant: str
    priority: Priority = INTERACTIVE
    num_tokens: int = 10


def pop_all(line: FairLine[Waiter]) -> list[Waiter]:
    return [line.pop() for _ in range(len(line))]


def test_one_tenants_requests_begin_in_order_of_arrival() -> None:
    line: FairLine[Waiter] = FairLine()
    arrived = [Waiter("a", num_tokens=n) for n in (50, 1, 20, 1)]
    for waiter in arrived:
        line.push(waiter)
    assert pop_all(line) == arrived


def test_a_tenant_begins_next_whatever_another_has_waiting() -> None:
    line: FairLine[Waiter] = FairLine()
    for _ in range(100):
        line.push(Waiter("flood"))
    for _ in range(20):
        line.pop()
    small = Waiter("small")
    line.push(small)
    assert small in (line.pop(), line.pop())


def test_tenants_share_tokens_by_their_weights_not_requests() -> None:
    line: FairLine[Waiter] = FairLine({"a": 1.0, "b": 1.0, "c": 2.0}.__getitem__)
    for _ in range(400):
        line.push(Waiter("a", num_tokens=10))
        line.push(Waiter("b", num_tokens=40))
        line.push(Waiter("c", num_tokens=10))
    given: Counter[str] = Counter()
    for _ in range(350):
        waiter = line.pop()
        given[waiter.tenant] += waiter.num_tokens
    assert abs(given["a"] - given["b"]) <= 50
    assert abs(given["c"] - 2 * given["a"]) <= 100


def test_a_tenant_that_was_away_has_saved_up_nothing() -> None:
    line: FairLine[Waiter] = FairLine()
    for _ in range(50):
        line.push(Waiter("busy"))
        line.pop()
    for tenant in ("busy", "back") * 10:
        line.push(Waiter(tenant))
    first = Counter(line.pop().tenant for _ in range(10))
    assert abs(first["busy"] - first["back"]) <= 1


def test_a_tenant_with_one_request_at_a_time_gains_nothing_by_it() -> None:
    """Once its debt would be forgotten with its queue, and it would begin at every other start."""
    line: FairLine[Waiter] = FairLine()
    for _ in range(100):
        line.push(Waiter("many"))
    given: Counter[str] = Counter()
    for _ in range(60):
        if not line.tokens_ahead("one", INTERACTIVE):
            line.push(Waiter("one", num_tokens=50))
        waiter = line.pop()
        given[waiter.tenant] += waiter.num_tokens
    assert abs(given["one"] - given["many"]) <= 60


def test_batch_waits_for_the_others_but_begins_every_eighth_time() -> None:
    line: FairLine[Waiter] = FairLine()
    line.push(Waiter("a", BATCH))
    for _ in range(3):
        line.push(Waiter("a"))
    assert [w.priority for w in pop_all(line)] == [INTERACTIVE] * 3 + [BATCH]
    for _ in range(100):
        line.push(Waiter("a"))
        line.push(Waiter("b", BATCH))
    starts = [line.pop().priority for _ in range(80)]
    assert starts.count(BATCH) == 80 // BATCH_TURN


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(Priority), st.integers(1, 99))))
def test_nobody_is_lost_or_overtaken_within_tenant_and_priority(
    arrivals: list[tuple[str, Priority, int]],
) -> None:
    """And k waiting requests of priority BATCH have begun after 8k starts."""
    line: FairLine[Waiter] = FairLine()
    expected: dict[tuple[str, Priority], deque[Waiter]] = {}
    for arrival in arrivals:
        waiter = Waiter(*arrival)
        line.push(waiter)
        expected.setdefault(arrival[:2], deque()).append(waiter)
    num_batch = sum(waiter.priority is BATCH for waiter in line)
    started = pop_all(line)
    assert len(started) == len(arrivals)
    for waiter in started:
        assert expected[waiter.tenant, waiter.priority].popleft() is waiter
    early = started[: BATCH_TURN * num_batch]
    assert sum(waiter.priority is BATCH for waiter in early) == num_batch


@given(st.data())
def test_what_is_taken_out_does_not_begin(data: st.DataObject) -> None:
    line: FairLine[Waiter] = FairLine()
    waiters = [
        Waiter(data.draw(st.sampled_from("ab"))) for _ in range(data.draw(st.integers(1, 9)))
    ]
    for waiter in waiters:
        line.push(waiter)
    gone = data.draw(st.sampled_from(waiters))
    line.discard(gone)
    assert gone not in line
    assert set(pop_all(line)) == set(waiters) - {gone}
