"""What a model folder may not ask for: code to run, pickles, files elsewhere, absurd sizes.

A folder comes from its operator and is trusted to be the model that is meant. But it is data: it
may name no code, in whatever file, and what it names is looked for in the folder alone. Its files
may be links, as those of a download cache are.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ADAPTER_CONFIG = "adapter_config.json"
_MAX_BYTES = {".json": 1 << 28, ".jinja": 1 << 20, ".txt": 1 << 28, ".model": 1 << 28}
_CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", ADAPTER_CONFIG)
_MAX_CONFIG_BYTES = 1 << 24  # a tokenizer_config.json that lists all added tokens has a megabyte
_MAX_NUMBERS = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 1 << 11),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head"), 1 << 14),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "head_dim"), 1 << 18),
    **dict.fromkeys(("intermediate_size", "n_inner"), 1 << 21),
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 28,
}
# Settings of adapters by which peft imports a module, or reads a pickle, named in the file.
_ADAPTER_CODE = ("megatron_config", "corda_config", "lora_ga_config")


def check_folder(folder: Path) -> None:
    """Refuse a folder that asks for more than to be read as weights and texts.

    Raises:
        ValueError: It does; the text names file, rule and value.
    """
    for path in sorted(folder.iterdir()):
        most = _MAX_BYTES.get(path.suffix)
        if most is not None and path.is_file():
            _check_size(path, most)
    if (folder / ADAPTER_CONFIG).is_file() and (folder / "config.json").is_file():
        # transformers would add the adapter to the folder's weights, be it a pickle.
        rule = "must hold a model (config.json) or an adapter"
        raise ValueError(f"{rule} ({ADAPTER_CONFIG}), holds both")
    for name in _CONFIGS:
        if (folder / name).is_file():
            _check_config(name, _read(folder / name))
    for path in sorted(folder.glob("*.safetensors.index.json")):
        _check_index(folder, path.name, _read(path))


def _read(path: Path) -> dict[str, Any]:
    _check_size(path, _MAX_CONFIG_BYTES)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: must be a JSON object: {error}") from error
    if isinstance(values, dict):
        return values
    raise ValueError(f"{path.name}: must be a JSON object, got {type(values).__name__}")


def _check_size(path: Path, most: int) -> None:
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"{path.name}: must have at most {most} bytes, got {size}")


def _check_config(name: str, values: dict[str, Any]) -> None:
    for key, value in _entries(values):
        if key == "auto_map" and value:
            rule = "auto_map must be absent, as it names code, which is never run; remove it if"
            raise ValueError(f"{name}: {rule} transformers knows the model itself, got {value!r}")
        if key.endswith("attn_implementation") and isinstance(value, str) and "/" in value:
            rule = "must not name code of a repository"
            raise ValueError(f"{name}: {key} {rule}, got {value!r}")
        if name == ADAPTER_CONFIG and key in _ADAPTER_CODE and value:
            raise ValueError(f"{name}: {key} must be absent, as it names code or pickles")
        most = _MAX_NUMBERS.get(key)
        if most is not None and isinstance(value, int) and not 0 <= value <= most:
            raise ValueError(f"{name}: {key} must be 0..{most}, got {value}")


def _entries(values: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entries of an object and of all in it."""
    if isinstance(values, dict):
        yield from values.items()
    inner = values.values() if isinstance(values, dict) else values
    for value in inner if isinstance(values, dict | list) else ():
        yield from _entries(value)


def _check_index(folder: Path, name: str, values: dict[str, Any]) -> None:
    """Refuse an index whose weights lie outside of the folder, or are pickles."""
    files = values.get("weight_map")
    for file in set(files.values()) if isinstance(files, dict) else {""}:
        is_plain = isinstance(file, str) and Path(file).name == file
        if not (is_plain and file.endswith(".safetensors") and (folder / file).is_file()):
            rule = "weight_map must name *.safetensors files of the folder"
            raise ValueError(f"{name}: {rule}, got {file!r}")
