"""One trace from a product's span through edge and generator to the reward service."""

import json
import os
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from edge_svc.http_spans import HTTP_ATTRIBUTES
from generator_svc.trace_attributes import GENERATION_ATTRIBUTES, STEP_ATTRIBUTES, STEP_EVENT
from pad_client import AsyncGeneratorClient, GeneratorClient, Message, NotFoundError, PadError
from pad_client.embedded import EmbeddedStack, StackOptions
from reward_svc.session_trace import SESSION_ATTRIBUTES, SESSION_SPAN
from svc_common.rpc_spans import RPC_ATTRIBUTES
from tests.conftest import RedisServer
from tests.e2e.processes import Service, free_ports
from tests.edge_svc.edges import running_edge
from tests.otlp_receiver import Receiver, receiving

pytestmark = pytest.mark.slow

CHAT_SPAN = "chat demo-base"
COMPLETE = "pad.v1.GeneratorService/Complete"
ENCODE = "pad.v1.RewardService/EncodePreference"
SCORE = "pad.v1.RewardService/ScoreSequences"
CANARY = "Qanary7"  # in every text of the test that looks for it


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture(scope="module")
def stack(models_dir: Path, receiver: Receiver) -> Iterator[EmbeddedStack]:
    options = StackOptions(
        models_dir=models_dir,
        has_edge=True,
        generator_environment={
            "GENERATOR_TRACES_ENDPOINT": receiver.address,
            "GENERATOR_TRACES_STEP_RATIO": "1",
        },
        reward_environment={"REWARD_TRACES_ENDPOINT": receiver.address},
        edge_environment={"EDGE_TRACES_ENDPOINT": receiver.address},
    )
    with EmbeddedStack(options) as running:
        yield running


@pytest.fixture(scope="module")
def client(stack: EmbeddedStack) -> Iterator[GeneratorClient]:
    with GeneratorClient(stack.address) as connected:
        yield connected


class Product:
    """The caller's own span, current while the body runs."""

    def __init__(self, *, is_sampled: bool = True) -> None:
        self.trace_id, self.span_id = os.urandom(16).hex(), os.urandom(8).hex()
        flags = TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT)
        its = SpanContext(int(self.trace_id, 16), int(self.span_id, 16), False, flags)
        self._whole = trace.set_span_in_context(NonRecordingSpan(its))
        self.traceparent = f"00-{self.trace_id}-{self.span_id}-{flags:02x}"

    def __enter__(self) -> "Product":
        self._token = context.attach(self._whole)
        return self

    def __exit__(self, *error: object) -> None:
        context.detach(self._token)


def ask(client: GeneratorClient, text: str = "Find me a hotel.", **options: Any) -> Any:
    options = {"preferences": ["Be brief."], "max_tokens": 12, **options}
    return client.complete(messages=[Message("user", text)], **options)


def logged(path: Path, event: str, trace_id: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if (line["event"], line.get("trace_id")) == (event, trace_id)]


def test_a_generation_is_one_trace_from_the_caller_to_the_reward_service(
    stack: EmbeddedStack, client: GeneratorClient, receiver: Receiver
) -> None:
    with Product() as product:
        answer = ask(client, preferences=["Be brief, as nobody was before."])
    spans = receiver.trace(product.trace_id, CHAT_SPAN, SESSION_SPAN, ENCODE)
    generation = spans[CHAT_SPAN]
    assert generation.parent_id == product.span_id
    assert spans[SESSION_SPAN].parent_id == generation.span_id
    assert spans[ENCODE].parent_id == generation.span_id
    services = {name: span.service for name, span in spans.items()}
    assert services == {
        CHAT_SPAN: "pad-generator",
        SESSION_SPAN: "pad-reward",
        ENCODE: "pad-reward",
    }
    (line,) = logged(Path(stack.directory) / "generator.log", "rpc ended", product.trace_id)
    assert line["request_id"] == answer.summary.request_id
    assert logged(Path(stack.directory) / "reward-0.log", "rpc ended", product.trace_id)


def test_a_span_tells_what_the_summary_does(client: GeneratorClient, receiver: Receiver) -> None:
    with Product() as product:
        summary = ask(client, beta=2.0, top_k=5, temperature=0.7, top_p=0.9).summary
    spans = receiver.trace(product.trace_id, CHAT_SPAN, SESSION_SPAN)
    told = spans[CHAT_SPAN].attributes
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.provider.name"] == "pad"
    assert told["gen_ai.output.type"] == "text"
    assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == "demo-base"
    assert told["gen_ai.request.stream"] is False
    assert told["gen_ai.request.max_tokens"] == 12
    assert told["gen_ai.request.temperature"] == pytest.approx(0.7)
    assert told["gen_ai.request.top_p"] == pytest.approx(0.9)
    assert told["gen_ai.request.top_k"] == 5
    assert told["gen_ai.usage.input_tokens"] == summary.num_prompt_tokens
    assert told["gen_ai.usage.output_tokens"] == summary.num_tokens
    assert told["gen_ai.response.finish_reasons"] == [
        "length" if summary.finish_reason.value == "length" else "stop"
    ]
    assert told["pad.finish_reason"] == summary.finish_reason.value.replace("-", "_")
    assert told["pad.request_id"] == summary.request_id
    assert told["pad.strategy"] == summary.strategy.value == "pad"
    assert told["pad.priority"] == "interactive"
    assert told["pad.beta"] == summary.beta == 2.0
    assert told["pad.profile_revision"] == 0
    assert told["pad.guided_tokens"] == summary.num_guided_tokens == summary.num_tokens
    assert told["pad.changed_tokens"] == summary.num_changed_tokens
    assert told["pad.fallback_tokens"] == 0
    assert told["pad.reward_model_version"] == summary.reward_model_version
    timings = summary.timings
    assert told["pad.queue_s"] == timings.queue_s
    assert told["pad.prefill_s"] == timings.prefill_s
    assert told["pad.time_to_first_token_s"] == timings.time_to_first_token_s
    assert told["pad.forward_s"] == timings.generator_forward_s
    assert told["pad.reward_wait_s"] == timings.reward_wait_s
    assert told["pad.select_s"] == timings.select_s
    assert told["rpc.system.name"] == "grpc"
    assert told["rpc.method"] == COMPLETE
    assert told["rpc.response.status_code"] == "OK"
    assert not spans[CHAT_SPAN].is_error
    assert spans[CHAT_SPAN].duration_s >= timings.total_s
    session = spans[SESSION_SPAN].attributes
    assert session["gen_ai.request.model"] == "demo-persrm"
    assert session["pad.reward_model_version"] == summary.reward_model_version
    assert session["pad.steps"] == summary.num_tokens
    assert session["pad.committed_tokens"] >= summary.num_tokens - 1
    assert session["pad.prefill_s"] > 0 < session["pad.forward_s"]
    assert (session["pad.epoch"], session["pad.end"]) == (1, "closed")
    assert not spans[SESSION_SPAN].is_error


def test_each_step_is_an_event_where_the_operator_wants_it(
    client: GeneratorClient, receiver: Receiver
) -> None:
    with Product() as product:
        answer = ask(client)
    span = receiver.trace(product.trace_id, CHAT_SPAN)[CHAT_SPAN]
    assert [name for name, _ in span.events] == [STEP_EVENT] * len(answer.tokens)
    steps = [attributes for _, attributes in span.events]
    assert all(set(step) == set(STEP_ATTRIBUTES) for step in steps)
    assert [step["pad.index"] for step in steps] == list(range(len(steps)))
    assert [step["pad.changed"] for step in steps] == [token.changed for token in answer.tokens]
    assert [step["pad.guided"] for step in steps] == [token.guided for token in answer.tokens]
    for name in ("pad.forward_s", "pad.reward_wait_s", "pad.select_s"):
        assert sum(step[name] for step in steps) == pytest.approx(span.attributes[name])
    assert span.attributes["pad.steps_left_out"] == 0


async def test_streams_of_asyncio_are_traced_too(stack: EmbeddedStack, receiver: Receiver) -> None:
    async with AsyncGeneratorClient(stack.address) as client:
        with Product() as product:
            stream = client.generate(prompt="The sea is", preferences=["Be kind."], max_tokens=4)
        async with stream:
            assert [token async for token in stream]
    spans = receiver.trace(product.trace_id, "text_completion demo-base", SESSION_SPAN)
    span = spans["text_completion demo-base"]
    assert span.parent_id == product.span_id
    assert span.attributes["gen_ai.request.stream"] is True


def test_best_of_n_is_ranked_in_the_same_trace(client: GeneratorClient, receiver: Receiver) -> None:
    with Product() as product:
        summary = ask(client, strategy="best-of-n", num_samples=2).summary
    spans = receiver.trace(product.trace_id, CHAT_SPAN, SCORE)
    assert spans[SCORE].parent_id == spans[CHAT_SPAN].span_id
    told = spans[CHAT_SPAN].attributes
    assert told["gen_ai.usage.output_tokens"] == summary.num_tokens
    assert told["pad.strategy"] == "best-of-n"
    assert told["pad.reward_model_version"] == summary.reward_model_version != ""


def test_an_error_is_told_by_its_status_alone(client: GeneratorClient, receiver: Receiver) -> None:
    with Product() as product, pytest.raises(NotFoundError):
        ask(client, preferences=[], user_id=f"{CANARY}-nobody")
    span = receiver.trace(product.trace_id, CHAT_SPAN)[CHAT_SPAN]
    assert span.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert (span.is_error, span.message.status.message) == (False, "")  # it is not the server's
    with Product() as product, pytest.raises(PadError):
        ask(client, max_tokens=100_000)
    span = receiver.trace(product.trace_id, COMPLETE)[COMPLETE]
    assert span.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    with Product() as product, pytest.raises(PadError):
        ask(client, max_tokens=400, ignore_end_of_turn=True, timeout_s=0.6)
    span = receiver.trace(product.trace_id, CHAT_SPAN)[CHAT_SPAN]
    assert span.attributes["rpc.response.status_code"] == "DEADLINE_EXCEEDED"
    assert span.attributes["error.type"] == "DEADLINE_EXCEEDED"
    assert span.is_error
    assert span.attributes["gen_ai.usage.output_tokens"] > 0  # as far as it came
    assert span.attributes["pad.forward_s"] > 0
    assert not span.message.events or {name for name, _ in span.events} == {STEP_EVENT}


def test_a_trace_that_its_caller_does_not_sample_is_recorded_nowhere(
    stack: EmbeddedStack, client: GeneratorClient, receiver: Receiver
) -> None:
    with Product(is_sampled=False) as unwanted:
        ask(client)
    with Product() as product:
        ask(client)
    # Spans leave in the order in which they ended.
    receiver.trace(product.trace_id, CHAT_SPAN, SESSION_SPAN)
    assert not [span for span in receiver.spans if span.trace_id == unwanted.trace_id]
    assert logged(Path(stack.directory) / "generator.log", "rpc ended", unwanted.trace_id)


def test_a_request_without_a_trace_begins_one(client: GeneratorClient, receiver: Receiver) -> None:
    request_id = ask(client).summary.request_id
    (span,) = receiver.wait_for(lambda s: s.attributes.get("pad.request_id") == request_id)
    assert span.parent_id == ""
    receiver.trace(span.trace_id, CHAT_SPAN, SESSION_SPAN)


def post(url: str, path: str, body: dict[str, Any], **headers: str) -> Any:
    data = json.dumps(body).encode()
    all_headers = {"content-type": "application/json", **headers}
    request = urllib.request.Request(f"{url}{path}", data, all_headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


BODY = {
    "model": "demo-base",
    "messages": [{"role": "user", "content": "Find me a hotel."}],
    "max_tokens": 4,
    "n": 2,
}


def test_the_edge_goes_on_with_its_callers_trace(stack: EmbeddedStack, receiver: Receiver) -> None:
    product = Product()
    post(
        f"http://{stack.addresses['edge']}",
        "/v1/chat/completions",
        BODY,
        traceparent=product.traceparent,
        tracestate="vendor=1",
    )
    name = "POST /v1/chat/completions"
    edge = receiver.trace(product.trace_id, name)[name]
    assert (edge.service, edge.parent_id) == ("pad-edge", product.span_id)
    assert edge.attributes["http.response.status_code"] == 200
    choices = receiver.wait_for(
        lambda s: (s.trace_id, s.name) == (product.trace_id, CHAT_SPAN), count=2
    )
    assert [choice.parent_id for choice in choices] == [edge.span_id] * 2
    assert {choice.message.trace_state for choice in choices} == {"vendor=1"}
    assert logged(Path(stack.directory) / "edge.log", "request ended", product.trace_id)


def test_an_edge_that_makes_no_traces_passes_its_callers_on(
    stack: EmbeddedStack, receiver: Receiver
) -> None:
    product = Product()
    with running_edge(stack.address) as edge:
        post(
            f"http://{edge.address}",
            "/v1/chat/completions",
            {**BODY, "n": 1},
            traceparent=product.traceparent,
        )
    assert receiver.trace(product.trace_id, CHAT_SPAN)[CHAT_SPAN].parent_id == product.span_id


def test_what_has_ended_is_sent_before_a_process_ends(
    stack: EmbeddedStack, receiver: Receiver
) -> None:
    """Not with the next batch, which the process does not live to see."""
    product = Product()
    with running_edge(stack.address, EDGE_TRACES_ENDPOINT=receiver.address) as edge:
        url = f"http://{edge.address}"
        post(url, "/v1/chat/completions", {**BODY, "n": 1}, traceparent=product.traceparent)
        edge.process.send_signal(signal.SIGTERM)
        assert edge.process.wait(30) == 0
    assert [s for s in receiver.spans if (s.trace_id, s.service) == (product.trace_id, "pad-edge")]


def test_nothing_that_people_wrote_or_are_called_is_in_any_span(
    stack: EmbeddedStack, client: GeneratorClient, receiver: Receiver
) -> None:
    user = f"{CANARY}-ann"
    wish = f"Be {CANARY} brief."
    long: dict[str, Any] = {"ignore_end_of_turn": True, "max_tokens": 24}
    calls: list[Callable[[], Any]] = [
        lambda: client.put_profile(user, [wish]),
        lambda: ask(client, f"Tell {CANARY} of it.", preferences=[], user_id=user, **long),
        lambda: ask(client, preferences=[wish], stop=[CANARY], strategy="best-of-n", **long),
        lambda: ask(client, preferences=[wish], strategy="prompt", **long),
        lambda: ask(client, preferences=[f"{CANARY}<|end|>"]),
        lambda: ask(client, user_id=f"{CANARY} bad"),
        lambda: client.get_profile(f"{user}-nobody"),
        lambda: client.delete_profile(user),
        lambda: post(
            f"http://{stack.addresses['edge']}",
            "/v1/chat/completions",
            {**BODY, "user": user, "pad": {"preferences": [wish]}, "stop": CANARY},
        ),
    ]
    texts, products = [], []
    for call in calls:
        with Product() as product:
            products.append(product)
            try:
                answer = call()
            except PadError:
                continue
            texts.append(getattr(answer, "text", ""))
    last = products[-2].trace_id  # of client calls: the edge begins its own
    receiver.wait_for(lambda s: s.trace_id == last)
    post_name = "POST /v1/chat/completions"
    receiver.wait_for(lambda s: s.name == post_name and s.parent_id == "")
    assert sum(len(text) > 20 for text in texts) >= 3
    sent = b"".join(receiver.requests)
    assert b"pad.strategy" in sent
    for secret in (CANARY, CANARY.lower(), *(text for text in texts if len(text) > 20)):
        assert secret.encode() not in sent


def test_all_attributes_are_in_the_manual_and_no_others(
    client: GeneratorClient, receiver: Receiver
) -> None:
    with Product() as product:
        ask(client)
    receiver.trace(product.trace_id, CHAT_SPAN, SESSION_SPAN)
    tables = {
        "pad-generator": GENERATION_ATTRIBUTES | RPC_ATTRIBUTES,
        "pad-reward": SESSION_ATTRIBUTES | RPC_ATTRIBUTES,
        "pad-edge": HTTP_ATTRIBUTES,
    }
    seen: dict[str, set[str]] = {}
    for span in receiver.spans:
        seen.setdefault(span.service, set()).update(span.attributes)
    unknown = {name: keys - set(tables[name]) for name, keys in seen.items()}
    assert not any(unknown.values()), unknown
    assert set(GENERATION_ATTRIBUTES) <= seen["pad-generator"]
    assert set(SESSION_ATTRIBUTES) - {"error.type"} <= seen["pad-reward"]


def test_a_dead_collector_changes_nothing_for_callers(
    models_dir: Path, new_redis_server: Callable[[], RedisServer], tmp_path: Path
) -> None:
    port, metrics_port, closed = free_ports(3)
    environment = {
        "GENERATOR_MODEL_DIR": str(models_dir / "demo-base"),
        "GENERATOR_REWARD_TARGETS": "",
        "GENERATOR_REDIS_URL": new_redis_server().url,
        "GENERATOR_TRACES_ENDPOINT": f"127.0.0.1:{closed}",
        "GENERATOR_TRACES_STEP_RATIO": "1",
    }
    service = Service("generator_svc", environment, tmp_path, port, metrics_port)
    service.launch()
    try:
        service.wait_until_serving()
        with GeneratorClient(service.address) as client:
            for _ in range(3):
                assert ask(client, preferences=[], strategy="base").tokens
        assert service.stop() == 0
    finally:
        service.process.kill()
        service.process.wait()
    lines = [json.loads(line) for line in service.log.splitlines()]
    assert [line for line in lines if line["event"] == "rpc ended" and line.get("trace_id")]
    loud = [line["event"] for line in lines if line["level"] in ("warning", "error")]
    assert loud.count("traces are not taken, and dropped") <= 1
    assert not [line for line in lines if line["logger"].startswith("opentelemetry")]
