"""Who may call what, between real processes; and that no secret is ever shown."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from generator_svc.access import METHOD_SCOPES as GENERATOR_SCOPES
from pad.v1 import reward_pb2, reward_pb2_grpc
from pad_client import AccessDeniedError, GeneratorClient, Message, UnavailableError
from pad_client.tokens import new_token
from reward_svc.access import METHOD_SCOPES as REWARD_SCOPES
from svc_common import healthcheck
from svc_common.access import COMMON_SCOPES
from tests.e2e.secured import EVERYDAY, KEY_OPTIONS, Secured, code_of
from tests.edge_svc.edges import running_edge
from tests.playground_svc.playgrounds import ask, running_playground
from tests.tls_keys import Authority, Pair

CHAT = [Message("user", "I need a bus to Sacramento next Friday.")]


def connect(secured: Secured, token: str | None, name: str = "pad.test") -> GeneratorClient:
    return GeneratorClient(
        secured.address, ca_file=secured.authority.cert, server_name=name, token=token
    )


def test_a_guided_answer_goes_through_keys_and_tokens_on_both_hops(secured: Secured) -> None:
    with connect(secured, secured.tokens["a"].secret) as client:
        client.put_profile("guided", ["Be brief."])
        answer = client.complete(messages=CHAT, user_id="guided", max_tokens=8)
        assert answer.summary.num_guided_tokens > 0
        assert answer.summary.num_fallback_tokens == 0


def test_erasure_reaches_rewards_that_ask_for_a_token(secured: Secured) -> None:
    """A unary call that was added later went without the token, and erased nothing there."""
    with connect(secured, secured.tokens["a"].secret) as client:
        client.put_profile("erased", ["Be brief."])
        client.complete(messages=CHAT, user_id="erased", max_tokens=4)
        client.delete_profile("erased")
    assert secured.reward.wait_for("pad.v1.RewardService/Forget")["code"] == "OK"


def test_without_a_valid_token_nothing_is_answered(secured: Secured) -> None:
    for token in (None, "pad_forged", secured.tokens["reward"].secret):
        with (
            connect(secured, token) as client,
            pytest.raises(AccessDeniedError) as refused,
        ):
            client.server_info()
        assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED
        assert token is None or token not in str(refused.value)
    with GeneratorClient(secured.address) as plain, pytest.raises(UnavailableError):
        plain.server_info()


def test_scopes_are_kept_apart(secured: Secured) -> None:
    with connect(secured, secured.tokens["admin"].secret) as client:
        with pytest.raises(AccessDeniedError, match="scope generate, root has admin"):
            client.server_info()
        with pytest.raises(AccessDeniedError, match=r"scope profiles\.read"):
            client.get_profile("guided")
        with pytest.raises(AccessDeniedError, match=r"scope profiles\.write"):
            client.delete_profile("guided")


def test_an_explanation_shows_a_profile_to_none_who_may_not_read_it(secured: Secured) -> None:
    """Whether there is one or not; what a caller states itself it may see again."""
    secret = "Be very brief, canary."
    with connect(secured, secured.tokens["a"].secret) as client:
        client.put_profile("explained", [secret])
        told = client.explain(messages=CHAT, user_id="explained", max_tokens=2)
        assert told.summary.explanation is not None
        assert told.summary.explanation.preferences[0].text == secret
    with connect(secured, secured.tokens["writer"].secret) as client:
        for user_id in ("explained", "nobody"):
            for call in (client.explain, client.complete):
                with pytest.raises(AccessDeniedError, match=r"profiles\.read") as refused:
                    call(messages=CHAT, user_id=user_id, max_tokens=2, detail="explanation")
                assert "canary" not in str(refused.value)
        assert client.complete(messages=CHAT, user_id="explained", max_tokens=2).tokens
        own = client.explain(messages=CHAT, preferences=["Be kind."], max_tokens=2)
        assert own.summary.explanation is not None
        mixed = client.explain(
            messages=CHAT, user_id="explained", preferences=["Be kind."], max_tokens=2
        )
        assert "canary" not in str(mixed)


def listed(channel: grpc.Channel, token: str) -> set[str]:
    """Return the services that reflection names."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    metadata = [("authorization", f"Bearer {token}")]
    (answer,) = stub.ServerReflectionInfo(iter([request]), metadata=metadata, timeout=30)
    return {service.name for service in answer.list_services_response.service}


def test_the_tables_have_the_services_that_the_process_serves(secured: Secured) -> None:
    with secured.channel() as channel:
        served = listed(channel, secured.tokens["admin"].secret)
        denied = code_of(lambda: listed(channel, secured.tokens["a"].secret))
    assert served == {method.partition("/")[0] for method in {**GENERATOR_SCOPES, **COMMON_SCOPES}}
    assert denied == "PERMISSION_DENIED"


def test_probes_are_answered_without_keys_on_their_own_port(
    secured: Secured, capsys: pytest.CaptureFixture[str]
) -> None:
    for serving in secured.addresses.values():
        assert healthcheck.main([serving["health_address"]]) == 0
        assert healthcheck.main([serving["address"]]) == 1
    capsys.readouterr()
    with secured.channel() as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        answer = check(health_pb2.HealthCheckRequest(), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def reward_calls(stub: Any, metadata: list[tuple[str, str]]) -> dict[str, Any]:
    options = {"metadata": metadata, "timeout": 30}
    empty = reward_pb2.ScoreRequest()
    return {
        "Score": lambda: list(stub.Score(iter([empty]), **options)),
        "ScoreSequences": lambda: stub.ScoreSequences(
            reward_pb2.ScoreSequencesRequest(), **options
        ),
        "EncodePreference": lambda: stub.EncodePreference(
            reward_pb2.EncodePreferenceRequest(), **options
        ),
        "Forget": lambda: stub.Forget(reward_pb2.ForgetRequest(), **options),
        "GetServerInfo": lambda: stub.GetServerInfo(
            reward_pb2.RewardServiceGetServerInfoRequest(), **options
        ),
    }


def reward_codes(secured: Secured, pair: Pair | None, token: str | None) -> set[str]:
    """Call every method of the reward service and return the statuses."""
    keys = (pair.key.read_bytes(), pair.cert.read_bytes()) if pair else ()
    credentials = grpc.ssl_channel_credentials(secured.authority.cert.read_bytes(), *keys)
    options = [*KEY_OPTIONS, ("grpc.ssl_target_name_override", "reward.test")]
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.secure_channel(secured.reward_address, credentials, options) as channel:
        calls = reward_calls(reward_pb2_grpc.RewardServiceStub(channel), metadata)
        assert {f"pad.v1.RewardService/{name}" for name in calls} == set(REWARD_SCOPES)
        return {code_of(call) for call in calls.values()}


def test_the_reward_service_answers_its_generator_alone(secured: Secured, tmp_path: Path) -> None:
    issue = secured.authority.issue
    token = secured.tokens["reward"].secret
    allowed, other = issue("second", "DNS:generator-2.test"), issue("other", "DNS:other.test")
    fake = Authority(tmp_path, "fake").issue("fake", "DNS:generator.test")
    assert reward_codes(secured, None, token) == {"UNAVAILABLE"}
    assert reward_codes(secured, fake, token) == {"UNAVAILABLE"}
    assert reward_codes(secured, other, token) == {"PERMISSION_DENIED"}
    assert reward_codes(secured, allowed, None) == {"UNAUTHENTICATED"}
    assert reward_codes(secured, allowed, secured.tokens["a"].secret) == {"UNAUTHENTICATED"}
    powerless = secured.tokens["powerless"].secret
    assert reward_codes(secured, allowed, powerless) == {"PERMISSION_DENIED"}
    # Empty requests are no good ones, but their sender was let in.
    assert reward_codes(secured, allowed, token) == {
        "OK",
        "INVALID_ARGUMENT",
        "FAILED_PRECONDITION",
    }


def test_tokens_and_certificates_are_replaced_while_the_process_runs(secured: Secured) -> None:
    old, new = secured.tokens["a"], new_token("tenant-a", "next-of-a", EVERYDAY, None)
    others = [token for name, token in secured.tokens.items() if name in ("b", "admin")]
    with connect(secured, old.secret) as before, connect(secured, new.secret) as after:
        before.put_profile("kept", ["Be brief."])
        secured.write_tokens([old, new, *others])
        assert before.get_profile("kept") == after.get_profile("kept")
        secured.write_tokens([new, *others])
        with pytest.raises(AccessDeniedError):
            before.get_profile("kept")
        assert after.get_profile("kept").user_id == "kept"
        secured.write_tokens([old, *others])
        fresh = secured.authority.issue("fresh", "DNS:fresh.test")
        fresh.move_to(secured.folder / "tls.crt", secured.folder / "tls.key")
        with connect(secured, old.secret, name="fresh.test") as renamed:
            assert renamed.get_profile("kept").user_id == "kept"
        with connect(secured, old.secret) as outdated, pytest.raises(UnavailableError):
            outdated.server_info()
        assert before.get_profile("kept").user_id == "kept"  # its connection goes on
    again = secured.authority.issue("again", "DNS:pad.test")
    again.move_to(secured.folder / "tls.crt", secured.folder / "tls.key")


SECRET = "pad_a-token-in-the-wrong-place"


@pytest.mark.parametrize(
    ("module", "variable", "rule"),
    [
        ("generator_svc", "GENERATOR_TOKENS_FILE", "line 1: must be a JSON object"),
        ("reward_svc", "REWARD_TLS_CERT_FILE", "TLS_KEY_FILE: must be set where"),
    ],
)
def test_bad_secrets_stop_the_start_and_are_not_shown(
    models_dir: Path, tmp_path: Path, module: str, variable: str, rule: str
) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET} {SECRET}\n")
    done = subprocess.run(
        [sys.executable, "-m", module],
        env={
            **os.environ,
            "GENERATOR_MODEL_DIR": str(models_dir / "demo-base-small"),
            "GENERATOR_REWARD_TARGETS": "127.0.0.1:1",
            "GENERATOR_REDIS_URL": "unix:///nowhere",
            "REWARD_MODEL_DIR": str(models_dir / "demo-persrm"),
            variable: str(path),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert rule in done.stderr.strip().splitlines()[-1]
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_no_secret_was_ever_logged(secured: Secured) -> None:
    with connect(secured, secured.tokens["a"].secret) as client:
        client.complete(messages=CHAT, preferences=["Be brief."], max_tokens=4)
    secured.generator.wait_for("rpc ended")
    secured.reward.wait_for("rpc ended")
    log = secured.generator.log + secured.reward.log
    assert '"token": "of-a"' in log  # the name, by which a token in use is found
    assert '"token": "generator"' in log
    assert len(secured.secrets) > 20
    assert not [secret for secret in secured.secrets if secret in log]


def test_the_http_edge_passes_tokens_on_and_tells_what_the_generator_says(
    secured: Secured,
) -> None:
    settings = {
        "EDGE_GENERATOR_CA_FILE": str(secured.authority.cert),
        "EDGE_GENERATOR_SERVER_NAME": "pad.test",
    }
    say: Any = [{"role": "user", "content": CHAT[0].content}]
    with running_edge(secured.address, **settings) as edge:

        def ask(token: str) -> Any:
            with openai.OpenAI(base_url=edge.url, api_key=token, max_retries=0) as client:
                return client.chat.completions.create(model="demo-base", messages=say, max_tokens=4)

        with pytest.raises(openai.AuthenticationError) as forged:
            ask("pad_forged")
        assert forged.value.code == "invalid_api_key"
        assert ask(secured.tokens["a"].secret).usage.completion_tokens <= 4
        with pytest.raises(openai.PermissionDeniedError, match="scope generate, root has admin"):
            ask(secured.tokens["admin"].secret)
        with pytest.raises(openai.AuthenticationError):  # though what is served is known by now
            ask("pad_forged")


def test_the_playground_acts_by_the_token_it_was_started_with(
    secured: Secured, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    settings = {
        "PLAYGROUND_CA_FILE": str(secured.authority.cert),
        "PLAYGROUND_SERVER_NAME": "pad.test",
        "PLAYGROUND_TOKEN_FILE": str(token),
    }
    say = {"messages": [{"role": "user", "content": CHAT[0].content}], "max_tokens": 4}
    token.write_text(secured.tokens["a"].secret)
    with running_playground(secured.address, **settings) as (_, address):
        assert ask(address, "/api/generate", say).status == 200
        forms = ask(address, "/api/snippets", say)
        assert not [secret for secret in secured.secrets if secret in forms.text]
        token.write_text(secured.tokens["admin"].secret)  # read anew at each call
        refused = ask(address, "/api/generate", say)
        assert (refused.status, refused.json["error"]["code"]) == (403, "denied")
        assert "scope generate" in refused.json["error"]["message"]
