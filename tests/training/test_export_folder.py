"""Folders that an export may write to, and those it would destroy."""

from pathlib import Path

import pytest

from tests.tiny_model import save_tiny_model, tiny_tokenizer
from tests.training.recipes import tiny_recipe, write_recipe
from training.export import check_export
from training.recipe import Recipe
from training.recipe_file import RecipeError
from training.train import main


def recipe_for(folder: Path, target: str, *overrides: str) -> Recipe:
    """Return a recipe that exports to `target`, seen from `folder`."""
    return tiny_recipe(folder, f"export.dir={folder / target}", *overrides)


@pytest.mark.parametrize("target", ["base", "base/../base", ".", "link"])
def test_a_folder_that_is_or_holds_the_base_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "base", target_is_directory=True)
    with pytest.raises(RecipeError, match=r"^export.dir: must not be or hold model.base \("):
        check_export(recipe_for(tmp_path, target))


def test_a_base_is_refused_though_it_is_a_reward_model(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, "base")
    (tmp_path / "base/pad_config.json").write_text('{"stage": 1}')
    with pytest.raises(RecipeError, match=r"^export.dir: must not be or hold model.base \("):
        check_export(recipe)


def test_the_runs_own_model_is_refused_as_its_base(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "run/model")
    with pytest.raises(RecipeError, match=r"^export.dir: must not be or hold model.base \("):
        check_export(tiny_recipe(tmp_path, f"model.base={base}"))


@pytest.mark.parametrize("target", ["encoders/small", "encoders", "encoders/small/persrm"])
def test_a_folder_that_is_holds_or_lies_in_the_encoder_is_refused(
    tmp_path: Path, target: str
) -> None:
    encoder = tmp_path / "encoders/small"
    encoder.mkdir(parents=True)
    with pytest.raises(RecipeError, match=r"^export.dir: must not .* stage2.encoder \("):
        check_export(recipe_for(tmp_path, target, f"stage2.encoder={encoder}"))


def test_an_encoder_of_the_reward_model_that_is_replaced_is_refused(tmp_path: Path) -> None:
    encoder = tmp_path / "persrm/preference_encoder"
    encoder.mkdir(parents=True)
    (tmp_path / "persrm/pad_config.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"^export.dir: must not be or hold stage2.encoder \("):
        check_export(recipe_for(tmp_path, "persrm", f"stage2.encoder={encoder}"))


def test_the_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^export.dir: must be another folder than the run's"):
        check_export(recipe_for(tmp_path, "run"))


@pytest.mark.parametrize(
    "file", ["config.json", "weights.safetensors", "value_head.bin", "adapter/notes.txt"]
)
def test_a_folder_with_another_model_is_refused(tmp_path: Path, file: str) -> None:
    path = tmp_path / "other" / file
    path.parent.mkdir(parents=True)
    path.touch()
    rule = r"must be new, or hold a reward model \(pad_config.json\)"
    held = file.split("/")[0]
    with pytest.raises(RecipeError, match=rf"^export.dir: {rule}, got .*which holds {held}$"):
        check_export(recipe_for(tmp_path, "other"))


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with pytest.raises(RecipeError, match=r"^export.dir: must be a folder, got the file "):
        check_export(recipe_for(tmp_path, "other"))


def test_new_and_tokenizer_folders_and_earlier_reward_models_are_allowed(tmp_path: Path) -> None:
    check_export(recipe_for(tmp_path, "new"))
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    check_export(recipe_for(tmp_path, "tokenizer"))
    save_tiny_model(tmp_path / "persrm")
    (tmp_path / "persrm/pad_config.json").write_text('{"stage": 1}')
    check_export(recipe_for(tmp_path, "persrm"))
    check_export(recipe_for(tmp_path, "base/persrm"))  # within the base nothing of it is replaced


def test_the_command_refuses_before_training_and_leaves_the_base_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = write_recipe(tmp_path)
    before = (tmp_path / "base/model.safetensors").read_bytes()
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--set", f"export.dir={tmp_path / 'base'}"])
    assert caught.value.code == 2
    assert "export.dir: must not be or hold model.base" in capsys.readouterr().err
    assert (tmp_path / "base/model.safetensors").read_bytes() == before
    assert not (tmp_path / "run").exists()
