"""What the span of an answer tells, for docs/tracing.md: its attributes, and those of a step."""

from svc_common.tracing import MAX_EVENTS

GENERATION_ATTRIBUTES = {
    "gen_ai.operation.name": "`chat`, or `text_completion` for a prompt that is raw text",
    "gen_ai.provider.name": "`pad`",
    "gen_ai.output.type": "`text`",
    "gen_ai.request.model": "name of the base model",
    "gen_ai.request.stream": "whether tokens are sent as they are written",
    "gen_ai.request.max_tokens": "most tokens of the answer",
    "gen_ai.request.temperature": "as used",
    "gen_ai.request.top_p": "as used",
    "gen_ai.request.top_k": "K, the candidates of a step",
    "gen_ai.response.model": "name of the base model",
    "gen_ai.response.finish_reasons": "`stop` or `length`",
    "gen_ai.usage.input_tokens": "tokens of the prompt",
    "gen_ai.usage.output_tokens": "tokens of the answer, as far as it came",
    "pad.strategy": "`base`, `prompt`, `pad`, `pad-released` or `best-of-n`",
    "pad.priority": "`interactive` or `batch`",
    "pad.beta": "guidance strength as used",
    "pad.profile_revision": "of the profile that was used; 0: none",
    "pad.reward_model_version": "of the rewards that came last",
    "pad.finish_reason": "`end_of_turn`, `stop_string` or `length`",
    "pad.guided_tokens": "tokens chosen with rewards",
    "pad.changed_tokens": "guided tokens that differ from the base model's choice",
    "pad.fallback_tokens": "tokens chosen without the rewards that were wanted",
    "pad.queue_s": "seconds from arrival to the first forward",
    "pad.prefill_s": "seconds of forwards that read the prompt",
    "pad.time_to_first_token_s": "seconds from arrival to the first token",
    "pad.forward_s": "seconds of the base model's decode forwards, which answers share",
    "pad.reward_wait_s": "seconds of waiting for rewards behind the own forward",
    "pad.select_s": "seconds of adding rewards and choosing",
    "pad.steps_left_out": f"steps without an event, as a span has at most {MAX_EVENTS}",
}
STEP_EVENT = "pad.step"
STEP_ATTRIBUTES = {
    "pad.index": "position of the token in the answer, from 0",
    "pad.forward_s": "seconds of the base model's forward before it",
    "pad.reward_wait_s": "seconds of waiting for its rewards",
    "pad.select_s": "seconds of choosing it",
    "pad.guided": "whether there were rewards",
    "pad.changed": "whether they changed the choice",
}
