"""Settings of the HTTP edge, read once from `EDGE_*` variables."""

from dataclasses import dataclass

from pad_client.addresses import grpc_target
from pad_client.errors import InvalidRequestError
from svc_common.addresses import check_http_listen
from svc_common.logs import LEVELS
from svc_common.settings import setting

PREFIX = "EDGE_"
PROFILE_RULES = ("error", "base")


def check_generators(targets: tuple[str, ...]) -> None:
    """Refuse what the client would not call.

    Raises:
        ValueError: One is no address, or they are several that are not all IP addresses.
    """
    try:
        grpc_target(targets)
    except InvalidRequestError as error:
        raise ValueError(error.message.removeprefix("target: ")) from error


@dataclass(frozen=True)
class EdgeSettings:
    """Everything an operator can set; see docs/openai.md for the table made from this."""

    generator: tuple[str, ...] = setting(
        check=check_generators,
        help="generators: host:port (a name may stand for many) or unix:path; several must be IPs",
    )
    listen: str = setting(
        "0.0.0.0:8000", check=check_http_listen, help="address of the HTTP server; port 0 for any"
    )
    metrics_port: int = setting(9103, min=0, max=65535, help="Prometheus endpoint; 0 for any")
    generator_ca_file: str = setting(
        "", help="authorities of the generator's certificate, PEM; empty: call it without TLS"
    )
    generator_cert_file: str = setting(
        "",
        help="own certificate chain for the generator, PEM, where it asks for one; it, its key and"
        " the authorities are read anew if changed",
    )
    generator_key_file: str = setting("", help="its private key, PEM, without a password")
    generator_server_name: str = setting(
        "", help="in the generator's certificate, if not the host of its address"
    )
    passes_plaintext_tokens: bool = setting(
        False,
        help="pass callers' tokens on to another machine without TLS, to be read on the way;"
        " else they are left out there, and a generator that asks for them refuses",
    )
    tls_cert_file: str = setting(
        "",
        help="certificate chain of the HTTP server, PEM; empty: HTTP; read anew if changed",
    )
    tls_key_file: str = setting("", help="its private key, PEM, without a password")
    request_timeout_s: float = setting(
        300.0, min=0.1, max=86400, help="longest answer; a request may ask for less"
    )
    body_timeout_s: float = setting(
        10.0, min=0.1, max=600, help="a request's head, and its body, must arrive within this"
    )
    send_timeout_s: float = setting(
        30.0, min=0.1, max=3600, help="a caller that reads nothing of a stream for this is given up"
    )
    keep_alive_s: int = setting(30, min=1, max=3600, help="an idle connection is closed after this")
    max_body_bytes: int = setting(1 << 20, min=1024, max=64 << 20, help="largest body that is read")
    max_requests: int = setting(
        512, min=1, max=100_000, help="requests in work at once; more are refused with 429"
    )
    max_connections: int = setting(
        4096,
        min=2,
        max=1_000_000,
        help="connections open at once, more than requests in work: one more takes the place of the"
        " one that has waited longest for a request",
    )
    max_choices: int = setting(
        8, min=1, max=128, help="most answers to one request: its prompts times n"
    )
    if_no_profile: str = setting(
        "error",
        choices=PROFILE_RULES,
        help="where `user` has no profile and the request does not say: refuse, or answer as the"
        " base model",
    )
    cors_origins: tuple[str, ...] = setting(
        (), help="web pages that may call: https://host, or * for all; empty: none"
    )
    drain_s: float = setting(30.0, min=0, max=3600, help="running answers get this to finish")
    traces_endpoint: str = setting(
        "",
        help="host:port of a collector that speaks OTLP over gRPC, for traces; empty: none",
    )
    traces_ca_file: str = setting(
        "", help="authorities of the collector's certificate, PEM; empty: plain text"
    )
    traces_sample_ratio: float = setting(
        1.0,
        min=0,
        max=1,
        help="share of the requests that come without a trace that get one; of the others"
        " whoever began their trace decides",
    )
    log_level: str = setting("info", choices=LEVELS, help="least level that is logged")
