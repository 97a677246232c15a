"""When a process says that it takes calls, and what a signal does before that."""

from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pad.v1 import profile_pb2, profile_pb2_grpc
from pad_client import GeneratorClient, UnavailableError
from tests.e2e.processes import Service, fleet, until

PROFILE_SERVICE = "pad.v1.ProfileService"
GENERATOR_SERVICE = "pad.v1.GeneratorService"
GUIDED = {"prompt": "Hello", "preferences": ["Be brief."], "max_tokens": 4}


def health(service: Service, name: str) -> str:
    with grpc.insecure_channel(service.address) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=20)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def profile_status(service: Service, user_id: str) -> grpc.StatusCode:
    with grpc.insecure_channel(service.address) as channel:
        stub = profile_pb2_grpc.ProfileServiceStub(channel)
        call = stub.GetProfile.future(profile_pb2.GetProfileRequest(user_id=user_id), timeout=20)
        return call.code()


@pytest.mark.slow
def test_a_generator_serves_once_rewards_answered_or_after_its_patience(
    models_dir: Path, tmp_path: Path, redis_url: str
) -> None:
    patient = {"GENERATOR_START_WAIT_S": "3600", "GENERATOR_REWARD_OPEN_TIMEOUT_S": "1"}
    with fleet(models_dir, tmp_path, redis_url, **patient) as services:
        (generator,), (reward,) = services.generators, services.rewards
        generator.launch()
        generator.wait_until_serving(PROFILE_SERVICE)  # which needs no rewards
        assert profile_status(generator, "nobody") is grpc.StatusCode.NOT_FOUND
        generator.wait_for_log('"part": "rewards"')  # why it does not serve
        assert health(generator, "") == health(generator, GENERATOR_SERVICE) == "NOT_SERVING"
        assert generator.metric('pad_start_passed{part="store"}') == 1
        assert generator.metric('pad_start_passed{part="rewards"}') == 0
        assert generator.stop() == 0  # in the middle of its start

        generator.environment["GENERATOR_START_WAIT_S"] = "0.5"
        generator.launch()
        generator.wait_until_serving()
        assert '"missing": ["rewards"]' in generator.log
        with GeneratorClient(generator.address) as client:
            assert len(client.complete(prompt="Hello", max_tokens=2, strategy="base").tokens) == 2
            with pytest.raises(UnavailableError):
                client.complete(**GUIDED)
            reward.launch()
            passed = 'pad_start_passed{part="rewards"}'
            until(lambda: generator.metric(passed) == 1, "a guided warm-up", 180)
            assert all(token.guided for token in client.complete(**GUIDED).tokens)


@pytest.mark.slow
def test_sigterm_ends_a_start_at_once_and_well(
    models_dir: Path, tmp_path: Path, redis_url: str
) -> None:
    with fleet(models_dir, tmp_path, redis_url) as services:
        (generator,), (reward,) = services.generators, services.rewards
        services.launch()
        generator.wait_for_log("base model loaded")
        assert generator.stop() == 0, generator.log
        reward.wait_for_log("reward model loaded")
        assert reward.stop() == 0, reward.log
        assert "Traceback" not in generator.log + reward.log
