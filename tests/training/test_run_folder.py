"""A run folder belongs to one run at a time, and to the inputs that it was begun with."""

from pathlib import Path

import pytest
from accelerate import PartialState

from tests.training.recipes import tiny_recipe
from training.failures import FOLDER_VARIABLE, Failure, first_failure, note_failure
from training.recipe_file import RecipeError
from training.run_folder import RunFolder, run_lock


def test_a_second_run_in_the_folder_is_refused_while_the_first_one_goes_on(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    with (
        run_lock(recipe),
        pytest.raises(RecipeError, match=f"^out: another run is writing {recipe.out}$"),
        run_lock(recipe),
    ):
        pass
    with run_lock(recipe):
        assert (Path(recipe.out) / "lock").is_file()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    recipe = tiny_recipe(tmp_path, f"out={tmp_path}/file/run")
    with pytest.raises(RecipeError, match=r"^out: .* cannot be written: "), run_lock(recipe):
        pass


def test_an_input_file_edited_to_the_same_size_is_refused(tmp_path: Path) -> None:
    recipe, state = tiny_recipe(tmp_path), PartialState(cpu=True)
    RunFolder(recipe, state).phase("inputs")
    RunFolder(recipe, state).check()
    path = tmp_path / "pairs.jsonl"
    path.write_text(path.read_text().replace("Oslo", "Bonn"))
    with pytest.raises(RecipeError, match=f"^sha256 of {path}: must stay "):
        RunFolder(recipe, state).check()


def test_metrics_are_added_to(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    Path(recipe.out).mkdir()
    folder = RunFolder(recipe, PartialState(cpu=True))
    folder.update_metrics({"a": 1})
    assert folder.update_metrics({"b": 2}) == {"a": 1, "b": 2}
    assert [path.name for path in folder.path.iterdir()] == ["metrics.json"]


def test_a_cause_is_told_before_earlier_consequences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not note_failure(Failure("alone", 2), is_cause=True)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert first_failure(tmp_path) is None
    for text, is_cause in (("connection lost", False), ("wrong\nsetting", True)):
        assert note_failure(Failure(text, 2), is_cause=is_cause)
    assert first_failure(tmp_path) == Failure("wrong\nsetting", 2)
