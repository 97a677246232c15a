"""Whether what a caller saw is what was promised, whatever broke meanwhile."""

from collections.abc import Iterator

import grpc
import torch

from pad.v1 import generator_pb2
from tests.faults.history import History
from tests.faults.recompute import Recompute
from tests.faults.scenario import Scenario

TOLERANCE = 2e-4  # of log-probabilities and rewards, which are of the order of 1 to 10
OK, CANCELLED = grpc.StatusCode.OK, grpc.StatusCode.CANCELLED


class Checker:
    """Finds broken promises in histories; `versions` are the wire's names of our versions."""

    def __init__(self, recompute: Recompute, versions: dict[str, str]) -> None:
        self._recompute = recompute
        self._versions = versions  # of which there are more when their processes have started
        self.num_ties = 0  # answers that rounding alone took elsewhere
        self.num_late_stores = 0  # answers refused as Redis was late, most of them under its faults

    @property
    def _names(self) -> dict[str, str]:
        return {wire: name for name, wire in self._versions.items()}

    def broken(
        self, scenario: Scenario, histories: list[History], twins: list[History]
    ) -> list[str]:
        """Return a sentence for each broken promise."""
        found = []
        for i, (history, twin) in enumerate(zip(histories, twins, strict=True)):
            name = f"answer {i} ({history.ask.strategy})"
            found += [f"{name}: {text}" for text in self._broken(scenario, history, twin)]
        return found

    def broken_twins(self, twins: list[History]) -> list[str]:
        """Return a sentence for each broken promise where nothing was broken."""
        found = []
        for i, twin in enumerate(twins):
            is_whole = (
                twin.ask.cancel_after is not None or twin.status is OK or store_was_late(twin)
            )
            sentences = [] if is_whole else [f"fault-free, ended with {twin.status}"]
            if twin.ask.is_guided and not all(token.guided for token in twin.tokens):
                sentences.append("fault-free, has unguided tokens")
            name = f"twin {i} ({twin.ask.strategy})"
            found += [f"{name}: {text}" for text in (*sentences, *self._broken_alone(twin))]
        return found

    def _broken(self, scenario: Scenario, history: History, twin: History) -> Iterator[str]:
        self.num_late_stores += store_was_late(history)
        allowed = allowed_statuses(scenario, history)
        if history.status not in allowed and not store_was_late(history):
            names = ", ".join(sorted(status.name for status in allowed))
            yield f"ended with {history.status} ({history.details}), may end with {names}"
        yield from self._broken_alone(history)
        yield from self._differs(history, twin)

    def _broken_alone(self, history: History) -> Iterator[str]:
        yield from broken_order(history)
        if history.tokens:
            yield from self._broken_numbers(history)

    def _broken_numbers(self, history: History) -> Iterator[str]:
        """Compare log-probabilities, rewards and choices with what full forwards give."""
        ask, tokens, answer = history.ask, history.tokens, history.token_ids
        ids = torch.tensor([[c.token_id for c in token.candidates] for token in tokens])  # [T, K]
        told = torch.tensor([[c.logprob for c in token.candidates] for token in tokens])
        rewards = torch.tensor([[c.reward for c in token.candidates] for token in tokens])
        base = self._recompute.logprobs(ask, answer).gather(1, ids)
        yield from _far("log-probabilities", told, base, range(len(tokens)))
        for version, steps in self._guided_steps(history).items():
            if version not in self._names:
                yield f"steps {steps} were guided by an unknown reward model {version!r}"
                continue
            right = self._recompute.rewards(ask, answer, ids, self._names[version])
            yield from _far(f"rewards of model {self._names[version]}", rewards, right, steps)
        beta = ask.beta if ask.is_guided else 0.0
        scores = told + beta * rewards
        for i, token in enumerate(tokens):
            if token.guided and not ask.is_guided:
                yield f"token {i} is guided though nobody asked"
            if not token.guided and rewards[i].any():
                yield f"token {i} is not guided and has rewards"
            best = int(ids[i][scores[i].argmax()])
            if ask.temperature == 0 and token.token_id != best and not _is_tie(token):
                yield f"token {i} is {token.token_id}, the best score has {best}"

    def _guided_steps(self, history: History) -> dict[str, list[int]]:
        """Return the guided steps by the reward model the summary names for them.

        Without a summary each step must fit one of the models; the one our replicas have while
        nothing is wrong is assumed.
        """
        guided = [i for i, token in enumerate(history.tokens) if token.guided]
        if not guided:
            return {}
        if not history.summaries:
            return {}
        return spans(history.summaries[0], guided)

    def _differs(self, history: History, twin: History) -> Iterator[str]:
        """Compare with the same request where nothing was broken, as far as it was guided alike."""
        if any(self._names.get(version) != "a" for version in self._guided_steps(history)):
            return  # of another model's answers there is no twin
        pairs = zip(history.tokens, twin.tokens, strict=False)
        for i, (token, its) in enumerate(pairs):
            if history.ask.is_guided and not token.guided:
                return
            if token.token_id != its.token_id:
                if not history.summaries and history.ask.is_guided:
                    return  # it broke off, nobody said which model guided it
                if _is_tie(its) and history.ask.temperature == 0:
                    self.num_ties += 1
                    return
                yield f"token {i} is {token.token_id}, fault-free {its.token_id}"
                return
        if history.status is OK and twin.status is OK and len(history.tokens) != len(twin.tokens):
            yield f"has {len(history.tokens)} tokens, fault-free {len(twin.tokens)}"


def store_was_late(history: History) -> bool:
    """Whether an answer was refused, before any token, as its profile did not come in 0.15 s.

    Where all share two cores that happens to a sound Redis too.
    """
    is_refused = history.status is grpc.StatusCode.UNAVAILABLE and not history.messages
    return is_refused and bool(history.ask.user_id) and history.details.startswith("profile store")


def allowed_statuses(scenario: Scenario, history: History) -> set[grpc.StatusCode]:
    """Return how an answer may end under the scenario's faults."""
    ask = history.ask
    allowed = {OK}  # an answer may be faster than a caller who means to hang up
    if ask.cancel_after is not None:
        allowed.add(CANCELLED)
    if ask.is_guided and not ask.falls_back and scenario.hits_all_replicas:
        allowed.add(grpc.StatusCode.UNAVAILABLE)
    if ask.user_id and scenario.loses_profiles and not history.messages:
        allowed.add(grpc.StatusCode.NOT_FOUND)
    return allowed


def broken_order(history: History) -> Iterator[str]:
    """Check order, numbers and the one final message."""
    indices = [token.index for token in history.tokens]
    if indices != list(range(len(indices))):
        yield f"indices are {indices}"
    summaries = history.summaries
    if history.status is OK:
        if len(summaries) != 1 or not history.messages[-1].HasField("summary"):
            yield f"ended well with {len(summaries)} summaries, the last message must be the one"
    elif summaries:
        yield f"ended with {history.status} and has a summary"
    for summary in summaries:
        yield from _broken_summary(summary, history)


def _broken_summary(summary: generator_pb2.Summary, history: History) -> Iterator[str]:
    tokens = history.tokens
    num_guided = sum(token.guided for token in tokens)
    right = {
        "num_tokens": len(tokens),
        "num_guided_tokens": num_guided,
        "num_changed_tokens": sum(token.changed for token in tokens),
        "num_fallback_tokens": len(tokens) - num_guided if history.ask.is_guided else 0,
        "seed": history.ask.seed,
    }
    told = sum(use.num_guided_tokens for use in summary.reward_models)
    if told != num_guided:
        yield f"summary names reward models for {told} tokens, {num_guided} are guided"
    for name, value in right.items():
        if getattr(summary, name) != value:
            yield f"summary says {name} = {getattr(summary, name)}, it is {value}"
    if summary.num_fallback_tokens and not history.ask.falls_back:
        yield f"has {summary.num_fallback_tokens} unguided tokens, its policy is FAIL"


def spans(summary: generator_pb2.Summary, guided: list[int]) -> dict[str, list[int]]:
    """Return the guided steps by the reward model that the summary names for them."""
    found: dict[str, list[int]] = {}
    for step in guided:
        uses = [use for use in summary.reward_models if use.first_index <= step]
        found.setdefault(uses[-1].version if uses else "", []).append(step)
    return found


def _far(
    what: str, told: torch.Tensor, right: torch.Tensor, steps: range | list[int]
) -> Iterator[str]:
    rows = list(steps)
    gap = (told[rows] - right[rows]).abs().amax(-1)
    worst = int(gap.argmax())
    if not float(gap[worst]) <= TOLERANCE:
        step = rows[worst]
        yield (
            f"{what} of step {step} are off by {float(gap[worst]):.2g}:"
            f" {told[step].tolist()}, must be {right[step].tolist()}"
        )


def _is_tie(token: generator_pb2.Token) -> bool:
    scores = sorted((candidate.score for candidate in token.candidates), reverse=True)
    return len(scores) > 1 and scores[0] - scores[1] < TOLERANCE
