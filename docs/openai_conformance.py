"""The cases that the unmodified `openai` client must pass: docs/openai-conformance.md's table."""

from dataclasses import dataclass

_FOLDER = "tests/edge_svc/"


@dataclass(frozen=True)
class Case:
    """What a user of that client may rely on, and the tests that fail where it does not hold."""

    area: str
    what: str
    tests: tuple[str, ...]


def _cases(area: str, **tests_by_file: dict[str, str]) -> list[Case]:
    """Return cases of an area, from texts by the name of their test, by the test's file."""
    return [
        Case(area, what, (f"{_FOLDER}test_{file}.py::test_{name}",))
        for file, cases in tests_by_file.items()
        for name, what in cases.items()
    ]


CASES = [
    *_cases(
        "Models",
        chat={"models_are_listed_and_found_by_their_id": "`models.list`, `models.retrieve`; 404"},
        refusals={"an_unknown_model_is_not_found": "a request for another model: 404"},
    ),
    *_cases(
        "Chat completions",
        chat={
            "a_chat_is_answered_as_the_generator_answers_it": "text, role, model, fingerprint",
            "usage_counts_the_prompt_and_what_was_written": "`usage`",
            "length_ends_an_answer_and_says_so": "`max_tokens`; finish reason `length`",
            "max_completion_tokens_is_the_newer_name_of_max_tokens": "`max_completion_tokens`",
            "limits_not_given_are_those_of_the_openai_api": "neither of the two given",
            "the_end_of_the_turn_is_a_stop": "finish reason `stop` at the end of the turn",
            "a_stop_string_ends_an_answer_before_itself": "`stop`, one text and a list",
            "a_seed_repeats_an_answer_and_is_told": "`seed` repeats an answer",
            "temperature_not_given_samples_as_the_openai_api_does": "`temperature` left out is 1",
            "top_p_that_leaves_one_token_is_greedy": "`top_p`",
            "n_choices_have_seeds_of_their_own_that_repeat_each": "`n`: choices, usage, seeds",
            "text_parts_are_lines_and_developer_is_system": "content parts; role `developer`",
            "an_answer_can_be_sent_back_as_it_came": "a conversation goes on with its messages",
            "texts_of_all_scripts_arrive_whole": "prompts in all scripts",
            "fields_that_ask_for_nothing_are_no_obstacle": "neutral values of unsupported fields",
            "the_asynchronous_client_gets_the_same_answer": "`AsyncOpenAI`",
        },
        conformance={"ids_differ_and_created_is_the_time": "`id` and `created`"},
        pad_options={
            "a_user_is_answered_by_their_profile": "`user` names the profile",
            "logprobs_of_a_chat_are_the_base_models": "`logprobs`, `top_logprobs`",
        },
    ),
    *_cases(
        "Streams",
        streams={
            "pieces_make_the_whole_answer": "the pieces are the whole answer",
            "the_role_comes_first_and_the_reason_last_and_once": "order: role, pieces, reason",
            "usage_ends_a_stream_that_asks_for_it": "`stream_options.include_usage`",
            "choices_of_a_stream_are_those_of_the_whole_answer": "`n`, with seeds",
            "a_stop_string_never_shows_in_a_stream": "`stop` across tokens",
            "the_asynchronous_client_streams": "`AsyncOpenAI` streams",
            "answers_beside_each_other_are_those_of_each_alone": "answers beside each other",
        },
        conformance={
            "usage_of_a_stream_counts_all_choices": "usage of `n` choices",
            "a_stream_is_server_sent_events_to_the_letter": "events and `[DONE]` on the wire",
            "the_clients_own_stream_helper_puts_the_answer_together": "`completions.stream` helper",
        },
        statuses={
            "characters_of_all_scripts_arrive_whole_in_a_stream": "characters of several tokens",
        },
        pad_options={
            "logprobs_come_with_each_piece_of_a_stream": "`logprobs` with each piece",
        },
    ),
    *_cases(
        "Completions",
        chat={
            "a_raw_prompt_is_continued": "`prompt` is continued",
            "several_prompts_are_answered_in_their_order": "a list of prompts, with `n`",
        },
        streams={"a_raw_completion_streams": "streams"},
        conformance={
            "raw_completions_honour_n_stop_seed_and_usage_of_a_stream": "`n`, `stop`, `seed`",
            "raw_completions_refuse_what_they_cannot_do": "`echo`, `suffix`, `best_of`: 400",
        },
        pad_options={"logprobs_of_a_raw_completion": "`logprobs` with text offsets"},
        refusals={"tokens_as_a_prompt_are_refused": "token ids as a prompt: 400"},
    ),
    *_cases(
        "Errors",
        refusals={
            "a_field_that_breaks_its_rule_is_named": "a bad value: 400 that names the field",
            "what_cannot_be_honoured_is_refused_by_its_name": "unsupported fields: 400, each",
            "what_is_no_body_is_refused": "no JSON, no UTF-8, another content type: 400, 415",
            "a_body_too_large_is_refused": "a body too large: 413",
            "a_prompt_longer_than_the_context_is_refused": "a prompt beyond the context: 400",
            "other_paths_and_methods_are_refused_in_the_same_form": "other paths and methods",
        },
        statuses={
            "each_status_is_the_one_of_the_openai_api": "401, 403, 429, 500, 503, 504, each class",
            "a_client_that_retries_gets_its_answer": "the client's own retries",
            "a_stream_that_breaks_says_why": "an error in the middle of a stream",
        },
        pad_options={"a_user_without_a_profile_is_an_error": "a user without a profile: 404"},
        streams={
            "what_there_is_no_room_for_is_refused_with_a_delay": "overload: 429 with `Retry-After`",
            "an_error_before_the_first_token_is_a_status_in_a_stream_too": "before the first token",
        },
        conformance={"an_answer_over_its_time_is_a_timeout": "an answer over its time: 504"},
    ),
    Case(
        "Errors",
        "a bad key: 401; a key without the scope: 403",
        (
            "tests/e2e/test_secured.py::"
            "test_the_http_edge_passes_tokens_on_and_tells_what_the_generator_says",
        ),
    ),
    *_cases(
        "Leaving",
        streams={
            "closing_a_stream_frees_its_row_at_once": "closing a stream frees its row",
            "cancelling_a_whole_answer_frees_all_its_rows": "cancelling `n` answers frees all rows",
            "a_caller_that_waits_for_a_row_can_hang_up": "hanging up while waiting for a row",
        },
        conformance={
            "a_client_that_waits_no_longer_frees_its_row": "the client's own timeout",
            "leaving_an_asynchronous_stream_frees_its_row": "leaving an asynchronous stream",
        },
        operations={
            "the_request_id_is_one_from_caller_to_generator": "`x-request-id`, `_request_id`",
            "a_drain_lets_running_answers_finish": "a server that stops ends its streams whole",
        },
    ),
]


def conformance_table() -> str:
    """Return the Markdown table."""
    lines = ["| # | area | case | test |", "| --- | --- | --- | --- |"]
    for number, case in enumerate(CASES, 1):
        tests = "<br>".join(f"`{test.removeprefix(_FOLDER)}`" for test in case.tests)
        lines.append(f"| {number} | {case.area} | {case.what} | {tests} |")
    return "\n".join(lines) + "\n"
