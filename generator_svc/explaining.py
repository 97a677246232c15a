"""What the preferences of a request did to its answer, and who may be told."""

from dataclasses import dataclass
from typing import Self

from generator_svc.engine.sequence import ChosenToken
from generator_svc.planning import Plan
from generator_svc.profile_format import Preference
from generator_svc.request_parsing import GenerationRequest
from svc_common.callers import Caller, Scope
from svc_common.errors import PermissionDeniedError


@dataclass
class PreferenceShare:
    """What one preference did; see PreferenceExplanation in generator.proto."""

    preference: Preference
    num_changed: int = 0
    contribution: float = 0.0
    reward: float = 0.0


@dataclass
class Explanation:
    """What each preference did; see Explanation in generator.proto."""

    beta: float
    shares: list[PreferenceShare]
    num_unexplained: int = 0

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Return that of an answer of which nothing is written."""
        return cls(plan.params.beta, [PreferenceShare(its) for its in plan.preferences])

    def add(self, token: ChosenToken) -> None:
        """Count a token."""
        if not token.is_guided:
            return
        its = token.explanation
        if its is None:
            self.num_unexplained += 1
            return
        for share, reward, base in zip(self.shares, its.rewards, its.base_rewards, strict=True):
            share.reward += reward
            share.contribution += self.beta * (reward - base)  # 0 where nothing was changed
        if its.changed_by is not None:
            self.shares[its.changed_by].num_changed += 1


def check_may_explain(request: GenerationRequest, caller: Caller) -> None:
    """Refuse to explain a stored profile to a caller who may not read it.

    It is refused whether there is such a profile or not, before anybody looks.

    Raises:
        PermissionDeniedError: The caller lacks the scope.
    """
    if not request.wants_explanation or request.preferences:
        return
    if Scope.PROFILES_READ not in caller.scopes:
        has = ", ".join(sorted(caller.scopes)) or "none"
        raise PermissionDeniedError(
            "detail: explanation tells the wishes of a stored profile, so the caller must have the"
            f" scope {Scope.PROFILES_READ}, {caller.name} has {has}; or give preferences"
        )
