"""Random-weight pairs load as the services load them."""

from pathlib import Path

import pytest

from benchmarks.make_models import BASE, THETA, pair_dir
from benchmarks.prompts import make_prompts, pair_tokenizer
from reward_svc.model import PersRM, load_pers_rm
from reward_svc.settings import RewardSettings
from svc_common.lm.loading import load_model

# peft asks a property of models that transformers is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")


def load(pair: Path) -> PersRM:
    return load_pers_rm(RewardSettings(model_dir=pair / THETA, backbone_dir=str(pair / BASE)))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_theta_differs_a_little_from_its_reference(cache: Path, kind: str) -> None:
    model = load(pair_dir(f"tiny-{kind}", cache))
    assert model.has_reference
    runner = model.new_runner(2)
    ids = list(range(10, 40))
    theta = runner.append(runner.open(0), ids)
    reference = runner.append(runner.open(1), ids)
    difference = (theta - reference).abs().max() / reference.abs().max()
    assert 1e-4 < difference < 0.9


def test_an_adapter_shares_the_weights_of_its_base(cache: Path) -> None:
    lora, full = (load(pair_dir(f"tiny-{kind}", cache)) for kind in ("lora", "full"))
    assert lora.network.lean is not None
    assert lora.network.lean.embedding.second is None
    assert full.network.lean is not None
    assert full.network.lean.embedding.second is not None


@pytest.mark.parametrize("name", ["tiny-full", "paced-full"])
def test_every_token_has_a_text_and_prompts_have_their_length(cache: Path, name: str) -> None:
    pair = pair_dir(name, cache)
    tokenizer = pair_tokenizer(pair)
    vocabulary = load_model(
        pair / BASE, dtype="float32", device="cpu", context_length=64, setting="x"
    ).model.config.vocab_size
    assert all(tokenizer.token_text(i) for i in range(vocabulary))
    texts = make_prompts(tokenizer, [5, 64, 64])
    assert [len(tokenizer.encode_prompt(text)) for text in texts] == [5, 64, 64]
    assert len(set(texts)) == 3


def test_a_pair_is_made_once(cache: Path) -> None:
    folder = pair_dir("tiny-full", cache)
    written = (folder / BASE / "model.safetensors").stat().st_mtime_ns
    assert pair_dir("tiny-full", cache) == folder
    assert (folder / BASE / "model.safetensors").stat().st_mtime_ns == written
    assert not list(cache.glob("*.part"))
