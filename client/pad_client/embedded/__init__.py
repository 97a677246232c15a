"""Both services and a Redis-protocol server as child processes: a whole PAD server, no Docker."""

from pad_client.embedded.errors import StackError
from pad_client.embedded.redis_server import find_redis_server
from pad_client.embedded.specs import StackOptions, default_models_dir
from pad_client.embedded.stack import EmbeddedStack, StartProgress

__all__ = [
    "EmbeddedStack",
    "StackError",
    "StackOptions",
    "StartProgress",
    "default_models_dir",
    "find_redis_server",
]
