"""What the generator's settings of keys, tokens and tenant allow, and what they say if not."""

from dataclasses import replace
from pathlib import Path

import pytest

from generator_svc.access import check_access, reward_connector
from generator_svc.settings import GeneratorSettings
from svc_common.settings import SettingsError
from tests.tls_keys import Authority

TOKEN = "pad_the-token-for-rewards"
SETTINGS = GeneratorSettings(
    Path("/models"), ("127.0.0.1:50052", "unix:/run/reward"), "redis://x", listen="127.0.0.1:0"
)


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.fixture
def ca_file(tmp_path):
    return str(Authority(tmp_path / "keys", "ca").cert)


@pytest.mark.parametrize("tenant", ["a:b", "", "a b", "a}", 65 * "x"])
def test_a_tenant_has_a_name_that_keys_can_hold(tenant):
    with pytest.raises(SettingsError) as refused:
        check_access(replace(SETTINGS, tenant=tenant))
    rule = "must be 1..64 letters, digits, '.', '_' or '-'"
    assert str(refused.value) == f"GENERATOR_TENANT: {rule}, got {tenant!r}"


def test_a_token_for_rewards_is_read_anew_and_never_sent_in_the_clear(token_file, ca_file):
    settings = replace(SETTINGS, reward_token_file=str(token_file))
    connector = reward_connector(settings)  # all targets are on this machine
    assert connector.metadata == (("authorization", f"Bearer {TOKEN}"),)
    token_file.write_text("pad_next")
    assert connector.metadata == (("authorization", "Bearer pad_next"),)
    distant = replace(settings, reward_targets=("unix:/run/reward", "reward:50052"))
    with pytest.raises(SettingsError) as refused:
        reward_connector(distant)
    assert str(refused.value) == (
        "GENERATOR_REWARD_CA_FILE: must be set where GENERATOR_REWARD_TOKEN_FILE is, for the token"
        " not to be sent in the clear to reward:50052"
    )
    reward_connector(replace(distant, reward_ca_file=ca_file))


def test_tokens_alone_name_tenants(token_file):
    settings = replace(SETTINGS, tokens_file=str(token_file), tenant="acme")
    with pytest.raises(SettingsError, match=r"^GENERATOR_TENANT: must not be set where"):
        check_access(settings)


@pytest.mark.parametrize("content", [f"{TOKEN} {TOKEN}", " \n", f"{TOKEN}\x01", f"{TOKEN}\u00e9"])
def test_a_bad_token_file_is_named_and_not_quoted(token_file, content):
    token_file.write_text(content)
    with pytest.raises(SettingsError) as refused:
        check_access(replace(SETTINGS, reward_token_file=str(token_file)))
    assert str(refused.value) == (
        f"GENERATOR_REWARD_TOKEN_FILE: must hold one token and nothing else, got {token_file}"
    )


def test_half_set_keys_for_rewards_are_named(ca_file):
    for fields, setting in [
        ({"reward_server_name": "reward.test"}, "GENERATOR_REWARD_CA_FILE"),
        ({"reward_cert_file": "/x"}, "GENERATOR_REWARD_CA_FILE"),
        ({"reward_cert_file": "/x", "reward_ca_file": ca_file}, "GENERATOR_REWARD_KEY_FILE"),
        ({"reward_key_file": "/x", "reward_ca_file": ca_file}, "GENERATOR_REWARD_CERT_FILE"),
        ({"tls_key_file": "/x"}, "GENERATOR_TLS_CERT_FILE"),
        ({"tls_cert_file": "/x"}, "GENERATOR_TLS_KEY_FILE"),
        ({"tls_client_ca_file": ca_file}, "GENERATOR_TLS_CERT_FILE"),
    ]:
        with pytest.raises(SettingsError, match=f"^{setting}: must be set where GENERATOR_"):
            check_access(replace(SETTINGS, **fields))
