"""Settings of the playground, read once from `PLAYGROUND_*` variables."""

from dataclasses import dataclass

from edge_svc.settings import check_generators
from svc_common.addresses import check_http_listen
from svc_common.logs import LEVELS
from svc_common.settings import setting

PREFIX = "PLAYGROUND_"


@dataclass(frozen=True)
class PlaygroundSettings:
    """Everything an operator can set; see docs/playground.md for the table made from this."""

    generator: tuple[str, ...] = setting(
        check=check_generators,
        help="generators: host:port (a name may stand for many) or unix:path; several must be IPs",
    )
    shown_generator: str = setting(
        "", help="address in copied requests, where the page's reader reaches it by another one"
    )
    listen: str = setting(
        "127.0.0.1:8080", check=check_http_listen, help="address of the HTTP server; port 0 for any"
    )
    hosts: tuple[str, ...] = setting(
        ("localhost", "127.0.0.1", "[::1]"),
        help="names the page may be called by, without ports; any other is refused, so that a"
        " foreign web page whose name leads here gets nothing",
    )
    presets: str = setting(
        "", help="dimensions and levels for the sliders, TOML; empty: those of the client"
    )
    tls: bool = setting(False, help="call the generator with TLS; implied by the files below")
    ca_file: str = setting("", help="authorities of the generator's certificate, PEM")
    cert_file: str = setting("", help="own certificate chain, PEM, where the generator asks for it")
    key_file: str = setting("", help="its private key, PEM, without a password")
    server_name: str = setting(
        "", help="in the generator's certificate, if not the host of its address"
    )
    token_file: str = setting(
        "", help="API token for the generator; whoever reaches the page acts by it"
    )
    allow_plaintext_token: bool = setting(
        False, help="send the token unencrypted to another machine"
    )
    request_timeout_s: float = setting(120.0, min=0.1, max=86400, help="longest answer")
    body_timeout_s: float = setting(
        10.0, min=0.1, max=600, help="a request's body must arrive within this"
    )
    send_timeout_s: float = setting(
        30.0, min=0.1, max=3600, help="a page that reads nothing of an answer for this is given up"
    )
    keep_alive_s: int = setting(30, min=1, max=3600, help="an idle connection is closed after this")
    max_body_bytes: int = setting(
        256 << 10, min=1024, max=64 << 20, help="largest body that is read"
    )
    max_requests: int = setting(
        64, min=1, max=100_000, help="requests in work at once; more are refused"
    )
    max_connections: int = setting(
        512,
        min=2,
        max=1_000_000,
        help="connections open at once, more than requests in work: one more takes the place of the"
        " one that has waited longest for a request",
    )
    drain_s: float = setting(2.0, min=0, max=3600, help="running answers get this to finish")
    log_level: str = setting("info", choices=LEVELS, help="least level that is logged")
