"""Whether the model folders can be served, by reading files: no model library is loaded."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pad_client.doctor.findings import Finding, fail, ok, warn

_ADAPTER_CONFIG = "adapter_config.json"
_LFS_POINTER = b"version https://git-lfs"
_MAX_HEADER_BYTES = 100 * 2**20  # as the format's own reader has it
_HEADS = {"vector": "vector_head.safetensors", "both": "both_head.safetensors"}


class _BadFileError(Exception):
    """A file is not what it should be; `advice` says what to do."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


@dataclass(frozen=True, slots=True)
class ModelFolders:
    """Where the base model and the personalised reward model are."""

    base: Path
    persrm: Path


def check_models(folders: ModelFolders) -> Iterator[Finding]:
    """Look at both folders, and at whether they go together."""
    fingerprints = {}
    for check, folder in (("models.base", folders.base), ("models.persrm", folders.persrm)):
        try:
            yield ok(check, _check_folder(folder))
        except _BadFileError as error:
            yield fail(check, str(error), error.advice)
        if not folder.is_dir():
            continue
        try:
            fingerprints[check] = tokenizer_fingerprint(folder)
        except _BadFileError as error:
            yield fail(f"{check}.tokenizer", str(error), error.advice)
    if len(fingerprints) == 2:
        yield _compare(folders, *fingerprints.values())
    yield from _check_chat_template(folders.base)
    yield from _check_pad_config(folders.persrm)


def tokenizer_fingerprint(folder: Path) -> str:
    """Return what a service calls its tokenizer's fingerprint, from the file alone."""
    path = folder / "tokenizer.json"
    values = _read_json(path, "copy the tokenizer of the model beside its weights")
    try:
        words = values["model"]["vocab"]
        if isinstance(words, list):  # Unigram: pairs of text and score, by id
            words = {text: number for number, (text, _) in enumerate(words)}
        words = {**words, **{each["content"]: each["id"] for each in values["added_tokens"] or ()}}
    except (KeyError, TypeError, ValueError) as error:
        rule = f"{path}: must be a tokenizer of the library tokenizers"
        raise _BadFileError(rule, "save it with save_pretrained() of a fast tokenizer") from error
    return hashlib.sha256(json.dumps(sorted(words.items())).encode()).hexdigest()[:16]


def weight_bytes(folder: Path) -> int:
    """Return how large the weights of a folder are; 0 if there are none."""
    return sum(path.stat().st_size for path in folder.glob("*model*.safetensors"))


def _compare(folders: ModelFolders, base: str, persrm: str) -> Finding:
    if base == persrm:
        return ok("models.tokenizers", f"the same vocabulary ({base})")
    return fail(
        "models.tokenizers",
        f"{folders.base.name} has {base}, {folders.persrm.name} has {persrm}",
        "take models of one tokenizer: with different ones every guided request is refused",
    )


def _check_folder(folder: Path) -> str:
    """Return what kind of model it is."""
    if not folder.is_dir():
        advice = "name the folder of both with --models, or get the models: git checkout -- models"
        raise _BadFileError(f"no folder {folder}", advice)
    if (folder / _ADAPTER_CONFIG).is_file():
        config = _read_json(folder / _ADAPTER_CONFIG, "save the adapter again")
        kind = f"adapter of {config.get('base_model_name_or_path')}"
        files = [folder / "adapter_model.safetensors"]
    else:
        config = _read_json(folder / "config.json", "save the model with save_pretrained()")
        kind = config.get("model_type") or ""
        if not kind:
            rule = f"{folder / 'config.json'}: model_type must be given"
            raise _BadFileError(rule, "save the model with save_pretrained()")
        files = _weights(folder)
    num_tensors = sum(_read_header(path) for path in files)
    total_mb = sum(path.stat().st_size for path in files) / 1e6
    return f"{folder}: {kind}, {num_tensors} tensors, {total_mb:.0f} MB"


def _weights(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = _read_json(index, "get the model again").get("weight_map")
        if not isinstance(names, dict):
            raise _BadFileError(f"{index}: weight_map must be an object", "get the model again")
        return [folder / str(name) for name in sorted(set(names.values()))]
    return [folder / "model.safetensors"]


def _read_header(path: Path) -> int:
    """Return how many tensors a safetensors file holds, all of them in it to the last byte."""
    advice = "get the file again: it is cut short or of another kind"
    try:
        with path.open("rb") as file:
            start = file.read(8)
            if start and _LFS_POINTER.startswith(start):
                raise _BadFileError(f"{path}: is a pointer of Git LFS", "git lfs pull")
            size = int.from_bytes(start, "little")
            header = file.read(size) if len(start) == 8 and size <= _MAX_HEADER_BYTES else b""
    except OSError as error:
        if list(path.parent.glob("*.bin")):
            advice = "convert the *.bin to safetensors: pickles are never read"
        raise _BadFileError(f"{path}: {error.strerror}", advice) from error
    try:
        entries = json.loads(header)
        tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
        end = 8 + size + max(entry["data_offsets"][1] for entry in tensors.values())
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise _BadFileError(f"{path}: has no safetensors header", advice) from error
    if end != path.stat().st_size:
        found = f"{path}: must have {end} bytes, has {path.stat().st_size}"
        raise _BadFileError(found, advice)
    return len(tensors)


def _check_chat_template(base: Path) -> Iterator[Finding]:
    if not base.is_dir():
        return
    path = base / "tokenizer_config.json"
    config = {}
    if path.is_file():
        try:
            config = _read_json(path, "save the tokenizer again")
        except _BadFileError as error:
            yield fail("models.chat_template", str(error), error.advice)
            return
    if config.get("chat_template") or (base / "chat_template.jinja").is_file():
        yield ok("models.chat_template", f"{base.name} has one")
        return
    yield warn(
        "models.chat_template",
        f"{base.name} has none: conversations are refused, plain prompts are continued",
        "put the model's chat_template.jinja into its folder",
    )


def _check_pad_config(persrm: Path) -> Iterator[Finding]:
    path = persrm / "pad_config.json"
    if not path.is_file():
        return
    try:
        conditioning = _read_json(path, "write it as docs/train-your-own.md says").get(
            "conditioning", "prompt"
        )
    except _BadFileError as error:
        yield fail("models.pad_config", str(error), error.advice)
        return
    head = _HEADS.get(conditioning)
    if conditioning not in ("prompt", *_HEADS):
        yield fail(
            "models.pad_config",
            f"conditioning must be prompt, vector or both, got {conditioning!r}",
            f"correct {path}",
        )
    elif head and not (persrm / head).is_file():
        found = f"conditioning {conditioning} needs {head}, which is not in {persrm}"
        yield fail("models.pad_config", found, "train stage 2: docs/train-your-own.md")
    else:
        yield ok("models.pad_config", f"conditioning {conditioning}")


def _read_json(path: Path, advice: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _BadFileError(f"{path}: {error.strerror}", advice) from error
    except ValueError as error:
        raise _BadFileError(f"{path}: must be JSON: {error}", advice) from error
    if not isinstance(values, dict):
        raise _BadFileError(f"{path}: must be a JSON object", advice)
    return values
