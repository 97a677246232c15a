"""Settings of the generator service, read once from `GENERATOR_*` variables."""

from dataclasses import dataclass
from pathlib import Path

from svc_common.addresses import check_listen, check_probe_listen, check_targets
from svc_common.lm.loading import DTYPES
from svc_common.lm.networks import FORWARDS
from svc_common.logs import LEVELS
from svc_common.settings import setting

PREFIX = "GENERATOR_"


@dataclass(frozen=True)
class GeneratorSettings:
    """Everything an operator can set; see docs/settings.md for the table made from this."""

    model_dir: Path = setting(help="folder of the base model")
    reward_targets: tuple[str, ...] = setting(
        check=check_targets,
        help="reward replicas: host:port (a name may stand for many) or unix:path; empty: there are"
        " none, only the base model writes",
    )
    redis_url: str = setting(
        help="profile store: redis://host:port/db, rediss:// for TLS, or unix:///path; of a Redis"
        " Cluster one node or more: redis://host:port,host:port"
    )
    redis_cluster: bool = setting(False, help="whether the profile store is a Redis Cluster")
    redis_password_file: str = setting(
        "",
        help="password of the store, or user and password with a blank between, alone in the file;"
        " read anew for each connection",
    )
    listen: str = setting(
        "0.0.0.0:50051", check=check_listen, help="address of the gRPC server; port 0 for any"
    )
    metrics_port: int = setting(9101, min=0, max=65535, help="Prometheus endpoint; 0 for any")
    dtype: str = setting("float32", choices=tuple(DTYPES), help="of weights and KV cache")
    device: str = setting("cpu", help="torch device, for example cuda:0")
    forward: str = setting(
        "auto",
        choices=FORWARDS,
        help="`lean` is our own, for Llama, Mistral, Qwen2 and Gemma; `graphs`: the same, with"
        " decode steps recorded as CUDA graphs; `auto`: where the model is known, graphs on a GPU"
        " and lean on a CPU",
    )
    num_torch_threads: int = setting(1, min=1, max=256, help="CPU threads of a forward")
    num_slots: int = setting(32, min=1, max=1024, help="answers written at once")
    max_waiting: int = setting(256, min=0, max=100_000, help="requests that may wait for a slot")
    context_length: int = setting(
        1024, min=16, max=1_000_000, help="most tokens of prompt and answer; at most the model's"
    )
    prefill_chunk: int = setting(
        256, min=1, max=65536, help="most prompt tokens that are run in one step"
    )
    max_prefill_s: float = setting(
        0.05,
        min=0,
        max=60,
        help="seconds that reading prompts may add to a step while answers are written: fewer"
        " tokens are run then, though never under 16",
    )
    max_prefix_cache_bytes: int = setting(
        1 << 28, min=0, help="keys and values of prompts that are kept for prompts to come; 0: none"
    )
    max_prefix_age_s: float = setting(
        3600.0, min=1, max=604_800, help="seconds after which these are dropped"
    )
    runs_ahead: bool = setting(
        True,
        help="go on with the base model's own choice while rewards are on their way, where that"
        " pays; the text is the same",
    )
    shares_reference: bool = setting(
        True,
        help="where a replica's reference is this base model, use our own log-probabilities instead"
        " of running it there a second time",
    )
    max_tokens: int = setting(512, min=1, max=1_000_000, help="most tokens a request may ask for")
    max_top_k: int = setting(100, min=1, max=10_000, help="largest K a request may ask for")
    default_beta: float = setting(
        1.0, min=0, max=10, help="guidance strength where neither request nor profile names one"
    )
    reward_step_timeout_s: float = setting(
        2.0, min=0.01, max=600, help="a replica that owes rewards longer than this is given up"
    )
    reward_open_timeout_s: float = setting(
        5.0, min=0.01, max=600, help="a request without a reward session longer than this fails"
    )
    reward_resolve_interval_s: float = setting(
        2.0, min=0.1, max=3600, help="how often reward names are looked up"
    )
    profile_ttl_s: float = setting(
        30.0, min=0, max=3600, help="how long a profile is kept in process"
    )
    profile_stale_s: float = setting(
        600.0, min=0, max=86400, help="how long a kept profile serves while Redis is down"
    )
    profile_history: int = setting(
        10,
        min=0,
        max=1000,
        help="earlier revisions that are kept of each profile, so that a change can be undone, of"
        " 512 KB together; 0: none. Fewer than before take effect with a profile's next write",
    )
    encoding_ttl_s: float = setting(
        86400.0, min=1, max=31_536_000, help="how long Redis keeps a preference's encoding"
    )
    encodings_ahead_per_s: float = setting(
        20.0,
        min=0,
        max=100_000,
        help="encodings of stored preferences that are computed a second in the background where a"
        " new version of a reward model with vectors is in reach; 0: each at its first use",
    )
    guidelines_file: str = setting(
        "",
        help="text that stands before preferences where these stand in the base model's prompt,"
        " for example that they are data about style; empty: none, as the models were measured",
    )
    tenant: str = setting("default", help="under which profiles are kept")
    start_wait_s: float = setting(
        60.0,
        min=0,
        max=86400,
        help="seconds that the start waits until profile store and rewards have answered; calls are"
        " then taken without them",
    )
    drain_s: float = setting(30.0, min=0, max=3600, help="running answers get this to finish")
    drain_delay_s: float = setting(
        0.25,
        min=0,
        max=600,
        help="seconds after SIGTERM in which calls are still taken, while health says NOT_SERVING:"
        " what balances calls needs as long to see that",
    )
    max_stall_s: float = setting(
        60.0,
        min=0.1,
        max=86400,
        help="an answer of which its reader takes nothing so long ends, and a call whose request"
        " does not arrive",
    )
    max_calls: int = setting(
        8192,
        min=0,
        max=1_000_000,
        help="RPCs under way at once, of all callers, waiting ones too; more are refused; 0: any",
    )
    max_connection_calls: int = setting(
        2048,
        min=0,
        max=1_000_000,
        help="RPCs under way at once on one connection; more are refused; 0: any",
    )
    max_connection_age_s: float = setting(
        1800.0,
        min=0,
        max=31_536_000,
        help="seconds after which a connection takes no more calls, so that clients meet new"
        " servers and keys; those under way go on; 0: never",
    )
    max_connection_idle_s: float = setting(
        300.0,
        min=0,
        max=31_536_000,
        help="seconds after which a connection without a call is told to go; 0: never",
    )
    max_connections: int = setting(
        4096,
        min=0,
        max=1_000_000,
        help="connections open at once; one more is closed as soon as it is made; 0: any",
    )
    max_message_bytes: int = setting(
        1 << 20, min=1024, max=64 << 20, help="largest request that is read"
    )
    fault_points: str = setting(
        "",
        help="path of a unix socket through which a test breaks this process's messages; never set"
        " where anyone is served",
    )
    max_waiting_tokens: int = setting(
        1 << 18,
        min=1,
        max=1 << 40,
        help="tokens that waiting requests may claim: of prompts, and the most they may write",
    )
    tenant_max_concurrent: int = setting(
        0, min=0, max=1_000_000, help="answers of one tenant that wait or are written; 0: any"
    )
    tenant_tokens_per_minute: int = setting(
        0, min=0, max=1 << 40, help="tokens one tenant may use a minute, prompts too; 0: any"
    )
    tenant_limits_file: str = setting(
        "",
        help="JSON file of tenants with limits of their own: `max_concurrent`,"
        " `tokens_per_minute` and `weight`, a share of the starts while some wait",
    )
    tls_cert_file: str = setting(
        "",
        help="certificate chain of the gRPC server, PEM; empty: plain text; read anew if changed",
    )
    tls_key_file: str = setting("", help="its private key, PEM, without a password")
    tls_client_ca_file: str = setting(
        "", help="authorities of client certificates, PEM; if set, every caller must show one"
    )
    tokens_file: str = setting(
        "",
        help="API tokens, as `pad token new` writes them, read anew if changed; empty: every caller"
        " is the one tenant",
    )
    health_listen: str = setting(
        "",
        check=check_probe_listen,
        help="host:port that answers health probes alone, in plain text; empty: none",
    )
    reward_ca_file: str = setting(
        "", help="authorities of the reward replicas' certificates, PEM; empty: plain text"
    )
    reward_cert_file: str = setting(
        "", help="own certificate for reward replicas, PEM; read anew for each connection"
    )
    reward_key_file: str = setting("", help="its private key, PEM, without a password")
    reward_server_name: str = setting(
        "", help="name in the replicas' certificates; empty: the address of each"
    )
    reward_token_file: str = setting(
        "", help="token for reward replicas, alone in the file; read anew if changed"
    )
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
    traces_step_ratio: float = setting(
        0.0,
        min=0,
        max=1,
        help="share of the traced answers whose trace tells of each step (of the first 256)",
    )
    log_level: str = setting("info", choices=LEVELS, help="least level that is logged")
