"""From the engine's values to the messages of generator.proto."""

from generator_svc.engine.sequence import ChosenToken, FinishReason
from generator_svc.explaining import Explanation
from generator_svc.generation import AnswerSummary
from generator_svc.request_parsing import STRATEGY_NAMES
from pad.v1 import common_pb2, generator_pb2
from svc_common.lm.tokenizer import Tokenizer

FINISH_REASONS = {
    FinishReason.END_OF_TURN: generator_pb2.FINISH_REASON_END_OF_TURN,
    FinishReason.STOP_STRING: generator_pb2.FINISH_REASON_STOP_STRING,
    FinishReason.LENGTH: generator_pb2.FINISH_REASON_LENGTH,
}
STRATEGIES = {name: value for value, name in STRATEGY_NAMES.items()}


def token_message(
    token: ChosenToken, tokenizer: Tokenizer, *, with_candidates: bool
) -> generator_pb2.Token:
    """Return a token as callers see it."""
    message = generator_pb2.Token(
        index=token.index,
        text=token.text,
        token_id=token.token_id,
        logprob=token.logprob,
        reward=token.reward,
        guided=token.is_guided,
        changed=token.is_guided and token.is_changed,
        base_token_id=token.base_token_id,
        base_text=tokenizer.token_text(token.base_token_id),
    )
    if with_candidates:
        for token_id, logprob, reward, score in token.candidates():
            message.candidates.add(
                token_id=token_id,
                text=tokenizer.token_text(token_id),
                logprob=logprob,
                reward=reward,
                score=score,
            )
    if token.explanation is not None:
        message.explanation.CopyFrom(
            generator_pb2.TokenExplanation(
                rewards=token.explanation.rewards,
                base_rewards=token.explanation.base_rewards,
                changed_by=token.explanation.changed_by,
            )
        )
    return message


def summary_message(summary: AnswerSummary) -> generator_pb2.Summary:
    """Return a summary as callers see it."""
    timings = generator_pb2.Timings(**vars(summary.timings))
    return generator_pb2.Summary(
        request_id=summary.request_id,
        finish_reason=FINISH_REASONS[summary.finish_reason],
        num_prompt_tokens=summary.num_prompt_tokens,
        num_tokens=summary.num_tokens,
        num_guided_tokens=summary.num_guided_tokens,
        num_changed_tokens=summary.num_changed_tokens,
        num_fallback_tokens=summary.num_fallback_tokens,
        strategy=STRATEGIES[summary.strategy.name],
        beta=summary.beta,
        seed=summary.seed,
        profile_revision=summary.profile_revision,
        reward_model_version=summary.reward_model_version,
        reward_models=[generator_pb2.RewardModelUse(**vars(use)) for use in summary.reward_models],
        timings=timings,
        sample_rewards=summary.sample_rewards,
        explanation=None if summary.explanation is None else _explanation(summary.explanation),
    )


def _explanation(explanation: Explanation) -> generator_pb2.Explanation:
    message = generator_pb2.Explanation(num_unexplained_tokens=explanation.num_unexplained)
    for share in explanation.shares:
        message.preferences.add(
            preference=common_pb2.Preference(
                text=share.preference.text, weight=share.preference.weight
            ),
            num_changed_tokens=share.num_changed,
            contribution=share.contribution,
            reward=share.reward,
        )
    return message
