"""Lets requests in before anything is spent on them, or says when to come back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from generator_svc.admission.limiter import TenantLimiter
from generator_svc.deadline import Deadline
from generator_svc.engine.scheduler import Place, Scheduler
from generator_svc.engine.service_rate import DecayingRatio
from generator_svc.engine.waiting_room import Claim, RefusalReason, RefusedError
from generator_svc.request_parsing import GenerationRequest
from svc_common.errors import DeadlineExceededError

CHARACTERS_PER_TOKEN = 4.0  # until prompts were tokenised
# Estimates are means: a request is refused for its deadline only if less than this share of the
# estimate is left to it.
SURE_SHARE = 0.5


class AdmissionObserver(Protocol):
    """Receives measurements; must not raise."""

    def refused(self, reason: RefusalReason) -> None:
        """A request was refused before any work."""


class Ticket:
    """A request that was let in.

    Attributes:
        place: its room in the queue, for the engine.
        num_used: tokens its prompt and answer took; whoever writes the answer counts them.
    """

    def __init__(self, place: Place, num_sequences: int) -> None:
        self.place = place
        self.num_sequences = num_sequences
        self.num_used = 0


class Admission:
    """Looks at deadline, queue and the tenant's limits, in that order: from cheap to dear.

    Args:
        scheduler: keeps room in the queue.
        limiter: keeps tenants to their limits.
        observer: told of refusals.
        max_prompt_tokens: no prompt that is written to has more; a longer one is refused as such.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        limiter: TenantLimiter,
        observer: AdmissionObserver,
        max_prompt_tokens: int,
    ) -> None:
        self._scheduler = scheduler
        self._limiter = limiter
        self._observer = observer
        self._max_prompt_tokens = max_prompt_tokens
        self._characters = DecayingRatio()  # of a prompt token

    @asynccontextmanager
    async def admitted(
        self, request: GenerationRequest, tenant: str, deadline: Deadline
    ) -> AsyncIterator[Ticket]:
        """Let a request in for as long as the body lasts.

        Raises:
            RefusedError: there is no room for it now; nothing was done.
            DeadlineExceededError: its deadline is too near, however empty the queue.
        """
        num_prompt = self._guess_tokens(request)
        claim = Claim(
            tenant,
            request.priority,
            request.num_samples,
            request.num_samples * (num_prompt + request.max_tokens),
        )
        try:
            self._check_deadline(claim, num_prompt, deadline)
            place = self._scheduler.reserve(claim)
        except RefusedError as error:
            self._observer.refused(error.reason)
            raise
        except DeadlineExceededError:
            self._observer.refused(RefusalReason.DEADLINE)
            raise
        try:
            async with self._leased(claim, Ticket(place, request.num_samples)) as ticket:
                yield ticket
        finally:
            place.release()

    def resize(self, ticket: Ticket, request: GenerationRequest, num_prompt_tokens: int) -> None:
        """Keep room for the prompt as it is, now that it was tokenised.

        Raises:
            RefusedError: there is no room for so many tokens.
        """
        self._characters.note(_num_characters(request), num_prompt_tokens)
        num_tokens = ticket.num_sequences * (num_prompt_tokens + request.max_tokens)
        try:
            self._scheduler.resize(ticket.place, num_tokens)
        except RefusedError as error:
            self._observer.refused(error.reason)
            raise

    @asynccontextmanager
    async def _leased(self, claim: Claim, ticket: Ticket) -> AsyncIterator[Ticket]:
        """Count the request among its tenant's."""
        try:
            lease = await self._limiter.take(claim.tenant, claim.num_sequences, claim.num_tokens)
        except RefusedError as error:
            self._observer.refused(error.reason)
            raise
        try:
            yield ticket
        finally:
            self._limiter.give(lease, ticket.num_used)

    def _guess_tokens(self, request: GenerationRequest) -> int:
        """Return about how many tokens a prompt has; to know it would cost the tokenising.

        Not more than it has characters: of short chats the template's tokens are the larger part.
        """
        per_token = max(1.0, self._characters.value or CHARACTERS_PER_TOKEN)
        guessed = max(1, round(_num_characters(request) / per_token))
        return min(guessed, self._max_prompt_tokens)

    def _check_deadline(self, claim: Claim, num_prompt: int, deadline: Deadline) -> None:
        """Refuse what surely would not get a token in time.

        The estimate is the wait behind the tenant's own requests of the same priority, reading the
        prompt, and one token.
        """
        wait_s = self._scheduler.start_wait_s(claim.tenant, claim.priority)
        start_s = self._scheduler.rate.start_s(num_prompt)
        left_s = deadline.left_s
        if left_s < SURE_SHARE * start_s:
            raise DeadlineExceededError(
                f"deadline: must leave about {start_s:.2f} s for the prompt and a token, got"
                f" {max(0.0, left_s):.2f} s"
            )
        if left_s < SURE_SHARE * (wait_s + start_s):
            raise RefusedError(
                RefusalReason.DEADLINE,
                f"deadline: about {wait_s + start_s:.2f} s until the first token, got"
                f" {left_s:.2f} s; come back in {wait_s:.1f} s",
                wait_s,
            )


def _num_characters(request: GenerationRequest) -> int:
    prompt = request.prompt
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(message.content) for message in prompt)
