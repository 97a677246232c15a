"""What the server answers, turned into plain values; both clients share it."""

from collections.abc import Sequence
from datetime import UTC

import grpc

from pad.v1 import generator_pb2, profile_pb2
from pad_client.enums import enum_member
from pad_client.errors import DamagedProfileError, InternalError
from pad_client.types import (
    Candidate,
    Completion,
    Explanation,
    FinishReason,
    Preference,
    PreferenceExplanation,
    Profile,
    ProfileHistory,
    RewardModelUse,
    RewardReplica,
    ServerInfo,
    Strategy,
    Summary,
    Timings,
    Token,
    TokenExplanation,
)


def read_event(response: generator_pb2.GenerateResponse) -> Token | Summary:
    """Return what one message of the stream carries."""
    if response.WhichOneof("event") == "token":
        return read_token(response.token)
    if response.WhichOneof("event") == "summary":
        return read_summary(response.summary)
    raise InternalError("the server sent a message that is neither token nor summary")


def read_token(token: generator_pb2.Token) -> Token:
    """Return one token of an answer."""
    return Token(
        index=token.index,
        text=token.text,
        token_id=token.token_id,
        logprob=token.logprob,
        reward=token.reward,
        guided=token.guided,
        changed=token.changed,
        base_token_id=token.base_token_id,
        base_text=token.base_text,
        candidates=tuple(
            Candidate(each.token_id, each.text, each.logprob, each.reward, each.score)
            for each in token.candidates
        ),
        explanation=(
            _read_token_explanation(token.explanation) if token.HasField("explanation") else None
        ),
    )


def _read_token_explanation(message: generator_pb2.TokenExplanation) -> TokenExplanation:
    return TokenExplanation(
        rewards=tuple(message.rewards),
        base_rewards=tuple(message.base_rewards),
        changed_by=message.changed_by if message.HasField("changed_by") else None,
    )


def _read_explanation(message: generator_pb2.Explanation) -> Explanation:
    return Explanation(
        preferences=tuple(
            PreferenceExplanation(
                each.preference.text,
                each.preference.weight,
                each.num_changed_tokens,
                each.contribution,
                each.reward,
            )
            for each in message.preferences
        ),
        num_unexplained_tokens=message.num_unexplained_tokens,
    )


def read_summary(summary: generator_pb2.Summary) -> Summary:
    """Return how an answer came about."""
    timings = summary.timings
    return Summary(
        request_id=summary.request_id,
        finish_reason=enum_member(
            FinishReason, generator_pb2.FinishReason.DESCRIPTOR, summary.finish_reason
        ),
        num_prompt_tokens=summary.num_prompt_tokens,
        num_tokens=summary.num_tokens,
        num_guided_tokens=summary.num_guided_tokens,
        num_changed_tokens=summary.num_changed_tokens,
        num_fallback_tokens=summary.num_fallback_tokens,
        strategy=enum_member(Strategy, generator_pb2.Strategy.DESCRIPTOR, summary.strategy),
        beta=summary.beta,
        seed=summary.seed,
        profile_revision=summary.profile_revision,
        reward_model_version=summary.reward_model_version,
        timings=Timings(
            queue_s=timings.queue_s,
            prefill_s=timings.prefill_s,
            time_to_first_token_s=timings.time_to_first_token_s,
            generator_forward_s=timings.generator_forward_s,
            reward_wait_s=timings.reward_wait_s,
            select_s=timings.select_s,
            total_s=timings.total_s,
        ),
        sample_rewards=tuple(summary.sample_rewards),
        reward_models=tuple(
            RewardModelUse(each.version, each.first_index, each.num_guided_tokens)
            for each in summary.reward_models
        ),
        explanation=(
            _read_explanation(summary.explanation) if summary.HasField("explanation") else None
        ),
    )


def read_completion(
    response: generator_pb2.CompleteResponse | generator_pb2.ExplainPersonalizationResponse,
) -> Completion:
    """Return a whole answer."""
    return Completion(
        text=response.text,
        tokens=tuple(read_token(token) for token in response.tokens),
        summary=read_summary(response.summary),
    )


def check_damaged(user_ids: Sequence[str]) -> None:
    """Refuse to let users be missing from a list in silence.

    Raises:
        DamagedProfileError: There are some whose profile the server cannot read.
    """
    if user_ids:
        users = "user" if len(user_ids) == 1 else "users"
        names = ", ".join(user_ids[:10]) + (", ..." if len(user_ids) > 10 else "")
        raise DamagedProfileError(
            f"the stored profiles of {len(user_ids)} {users} are damaged: {names}",
            code=grpc.StatusCode.DATA_LOSS,
        )


def read_profile(profile: profile_pb2.Profile) -> Profile:
    """Return a stored profile; its time is in UTC."""
    return Profile(
        user_id=profile.user_id,
        preferences=tuple(
            Preference(each.text, each.weight if each.HasField("weight") else 1.0)
            for each in profile.preferences
        ),
        beta=profile.beta if profile.HasField("beta") else None,
        revision=profile.revision,
        updated_at=(
            profile.updated_at.ToDatetime(tzinfo=UTC) if profile.HasField("updated_at") else None
        ),
    )


def read_history(response: profile_pb2.ListProfileRevisionsResponse) -> ProfileHistory:
    """Return the revisions of a profile."""
    return ProfileHistory(
        revisions=tuple(map(read_profile, response.revisions)),
        current_revision=response.current_revision,
        num_damaged=response.num_damaged,
    )


def read_server_info(info: generator_pb2.GetServerInfoResponse) -> ServerInfo:
    """Return what is being served."""
    return ServerInfo(
        model_id=info.model_id,
        model_version=info.model_version,
        tokenizer_fingerprint=info.tokenizer_fingerprint,
        vocabulary_size=info.vocabulary_size,
        context_length=info.context_length,
        max_tokens=info.max_tokens,
        max_top_k=info.max_top_k,
        default_beta=info.default_beta,
        num_slots=info.num_slots,
        software_version=info.software_version,
        reward_replicas=tuple(
            RewardReplica(
                each.address,
                each.is_available,
                each.num_free_slots,
                each.model_version,
                each.is_suspended,
            )
            for each in info.reward_replicas
        ),
    )
