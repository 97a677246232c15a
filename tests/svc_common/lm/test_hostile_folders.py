"""A model folder is data: nothing in it is run, and it names nothing outside of it."""

import io
import json
import pickle
import shutil
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reward_svc.model import load_pers_rm
from reward_svc.pad_config import Conditioning
from reward_svc.preference_encoders import FolderEncoder
from reward_svc.settings import RewardSettings
from svc_common.errors import InvalidRequestError
from svc_common.lm.loading import ModelFolderError, load_model
from svc_common.preference_prompt import ChatMessage
from tests.reward_svc.replica import save_conditioned, save_folders
from tests.reward_svc.small_encoder import save_small_encoder
from tests.svc_common.lm.canary import write_pickles
from tests.tiny_model import save_tiny_model

# peft asks a property of models that transformers is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")
WEIGHTS = "model.safetensors"
KINDS = ["zip", "old", "plain"]


def load(folder: Path) -> object:
    return load_model(
        folder, dtype="float32", device="cpu", context_length=64, setting="X_MODEL_DIR"
    )


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "model")


@pytest.fixture
def sign(tmp_path: Path) -> Path:
    return tmp_path / "sign"


@pytest.mark.parametrize("kind", KINDS)
def test_the_canaries_do_sing(tmp_path: Path, sign: Path, kind: str) -> None:
    """Else the tests below would show nothing."""
    write_pickles(tmp_path / "x.bin", sign, kind)
    data = (tmp_path / "x.bin").read_bytes()
    if kind == "plain":
        pickle.loads(data)
    else:
        torch.load(io.BytesIO(data), weights_only=False)
    assert sign.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "pytorch_model.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "training_args.bin",
        "tokenizer.pkl",
        "tokenizer.model",
        "chat_template.json",
    ],
)
def test_no_file_of_a_model_folder_is_unpickled(
    folder: Path, sign: Path, name: str, kind: str
) -> None:
    write_pickles(folder / name, sign, kind)
    with suppress(ModelFolderError):  # a file that is not read does no harm
        load(folder)
    if name == "pytorch_model.bin":
        (folder / WEIGHTS).unlink()
        with pytest.raises(ModelFolderError, match=r"must hold weights as \*.safetensors"):
            load(folder)
    assert not sign.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["value_head.bin", "value_head.safetensors"])
def test_no_value_head_is_unpickled(tmp_path: Path, sign: Path, name: str, kind: str) -> None:
    settings = replace(save_folders(tmp_path), value_head="required")
    write_pickles(settings.model_dir / name, sign, kind)
    rule = "must hold value_head.safetensors, has value_head.bin, a pickle, which is not read;"
    if name.endswith("safetensors"):
        rule = r"value_head\.safetensors: cannot be read"
    with pytest.raises(ModelFolderError, match=rule):
        load_pers_rm(settings)
    assert not sign.exists()


@pytest.mark.parametrize("name", ["vector_head.safetensors", "adapter_model.bin"])
def test_nothing_that_makes_vectors_is_unpickled(tmp_path: Path, sign: Path, name: str) -> None:
    settings: RewardSettings = save_conditioned(tmp_path, Conditioning.VECTOR)
    if name.startswith("vector"):
        write_pickles(settings.model_dir / name, sign, "zip")
        with pytest.raises(ModelFolderError, match=r"vector_head\.safetensors: cannot be read"):
            load_pers_rm(settings)
    else:
        encoder = save_small_encoder(tmp_path / "encoder")
        write_pickles(encoder / name, sign, "zip")
        (encoder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
        with pytest.raises(ModelFolderError, match=r"encoder: cannot be loaded: .* holds both"):
            FolderEncoder(encoder, "cpu")
    assert not sign.exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors"])
def test_no_adapter_is_unpickled(tmp_path: Path, folder: Path, sign: Path, name: str) -> None:
    pytest.importorskip("peft")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "../model"}
    config |= {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    write_pickles(adapter / name, sign, "zip")
    with pytest.raises(ModelFolderError, match="adapter: "):
        load(adapter)
    assert not sign.exists()


def test_an_adapter_beside_a_base_model_is_not_added_to_it(tmp_path: Path, sign: Path) -> None:
    """transformers would, from a pickle if need be."""
    base = save_tiny_model(tmp_path / "base")
    (base / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    write_pickles(base / "adapter_model.bin", sign, "zip")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "../base"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    shutil.copy(base / WEIGHTS, adapter / "adapter_model.safetensors")
    for hostile in (base, adapter):
        with pytest.raises(ModelFolderError, match="holds both"):
            load(hostile)
    assert not sign.exists()


@pytest.mark.parametrize(
    "where",
    [
        "../outside.safetensors",
        "/outside.safetensors",
        "sub/x.safetensors",
        "x.bin",
        "no.safetensors",
    ],
)
def test_an_index_of_weights_names_safetensors_of_its_folder_alone(
    tmp_path: Path, folder: Path, sign: Path, where: str
) -> None:
    shutil.copy(folder / WEIGHTS, tmp_path / "outside.safetensors")
    (folder / "sub").mkdir()
    shutil.copy(folder / WEIGHTS, folder / "sub/x.safetensors")
    write_pickles(folder / "x.bin", sign, "zip")
    (folder / WEIGHTS).rename(folder / "part.safetensors")
    where = str(tmp_path) + where if where.startswith("/") else where
    index = {"metadata": {}, "weight_map": {"a": "part.safetensors", "b": where}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFolderError, match=r"weight_map must name .* of the folder, got "):
        load(folder)
    assert not sign.exists()


AUTO_MAP = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}


@pytest.mark.parametrize("kind", ["known", "unknown"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_code_in_a_folder_is_refused_and_never_run(
    folder: Path, sign: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    """transformers would ask on standard input whether to run it."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    (folder / "evil.py").write_text(f"open({str(sign)!r}, 'w').write('code was run')\n")
    if not (folder / name).is_file():
        (folder / name).write_text("{}")
    change(folder / name, auto_map=AUTO_MAP)
    if kind == "unknown":
        change(folder / "config.json", model_type="evil")
    with pytest.raises(ModelFolderError, match=f"{name}: auto_map must be absent, as it names"):
        load(folder)
    assert not sign.exists()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("config.json", {"text_config": {"auto_map": AUTO_MAP}}, "auto_map must be absent"),
        ("config.json", {"_attn_implementation": "evil/kernels"}, "must not name code"),
        ("config.json", {"attn_implementation": "evil/kernels:x"}, "must not name code"),
        ("config.json", {"num_hidden_layers": 10**9}, r"must be 0\.\.2048, got 1000000000"),
        ("config.json", {"hidden_size": 10**12}, r"hidden_size must be 0\.\.262144, got 10"),
        ("config.json", {"vocab_size": -1}, r"vocab_size must be 0\.\.16777216, got -1"),
        ("config.json", {"x": "y" * (1 << 24)}, r"must have at most 16777216 bytes, got 16777"),
        ("adapter_config.json", {"megatron_config": {"x": 1}}, "megatron_config must be absent"),
        ("adapter_config.json", {"corda_config": {"cache_file": "x"}}, "corda_config must be"),
        ("adapter_config.json", {"lora_ga_config": {"cache_file": "x"}}, "lora_ga_config must"),
    ],
)
def test_a_setting_that_could_do_harm_is_refused_by_name(
    folder: Path, name: str, values: dict[str, object], message: str
) -> None:
    if name == "adapter_config.json":
        (folder / "config.json").unlink()
        (folder / name).write_text('{"peft_type": "LORA"}')
    change(folder / name, **values)
    with pytest.raises(ModelFolderError, match=f"X_MODEL_DIR=.*{name}: .*{message}"):
        load(folder)


@pytest.mark.parametrize("text", ["[]", "nonsense", "[" * 100_000, "\udcff"])
def test_a_configuration_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ModelFolderError, match=r"config.json: must be a JSON object"):
        load(folder)


def test_a_text_file_of_absurd_size_is_not_read(folder: Path) -> None:
    with (folder / "tokenizer.json").open("ab") as file:
        file.truncate((1 << 28) + 1)  # sparse
    with pytest.raises(ModelFolderError, match=r"tokenizer.json: must have at most 268435456"):
        load(folder)


def test_links_within_a_folder_are_followed(tmp_path: Path, folder: Path) -> None:
    """A download cache keeps all files of its snapshots elsewhere."""
    blobs = tmp_path / "blobs"
    shutil.move(folder, blobs)
    folder.mkdir()
    for path in blobs.iterdir():
        (folder / path.name).symlink_to(path)
    load(folder)


TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch SIGN') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ messages.append(1) }}",
    "{% include 'SECRET' %}",
    "{% import 'SECRET' as x %}{{ x }}",
    "{% extends 'SECRET' %}",
    "{{ range(10000000000) | list }}",
    "{{ raise_exception('no') }}",
    "{{ open('SECRET').read() }}",
    "{{ 1 / 0 }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_hostile_template_reads_nothing_and_is_an_error_of_the_request(
    folder: Path, tmp_path: Path, sign: Path, template: str
) -> None:
    """`{% include %}` ended as our own failure. A template can loop: its folder is trusted."""
    secret = tmp_path / "secret"
    secret.write_text("the canary's secret")
    text = template.replace("SIGN", str(sign)).replace("SECRET", str(secret))
    change(folder / "tokenizer_config.json", chat_template=text)
    (folder / "chat_template.jinja").write_text(text)
    loaded = load_model(
        folder, dtype="float32", device="cpu", context_length=64, setting="X_MODEL_DIR"
    )
    with pytest.raises(
        InvalidRequestError, match="chat: the model's template refuses it"
    ) as caught:
        loaded.tokenizer.encode_prompt((ChatMessage("user", "Hello."),))
    assert "canary" not in str(caught.value)
    assert not sign.exists()
