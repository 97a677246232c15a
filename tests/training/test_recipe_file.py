from pathlib import Path

import pytest

from training.recipe_file import RecipeError, flatten, read_recipe

RECIPES = Path(__file__).parents[2] / "training/recipes"
NEEDED = ("out=run", "data.train=pairs.jsonl", "model.base=base")


def read(tmp_path: Path, *overrides: str) -> dict[str, object]:
    path = tmp_path / "recipe.toml"
    path.write_text("")
    return flatten(read_recipe(path, overrides))


@pytest.mark.parametrize("name", ["demo.toml", "llama-3-8b.toml"])
def test_the_examples_are_valid(name: str) -> None:
    assert read_recipe(RECIPES / name).stage1.num_steps > 0


def test_settings_given_on_the_command_line_count(tmp_path: Path) -> None:
    settings = read(
        tmp_path, *NEEDED, "seed=7", "stage1.learning_rate=1", 'stage2.heads=["both"]',
        "model.tuning=full", "stage2.cache_hidden=true",
    )  # fmt: skip
    assert settings["seed"] == 7
    assert settings["data.train"] == ["pairs.jsonl"]
    assert settings["stage1.learning_rate"] == 1.0
    assert settings["stage2.heads"] == ["both"]
    assert settings["stage2.cache_hidden"] is True


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage1.num_step=3", "stage1.num_step: must be one of num_steps, .*no such setting"),
        ("stage3.num_steps=3", "stage3: must be one of out, seed, .*no such setting"),
        ("stage1=3", "stage1: must be a table, got 3"),
        ("stage1.num_steps=-1", "stage1.num_steps: must be at least 0, got -1"),
        ("stage1.num_steps=1.5", "stage1.num_steps: must be of type int, got 1.5"),
        ("stage1.num_steps=true", "stage1.num_steps: must be of type int, got True"),
        ("reading.final_lr_share=2", "reading.final_lr_share: must be 0.0..1.0, got 2.0"),
        ("model.tuning=half", "model.tuning: must be one of lora, full, got 'half'"),
        ('stage2.heads=["scalar"]', "stage2.heads: must be some of value, vector, both, got"),
        ('stage2.heads=["both", "both"]', "stage2.heads: must name each once"),
        ("data.train=[3]", "data.train: must be a list of texts"),
        ("data.train=[]", "data.train: must be given, is missing"),
        ("seed", "--set: must be section.setting=value, got 'seed'"),
        ("seed.x=3", "seed: must be of type int|seed.x: must be"),
    ],
)
def test_an_error_names_setting_rule_and_value(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, *NEEDED, override)


def test_a_file_that_is_no_toml_or_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[stage1")
    with pytest.raises(RecipeError, match=r"bad.toml: must be TOML"):
        read_recipe(tmp_path / "bad.toml")
    with pytest.raises(RecipeError, match=r"none.toml: cannot be read: No such file"):
        read_recipe(tmp_path / "none.toml")
