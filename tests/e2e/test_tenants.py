"""What belongs to one tenant reaches no other: not by any RPC, field, error, log or metric."""

import base64
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from generator_svc.access import METHOD_SCOPES
from pad.v1 import common_pb2, generator_pb2, generator_pb2_grpc, profile_pb2, profile_pb2_grpc
from tests.e2e.secured import Secured, in_all_forms

# B knows the first id; everything else with this word in it is A's secret.
CANARY = "canary"
CANARY_BETA = "6.28125"  # shows whose profile guided, where no text of it is told
KNOWN_USER = "shared-user"
HIDDEN_USERS = [f"{CANARY}-user-{place}" for place in range(3)]
WISHES = {user: f"{CANARY} wish of {user}: be brief." for user in (KNOWN_USER, *HIDDEN_USERS)}
PROMPT = f"{CANARY} prompt: I need a bus to Sacramento."
FORGED_IDS = [
    KNOWN_USER,
    f"tenant-a:{KNOWN_USER}",
    f"{{tenant-a:{KNOWN_USER}}}",
    f"../tenant-a/{KNOWN_USER}",
    f"{KNOWN_USER}\0",
    "*",
    "",
]
STUBS = {
    "GeneratorService": generator_pb2_grpc.GeneratorServiceStub,
    "ProfileService": profile_pb2_grpc.ProfileServiceStub,
}


def wish(text: str) -> common_pb2.Preference:
    return common_pb2.Preference(text=text, weight=1.0)


class Hostile:
    """Everything that a caller of tenant B can send."""

    def __init__(self, page_token: str) -> None:
        self.page_tokens = [page_token, forged_page_token("tenant-a:"), forged_page_token("a"), "x"]

    def requests(self, method: str) -> Iterator[Message]:
        """Yield the requests for a method; together they set every field."""
        name = method.partition("/")[2]
        yield from getattr(self, f"_{name.lower()}")()

    def _generate(self) -> Iterator[generator_pb2.GenerateRequest]:
        for user_id in FORGED_IDS:
            for fallback in (0, 1, 2):
                yield generator_pb2.GenerateRequest(
                    prompt="I need", user_id=user_id, max_tokens=4, fallback=fallback, seed=1
                )
        turns = [common_pb2.ChatMessage(role="user", content="I need a bus to")]
        for strategy in generator_pb2.Strategy.values():
            for reference in common_pb2.ReferenceMode.values():
                is_best_of_n = strategy == generator_pb2.STRATEGY_BEST_OF_N
                yield generator_pb2.GenerateRequest(
                    chat=common_pb2.Chat(messages=turns),
                    user_id=KNOWN_USER,
                    preferences=[wish("Be brief.")],
                    beta=2.0,
                    top_k=5,
                    temperature=0.7,
                    top_p=0.9,
                    max_tokens=4,
                    stop=["."],
                    strategy=strategy,
                    reference=reference,
                    detail=generator_pb2.DETAIL_CANDIDATES,
                    num_samples=2 if is_best_of_n else None,
                    preference_in_base_prompt=True,
                    ignore_end_of_turn=True,
                    priority=generator_pb2.PRIORITY_INTERACTIVE,
                )

    def _complete(self) -> Iterator[generator_pb2.CompleteRequest]:
        for request in self._generate():
            yield generator_pb2.CompleteRequest(generation=request)

    def _explainpersonalization(
        self,
    ) -> Iterator[generator_pb2.ExplainPersonalizationRequest]:
        for request in self._generate():
            if request.detail == generator_pb2.DETAIL_CANDIDATES:
                request.detail = generator_pb2.DETAIL_EXPLANATION
            yield generator_pb2.ExplainPersonalizationRequest(generation=request)

    def _listprofilerevisions(self) -> Iterator[profile_pb2.ListProfileRevisionsRequest]:
        for user_id in FORGED_IDS:
            yield profile_pb2.ListProfileRevisionsRequest(user_id=user_id)

    def _restoreprofile(self) -> Iterator[profile_pb2.RestoreProfileRequest]:
        for user_id in FORGED_IDS:
            for revision in (1, 2):
                yield profile_pb2.RestoreProfileRequest(
                    user_id=user_id, revision=revision, expected_revision=2
                )
                yield profile_pb2.RestoreProfileRequest(user_id=user_id, revision=revision)

    def _getserverinfo(self) -> Iterator[generator_pb2.GetServerInfoRequest]:
        yield generator_pb2.GetServerInfoRequest()

    def _getprofile(self) -> Iterator[profile_pb2.GetProfileRequest]:
        for user_id in FORGED_IDS:
            yield profile_pb2.GetProfileRequest(user_id=user_id)

    def _deleteprofile(self) -> Iterator[profile_pb2.DeleteProfileRequest]:
        for user_id in FORGED_IDS:
            yield profile_pb2.DeleteProfileRequest(user_id=user_id, expected_revision=1)
            yield profile_pb2.DeleteProfileRequest(user_id=user_id)

    def _putprofile(self) -> Iterator[profile_pb2.PutProfileRequest]:
        for user_id in FORGED_IDS:
            for revision in (1, 2, 0, None):
                yield profile_pb2.PutProfileRequest(
                    user_id=user_id,
                    preferences=[wish("Be rude.")],
                    beta=0.5,
                    expected_revision=revision,
                    erases_history=True,
                )

    def _listprofiles(self) -> Iterator[profile_pb2.ListProfilesRequest]:
        for page_token in ("", *self.page_tokens):
            for page_size in (0, 1, 1000, 100_000):
                yield profile_pb2.ListProfilesRequest(page_size=page_size, page_token=page_token)


def forged_page_token(user_id: str) -> str:
    return base64.urlsafe_b64encode(user_id.encode()).decode()


def field_names(message: Descriptor) -> set[str]:
    """Return every field of a message and of those in it."""
    names = set()
    for field in message.fields:
        names.add(field.full_name)
        if field.message_type is not None:
            names |= field_names(field.message_type)
    return names


def set_fields(message: Message) -> set[str]:
    """Return every field that is set in a message, and in those in it."""
    names = set()
    for field, value in message.ListFields():
        names.add(field.full_name)
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                names |= set_fields(inner)
    return names


def test_the_attack_uses_every_rpc_and_sets_every_field() -> None:
    hostile = Hostile("x")
    for method in METHOD_SCOPES:
        requests = list(hostile.requests(method))
        used = set().union(*map(set_fields, requests))
        assert used == field_names(requests[0].DESCRIPTOR), method


class Caller:
    """Calls any method with some metadata, and keeps all that comes back."""

    def __init__(self, channel: grpc.Channel, *metadata: tuple[str, str]) -> None:
        self._stubs = {name: stub(channel) for name, stub in STUBS.items()}
        self._metadata = metadata
        self.received: list[str] = []
        self.codes: list[str] = []

    def call(self, method: str, request: Message) -> list[Message]:
        service, _, name = method.removeprefix("pad.v1.").partition("/")
        rpc: Any = getattr(self._stubs[service], name)
        messages: list[Message] = []
        code = "OK"
        try:
            if name == "Generate":
                call = rpc(request, metadata=self._metadata, timeout=120)
                messages.extend(call)
                self.received.append(str((call.initial_metadata(), call.trailing_metadata())))
            else:
                response, call = rpc.with_call(request, metadata=self._metadata, timeout=120)
                messages.append(response)
                self.received.append(str((call.initial_metadata(), call.trailing_metadata())))
        except grpc.RpcError as error:
            code = error.code().name
            told = (error.details(), error.initial_metadata(), error.trailing_metadata())
            self.received += [str(told), str(error)]
        for message in messages:
            self.received += [str(message), str(message.SerializeToString())]
        self.codes.append(code)
        return messages

    def finds(self, word: str) -> list[str]:
        """Return what of all that came back has a word in it, encoded or not."""
        forms = [word, base64.b64encode(word.encode()).decode()[:-4]]
        return [text for text in self.received if any(form in text for form in forms)]


def bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


def put_request(user_id: str) -> profile_pb2.PutProfileRequest:
    return profile_pb2.PutProfileRequest(
        user_id=user_id, preferences=[wish(WISHES[user_id])], beta=float(CANARY_BETA)
    )


def answer_requests() -> list[generator_pb2.GenerateRequest]:
    users = (KNOWN_USER, *HIDDEN_USERS)
    return [
        generator_pb2.GenerateRequest(prompt=PROMPT, user_id=user, max_tokens=12) for user in users
    ]


@pytest.fixture
def victim(secured: Secured) -> Iterator[Caller]:
    """A caller of tenant A, whose users have profiles."""
    with secured.channel() as channel:
        caller = Caller(channel, bearer(secured.tokens["a"].secret))
        for user_id in WISHES:  # twice, so that there is an earlier revision to be stolen
            caller.call("pad.v1.ProfileService/PutProfile", put_request(user_id))
            caller.call("pad.v1.ProfileService/PutProfile", put_request(user_id))
        yield caller


def profiles_of(caller: Caller) -> list[Message]:
    request = profile_pb2.ListProfilesRequest(page_size=1000)
    (page,) = caller.call("pad.v1.ProfileService/ListProfiles", request)
    return [each for each in page.profiles if each.user_id in WISHES]  # type: ignore[attr-defined]


def page_token_of(caller: Caller) -> str:
    """Return a token that stands for one of A's hidden users."""
    request = profile_pb2.ListProfilesRequest(page_size=1)
    (page,) = caller.call("pad.v1.ProfileService/ListProfiles", request)
    return str(page.next_page_token)  # type: ignore[attr-defined]


def test_nothing_of_one_tenant_reaches_another(secured: Secured, victim: Caller) -> None:
    before = profiles_of(victim)
    assert victim.finds(CANARY)  # they would be found
    assert victim.finds(CANARY_BETA)
    hostile = Hostile(page_token_of(victim))
    with secured.channel() as channel, ThreadPoolExecutor(4) as pool:
        busy = [
            pool.submit(victim.call, "pad.v1.GeneratorService/Generate", request)
            for request in answer_requests()
        ]
        attacker = Caller(
            channel,
            bearer(secured.tokens["b"].secret),
            ("tenant", "tenant-a"),
            ("x-tenant", "tenant-a"),
            ("x-pad-tenant", "tenant-a"),
            ("x-request-id", "tenant-a"),
        )
        for method in METHOD_SCOPES:
            for request in hostile.requests(method):
                attacker.call(method, request)
        assert all(len(task.result()) > 1 for task in busy), victim.codes
    answered = {"OK", "NOT_FOUND", "INVALID_ARGUMENT"}
    assert answered <= set(attacker.codes) <= {*answered, "ABORTED", "FAILED_PRECONDITION"}
    assert attacker.finds(CANARY) == []
    assert attacker.finds(CANARY_BETA) == []
    assert profiles_of(victim) == before


def forged_headers(secured: Secured) -> list[list[tuple[str, str]]]:
    token = secured.tokens["a"].secret
    own = secured.tokens["b"].secret
    return [
        [],
        [bearer(in_all_forms(secured.tokens["a"])[1])],
        [bearer("of-a")],
        [bearer("tenant-a")],
        [bearer(token[:-1])],
        [bearer(token.swapcase())],
        [bearer(f"{token} {own}")],
        [bearer(own), bearer(own)],
        [("authorization", token)],
        [("authorization", f"Basic {token}")],
        [("x-authorization", f"Bearer {token}")],
    ]


def test_forged_tokens_open_nothing(secured: Secured, victim: Caller) -> None:
    before = profiles_of(victim)
    hostile = Hostile(page_token_of(victim))
    with secured.channel() as channel:
        for headers in forged_headers(secured):
            attacker = Caller(channel, *headers)
            for method in METHOD_SCOPES:
                attacker.call(method, next(hostile.requests(method)))
            assert set(attacker.codes) == {"UNAUTHENTICATED"}
            assert attacker.finds(CANARY) == []
            assert attacker.finds(secured.tokens["a"].secret) == []
    assert profiles_of(victim) == before


def test_logs_and_metrics_name_neither_users_nor_texts(secured: Secured, victim: Caller) -> None:
    for request in answer_requests():
        assert len(victim.call("pad.v1.GeneratorService/Generate", request)) > 1
    for service in (secured.generator, secured.reward):
        assert CANARY not in service.log
        assert KNOWN_USER not in service.log
    for serving in secured.addresses.values():
        url = f"http://127.0.0.1:{serving['metrics_port']}/metrics"
        with urllib.request.urlopen(url, timeout=30) as response:
            page = response.read().decode()
        assert "pad_rpc_total" in page
        for word in (CANARY, KNOWN_USER, "tenant-a", "of-a"):
            assert word not in page
