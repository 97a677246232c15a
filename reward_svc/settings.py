"""Settings of the reward service, read once from `REWARD_*`."""

from dataclasses import dataclass
from pathlib import Path

from svc_common.addresses import check_listen, check_probe_listen
from svc_common.lm.loading import DTYPES
from svc_common.lm.networks import FORWARDS
from svc_common.logs import LEVELS
from svc_common.settings import setting

PREFIX = "REWARD_"


@dataclass(frozen=True)
class RewardSettings:
    """What an operator can choose; fields without a default must be set."""

    model_dir: Path = setting(help="folder of the reward model")
    backbone_dir: str = setting(
        "",
        help="folder of the reward model's frozen backbone, the reference of the paper's rule;"
        " empty: only REFERENCE_MODE_BASE is offered",
    )
    conditioning: str = setting(
        "auto",
        choices=("auto", "prompt", "vector", "both"),
        help="how a preference reaches the model: in its `prompt`, as a `vector` on the last hidden"
        " state, or `both`; `auto`: as the folder's pad_config.json says, else `prompt`",
    )
    value_head: str = setting(
        "auto",
        choices=("auto", "required", "stage1"),
        help="whether the model folder must hold a value head: `auto` asks for one unless the"
        ' folder\'s pad_config.json says {"stage": 1}; `stage1` runs without. Conditioning'
        " `prompt` alone uses one",
    )
    listen: str = setting(
        "0.0.0.0:50052", check=check_listen, help="host:port of the gRPC server; port 0: any free"
    )
    metrics_port: int = setting(
        9102, min=0, max=65535, help="port of the Prometheus endpoint; 0: any free"
    )
    dtype: str = setting("float32", choices=tuple(DTYPES), help="number format of the weights")
    device: str = setting("cpu", help="torch device, for example cpu or cuda:0")
    forward: str = setting(
        "auto",
        choices=FORWARDS,
        help="`lean` is our own, for Llama, Mistral, Qwen2 and Gemma; `graphs`: the same, with"
        " decode steps recorded as CUDA graphs; `auto`: where the model is known, graphs on a GPU"
        " and lean on a CPU",
    )
    num_torch_threads: int = setting(1, min=1, max=256, help="CPU threads of a forward")
    num_slots: int = setting(
        64,
        min=2,
        max=4096,
        help="rows of the KV cache; a session takes one a preference (one for all with conditioning"
        " `vector`) and one for the reference",
    )
    context_length: int = setting(
        1024, min=16, help="most tokens of prompt and answer together; the model's limit if less"
    )
    prefill_chunk: int = setting(
        256, min=1, help="most tokens of new sessions that are run between two steps"
    )
    max_prefill_s: float = setting(
        0.05,
        min=0,
        max=60,
        help="seconds that new sessions may add to the time between two steps of running ones:"
        " fewer tokens are run then, though never under 16",
    )
    max_prefix_cache_bytes: int = setting(
        1 << 28,
        min=0,
        help="keys and values of preferences and prompts that are kept for sessions to come;"
        " 0: none",
    )
    max_prefix_age_s: float = setting(
        3600.0,
        min=1,
        max=604_800,
        help="seconds after which these are dropped: so long a replica that was not told of an"
        " erasure may remember",
    )
    max_waiting_sessions: int = setting(
        64, min=1, help="sessions and whole-answer requests that may wait for their prefill"
    )
    drain_s: float = setting(
        30.0, min=0.0, help="seconds that running sessions get to finish after SIGTERM"
    )
    drain_delay_s: float = setting(
        0.25,
        min=0.0,
        max=600.0,
        help="seconds after SIGTERM in which calls are still taken, while health says NOT_SERVING;"
        " generators move their sessions in that time",
    )
    fault_points: str = setting(
        "",
        help="path of a unix socket through which a test breaks this process's messages; never set"
        " where anyone is served",
    )
    tls_cert_file: str = setting(
        "",
        help="certificate chain of the gRPC server, PEM; empty: plain text; read anew if changed",
    )
    tls_key_file: str = setting("", help="its private key, PEM, without a password")
    tls_client_ca_file: str = setting(
        "", help="authorities of client certificates, PEM; if set, every caller must show one"
    )
    allowed_clients: tuple[str, ...] = setting(
        (), help="names in client certificates that may call; empty: all of those authorities"
    )
    tokens_file: str = setting(
        "",
        help="tokens with the scope `score`, as `pad token new` writes them, read anew if changed;"
        " empty: none is asked for",
    )
    health_listen: str = setting(
        "",
        check=check_probe_listen,
        help="host:port that answers health probes alone, in plain text; empty: none",
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
    log_level: str = setting("info", choices=LEVELS, help="least level that is logged")
    max_message_bytes: int = setting(
        4 * 1024 * 1024, min=1024, help="bytes of the largest message that is read"
    )
    max_calls: int = setting(
        2048,
        min=0,
        max=1_000_000,
        help="RPCs under way at once, of all generators; more are refused; 0: any",
    )
    max_connection_calls: int = setting(
        512,
        min=0,
        max=1_000_000,
        help="RPCs under way at once on one connection; more are refused; 0: any",
    )
    max_connection_idle_s: float = setting(
        300.0,
        min=0,
        max=31_536_000,
        help="seconds after which a connection without a call is told to go; 0: never",
    )
    max_connections: int = setting(
        1024,
        min=0,
        max=1_000_000,
        help="connections open at once; one more is closed as soon as it is made; 0: any",
    )
