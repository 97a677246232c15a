"""`pad profile` beyond put and get: presets, history, undo, the editor, export and import."""

import io
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from pad.v1 import profile_pb2
from pad_client import Preference, presets
from pad_client.cli import profile_import, profile_transfer
from pad_client.cli.profile_form import Form, FormError, read_form, write_form, write_wishes
from pad_client.cli.profile_lines import LineError, Record, read_lines
from tests.client.conftest import Pad
from tests.client.fake_server import Failure, FakeServer, preference

KNOWN = presets.load()


def store(fake: FakeServer, user: str, *texts: str, revision: int = 1) -> None:
    fake.profiles[user] = profile_pb2.Profile(
        user_id=user, preferences=[preference(text) for text in texts], revision=revision
    )
    fake.earlier.setdefault(user, [])


def wishes(fake: FakeServer, user: str) -> list[tuple[str, float]]:
    return [(each.text, each.weight) for each in fake.profiles[user].preferences]


# -- presets, history, undo -------------------------------------------------------------------


async def test_levels_and_own_words_are_stored_as_wishes(pad: Pad, fake: FakeServer) -> None:
    result = await pad(
        "profile", "put", "ann", "--set", "length=brief", "--set", "tone=friendly:1.5",
        "-p", "Rhyme.",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert wishes(fake, "ann") == [
        ("Keep it brief.", 1.0),
        ("Be kind and chatty.", 1.5),
        ("Rhyme.", 1.0),
    ]


async def test_a_level_that_is_none_says_what_there_is(pad: Pad, fake: FakeServer) -> None:
    result = await pad("profile", "put", "ann", "--set", "length=short")
    assert result.exit_code == 1
    assert "length: must be brief | long, got 'short'" in result.stderr
    assert fake.profiles == {}


async def test_presets_are_listed_with_the_wishes_they_stand_for(pad: Pad, tmp_path: Path) -> None:
    result = await pad("profile", "presets")
    assert "expressiveness" in result.stdout
    assert "Use exclamation marks." in result.stdout
    own = tmp_path / "own.toml"
    own.write_text('[humour]\nabout = "Jokes."\nlevels.dry = "Joke."\n')
    (line,) = (await pad("profile", "presets", "--presets", str(own), "--json")).stdout.splitlines()
    assert json.loads(line) == {
        "dimension": "humour",
        "about": "Jokes.",
        "levels": {"dry": "Joke."},
    }


async def test_undo_and_undo_again_is_as_before(pad: Pad, fake: FakeServer) -> None:
    for text in ("One.", "Two."):
        await pad("profile", "put", "ann", "-p", text)
    shown = await pad("profile", "history", "ann", "--json")
    assert [json.loads(line)["revision"] for line in shown.stdout.splitlines()] == [2, 1]
    assert (await pad("profile", "undo", "ann")).exit_code == 0
    assert wishes(fake, "ann") == [("One.", 1.0)]
    await pad("profile", "undo", "ann")
    assert wishes(fake, "ann") == [("Two.", 1.0)]
    await pad("profile", "undo", "ann", "--to", "1")
    assert wishes(fake, "ann") == [("One.", 1.0)]
    assert fake.profiles["ann"].revision == 5


async def test_undo_without_history_says_where_it_would_come_from(
    pad: Pad, fake: FakeServer
) -> None:
    await pad("profile", "put", "ann", "-p", "One.")
    await pad("profile", "put", "ann", "-p", "Two.", "--erase-history")
    result = await pad("profile", "undo", "ann")
    assert result.exit_code == 1
    assert "no earlier revision is kept" in result.stderr
    assert "GENERATOR_PROFILE_HISTORY" in result.stderr
    assert "No earlier revision is kept." in (await pad("profile", "history", "ann")).stderr


async def test_undo_repairs_a_damaged_profile(pad: Pad, fake: FakeServer) -> None:
    for text in ("One.", "Two."):
        await pad("profile", "put", "ann", "-p", text)
    fake.damaged = ("ann",)
    assert "is damaged" in (await pad("profile", "history", "ann")).stderr
    await pad("profile", "undo", "ann")
    assert wishes(fake, "ann") == [("One.", 1.0)]


# -- the form that is edited ------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["Be brief.", 'Say "hi"\\n.', "ü 漢 👍🏽\n\ttab\x7f\x01", "# no comment", "'''", '"""']
)
def test_what_is_written_as_a_form_is_read_back(text: str) -> None:
    form = Form((Preference(text, 0.1), Preference("Rhyme.")), 1.25)
    assert read_form(write_form("Profile.", form, KNOWN), KNOWN) == form
    assert read_form(write_wishes(Form(form.preferences, None)), KNOWN).beta is None


def test_a_wish_may_be_a_level() -> None:
    form = read_form(
        '[[wish]]\nset = "length=brief"\nweight = 2\n[[wish]]\nset = "tone=formal:3"\n', KNOWN
    )
    assert form.preferences == (
        Preference("Keep it brief.", 2.0),
        Preference("Use formal language.", 3.0),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there must be 1..8 wishes, got 0"),
        ("[[wish]]\ntext = 'a'\n" * 9, "there must be 1..8 wishes, got 9"),
        ("[[wish]]\ntext = 'a\n", "^line 2: is not TOML: "),
        ("[[wish]]\ntext = ", "^line 1: is not TOML: "),
        ("beta = 11\n[[wish]]\ntext = 'a'", "line 1: beta must be 0..10, got 11"),
        ("beta = true\n[[wish]]\ntext = 'a'", "line 1: beta must be 0..10"),
        ("\n[[wish]]\ntext = 'a'\n\n[[wish]]\ntext = ''", "line 5: text must have 1..2000"),
        ("[[wish]]\ntext = 'a'\nweight = 0", "line 1: weight must be above 0 and at most 10"),
        ("[[wish]]\ntext = 'a'\nweight = 'x'", "line 1: weight must be above 0"),
        ("[[wish]]\ntext = 1", "line 1: text must be a text in quotes"),
        ("[[wish]]\nwieght = 1", "line 1: a wish has text or set, and weight; got wieght"),
        ("[[wish]]\nweight = 1", "line 1: a wish must have either text or set"),
        ("[[wish]]\nset = 'length=short'", r"line 1: length: must be brief \| long"),
        ("[[wish]]\nset = 'length=brief:2'\nweight = 2", "line 1: the weight must be said once"),
        (f"[[wish]]\ntext = 'a'\nweight = 1{'0' * 400}", "line 1: weight must be above 0 .* 1000+"),
        (f"[[wish]]\ntext = 'a'\nweight = 1{'0' * 5000}", "a number must have at most 4300 digits"),
        (f"[[wish]]\ntext = 'a'\nweight = 0x1{'0' * 5000}", "line 1: weight must be above 0"),
        (f"[[wish]]\ntext = 'a'\nweight{'.a' * 5000} = 1", "line 1: weight must be above 0"),
        (f"beta = {'[' * 5000}", "it is nested too deeply"),
        ("wish = 'a'", r"each wish must begin with \[\[wish\]\]"),
        ("wishes = 1\n[[wish]]\ntext = 'a'", r"only beta and \[\[wish\]\] are known, got wishes"),
    ],
)
def test_a_form_that_is_no_profile_names_the_line(text: str, message: str) -> None:
    with pytest.raises(FormError, match=message):
        read_form(text, KNOWN)


# -- the editor -------------------------------------------------------------------------------


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An editor that makes one change after the other, each a pair of texts or a whole text."""
    script = tmp_path / "editor.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "here, path = pathlib.Path(__file__).parent, pathlib.Path(sys.argv[1])\n"
        "todo = json.loads((here / 'todo.json').read_text())\n"
        "seen = here / 'seen.json'\n"
        "before = json.loads(seen.read_text()) if seen.exists() else []\n"
        "seen.write_text(json.dumps([*before, [str(path), path.read_text()]]))\n"
        "change = todo.pop(0)\n"
        "(here / 'todo.json').write_text(json.dumps(todo))\n"
        "if change == 'fail': sys.exit(3)\n"
        "if change == 'delete': path.unlink(); sys.exit(0)\n"
        "if isinstance(change, list): change = path.read_text().replace(*change)\n"
        "if change is not None: path.write_text(change)\n"
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")
    monkeypatch.setattr("tempfile.tempdir", None)

    class Editor:
        def plan(self, *changes: Any) -> None:
            (tmp_path / "todo.json").write_text(json.dumps(changes))

        @property
        def seen(self) -> list[str]:
            return [text for _, text in json.loads((tmp_path / "seen.json").read_text())]

        @property
        def left(self) -> list[Path]:
            return list(tmp_path.glob("pad-profile-*/*"))

    return Editor()


async def test_an_edited_profile_is_written_once_as_a_new_revision(
    pad: Pad, fake: FakeServer, editor: Any
) -> None:
    store(fake, "ann", "Be brief.", revision=4)
    editor.plan(["Be brief.", "Be kind."])
    result = await pad("profile", "edit", "ann")
    assert result.exit_code == 0, result.stderr
    assert "is written as revision 5" in result.stdout
    assert wishes(fake, "ann") == [("Be kind.", 1.0)]
    assert "# Profile of ann, revision 4." in editor.seen[0]
    assert '# set = "length=brief"' in editor.seen[0]
    assert editor.left == []


@pytest.mark.parametrize("change", [None, ["# Lines", "# All lines"]])
async def test_without_a_change_nothing_is_written(
    pad: Pad, fake: FakeServer, editor: Any, change: Any
) -> None:
    store(fake, "ann", "Be brief.", revision=4)
    editor.plan(change)
    result = await pad("profile", "edit", "ann")
    assert (result.exit_code, result.stdout) == (0, "Nothing was changed.\n")
    assert fake.profiles["ann"].revision == 4
    assert editor.left == []


async def test_a_user_without_a_profile_gets_one(pad: Pad, fake: FakeServer, editor: Any) -> None:
    editor.plan('beta = 2\n[[wish]]\ntext = "Rhyme."\nweight = 3\n')
    assert (await pad("profile", "edit", "new")).exit_code == 0
    assert wishes(fake, "new") == [("Rhyme.", 3.0)]
    assert fake.profiles["new"].beta == 2.0
    editor.plan(None)
    assert "Nothing" in (await pad("profile", "edit", "newer")).stdout
    assert "newer" not in fake.profiles


async def test_an_edited_profile_that_is_stronger_than_text_can_bear_is_told(
    pad: Pad, editor: Any
) -> None:
    editor.plan('beta = 2\n[[wish]]\ntext = "Rhyme."\nweight = 3\n')
    result = await pad("profile", "edit", "new")
    assert "strength 6 = beta 2 x weights 3: text may break" in result.stderr
    editor.plan(["beta = 2", "beta = 0.2"])
    assert "strength" not in (await pad("profile", "edit", "new")).stderr


async def test_a_mistake_is_shown_with_its_line_and_what_was_typed_is_there_again(
    pad: Pad, fake: FakeServer, editor: Any
) -> None:
    store(fake, "ann", "Be brief.")
    broken = '[[wish]]\ntext = "Be kind."\nweight = much\n'
    editor.plan(broken, ["much", "2"])
    result = await pad("profile", "edit", "ann", stdin="y\n")
    assert result.exit_code == 0, result.stderr
    assert "pad: line 3: " in result.stderr
    assert editor.seen[1] == broken
    assert wishes(fake, "ann") == [("Be kind.", 2.0)]


async def test_whoever_gives_up_is_told_where_the_text_is(
    pad: Pad, fake: FakeServer, editor: Any
) -> None:
    store(fake, "ann", "Be brief.")
    editor.plan("[[wish]]\ntext = 1\n")
    result = await pad("profile", "edit", "ann", stdin="n\n")
    assert result.exit_code == 1
    (kept,) = editor.left
    assert f"What you wrote is kept in {kept}" in result.stderr
    assert kept.read_text() == "[[wish]]\ntext = 1\n"
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert wishes(fake, "ann") == [("Be brief.", 1.0)]


async def test_a_conflict_shows_both_and_then_the_person_decides(
    pad: Pad, fake: FakeServer, editor: Any
) -> None:
    store(fake, "ann", "Be brief.", revision=1)

    async def overtake(context: Any) -> None:
        if fake.profiles["ann"].revision == 1:
            store(fake, "ann", "Theirs.", revision=2)

    fake.before_put = overtake
    editor.plan(["Be brief.", "Mine."], None)
    result = await pad("profile", "edit", "ann", stdin="y\n")
    assert result.exit_code == 0, result.stderr
    assert 'text = "Theirs."' in result.stderr
    assert 'text = "Mine."' in result.stderr
    assert 'text = "Mine."' in editor.seen[1]
    assert wishes(fake, "ann") == [("Mine.", 1.0)]
    assert fake.profiles["ann"].revision == 3


async def test_what_the_server_refuses_is_not_lost(pad: Pad, fake: FakeServer, editor: Any) -> None:
    store(fake, "ann", "Be brief.")

    async def refuse(context: Any) -> None:
        code = grpc.StatusCode.INVALID_ARGUMENT
        await context.abort(code, "preferences[0].text: no", (("x-request-id", "r"),))

    fake.before_put = refuse
    editor.plan(["Be brief.", "Bad."])
    result = await pad("profile", "edit", "ann", stdin="")
    assert result.exit_code == 1
    assert "not written: preferences[0].text: no" in result.stderr
    assert "Open the editor again? [Y/n]:\nWhat you wrote is kept in " in result.stderr
    assert 'text = "Bad."' in editor.left[0].read_text()


@pytest.mark.parametrize(
    ("change", "message"), [("fail", "ended with status 3"), ("delete", "the file is gone")]
)
async def test_an_editor_that_fails_is_an_error_of_its_own(
    pad: Pad, fake: FakeServer, editor: Any, change: str, message: str
) -> None:
    editor.plan(change)
    result = await pad("profile", "edit", "ann")
    assert result.exit_code == 1
    assert message in result.stderr
    assert fake.profiles == {}
    assert editor.left == []


async def test_an_editor_that_is_not_there_is_named(
    pad: Pad, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", "/no/such/editor")
    result = await pad("profile", "edit", "ann")
    assert "editor /no/such/editor: " in result.stderr
    assert "set VISUAL or EDITOR" in result.stderr


# -- export and import ------------------------------------------------------------------------


async def test_what_is_exported_is_imported_as_it_was(
    pad: Pad, fake: FakeServer, tmp_path: Path
) -> None:
    for number in range(25):
        store(fake, f"user-{number:02}", f"Wish {number}: ü 漢.", "Rhyme.")
    fake.profiles["user-03"].beta = 0.1 + 0.2
    file = tmp_path / "all.jsonl"
    result = await pad("profile", "export", str(file))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "25 profiles exported" in result.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = dict(fake.profiles)
    fake.profiles.clear()
    result = await pad("profile", "import", str(file))
    assert result.exit_code == 0, result.stderr
    assert "25 created" in result.stderr
    for user, profile in before.items():
        assert fake.profiles[user].preferences == profile.preferences
        assert fake.profiles[user].beta == profile.beta
    again = await pad("profile", "import", str(file))
    assert "25 already the same" in again.stderr
    assert {profile.revision for profile in fake.profiles.values()} == {1}


async def test_an_import_goes_on_where_it_was_interrupted(
    pad: Pad, fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_import, "FIRST_PAUSE_S", 0.001)
    lines = [json.dumps({"user_id": f"u{n}", "preferences": ["a"]}) for n in range(40)]

    async def run_full(context: Any) -> None:
        if len(fake.profiles) >= 15:
            trailing = (("x-request-id", "r"),)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "store: away", trailing)

    file = tmp_path / "all.jsonl"
    file.write_text("\n".join(lines))
    fake.before_put = run_full
    result = await pad("profile", "import", str(file), "--concurrency", "4")
    fake.before_put = None
    assert result.exit_code == 1
    assert "15 created" in result.stderr
    assert "The same command goes on from here." in result.stderr
    assert "store: away" in result.stderr
    result = await pad("profile", "import", str(file))
    assert "25 created, 15 already the same" in result.stderr


@pytest.mark.parametrize(
    ("on_conflict", "said", "stored", "status"),
    [
        ("fail", "1 created, 1 failed", "Theirs.", 1),
        ("skip", "1 created, 1 skipped", "Theirs.", 0),
        ("replace", "1 created, 1 replaced", "Mine.", 0),
    ],
)
async def test_another_profile_is_reported_left_or_replaced(
    pad: Pad, fake: FakeServer, on_conflict: str, said: str, stored: str, status: int
) -> None:
    store(fake, "ann", "Theirs.", revision=7)
    lines = '{"user_id": "new", "preferences": ["x"]}\n{"user_id": "ann", "preferences": ["Mine."]}'
    options = ("profile", "import", "-", "--on-conflict", on_conflict)
    dry = await pad(*options, "--dry-run", stdin=lines)
    assert f"it would be: {said}" in dry.stderr
    assert wishes(fake, "ann") == [("Theirs.", 1.0)]
    assert "new" not in fake.profiles
    result = await pad(*options, stdin=lines)
    assert (result.exit_code, dry.exit_code) == (status, status)
    assert said in result.stderr
    assert wishes(fake, "ann") == [(stored, 1.0)]
    if status:
        assert "line 2: user_id: has another profile already; see --on-conflict" in result.stderr


def line_errors(*lines: str) -> list[str]:
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    found = read_lines(io.BytesIO(content))
    return [f"{one[0]}: {one[1]}" for one in found if isinstance(one, tuple)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "1: must be JSON: Expecting property name"),
        ("\ud800", "1: must be UTF-8, byte 1 is not"),
        ("[" * 100_000, "1: must be JSON: it is nested too deeply"),
        ('["secret"]', "1: must be an object, is list"),
        ('{"user": "secret"}', "1: has a field that is not known: 'user'"),
        ('{"preferences": ["secret"]}', "1: user_id: must be given"),
        ('{"user_id": "a"}', "1: preferences: must be given"),
        ('{"user_id": 1, "preferences": []}', "1: user_id: must be a string"),
        ('{"user_id": "a", "preferences": "secret"}', "1: preferences: must be a list"),
        ('{"user_id": "a", "preferences": [1]}', "1: preferences[0]: must be a string, or"),
        ('{"user_id": "a", "preferences": [{"weight": 1}]}', "1: preferences[0]: must be"),
        ('{"user_id": "a", "preferences": [{"text": 1}]}', "1: preferences[0].text: must be"),
        ('{"user_id": "a", "preferences": ["\\ud800"]}', "1: preferences[0]: must not hold half"),
        (
            '{"user_id": "a", "preferences": [{"text": "secret", "weight": "secret"}]}',
            "1: preferences[0].weight: must be a number",
        ),
        ('{"user_id": "a", "preferences": ["x"], "beta": true}', "1: beta: must be a number"),
        ('{"user_id": "a", "preferences": ["x"], "beta": NaN}', "1: beta: must be a number"),
        (f'{{"user_id": "a", "preferences": ["x"], "beta": {"9" * 400}}}', "1: beta: must be a n"),
        ('{"user_id": "", "preferences": ["secret"]}', "1: user_id: must be 1..128 characters of"),
        ('{"user_id": "a secret", "preferences": ["x"]}', "1: user_id: must be 1..128 characters"),
        (f'{{"user_id": "{"a" * 129}", "preferences": ["x"]}}', "1: user_id: must be 1..128 char"),
        ('{"user_id": "a", "preferences": []}', "1: preferences: must have 1..8 entries, got 0"),
        (
            f'{{"user_id": "a", "preferences": {json.dumps(["secret"] * 9)}}}',
            "1: preferences: must have 1..8 entries, got 9",
        ),
        ('{"user_id": "a", "preferences": [" "]}', "1: preferences[0]: must have 1..2000 char"),
        (
            '{"user_id": "a", "preferences": [{"text": "secret", "weight": -1}]}',
            "1: preferences[0].weight: must be above 0 and at most 10, got -1",
        ),
        ('{"user_id": "a", "preferences": ["x"], "beta": 99}', "1: beta: must be 0..10, got 99"),
        (f'{{"beta": {"9" * 5000}}}', "1: must be JSON: a number must have at most 4300 digits"),
        (" " * (1 << 20) + "{}", "1: must have at most 1048576 bytes"),
    ],
)
def test_a_line_that_is_no_profile_names_field_and_rule_and_repeats_no_text(
    line: str, message: str
) -> None:
    (said,) = line_errors(line)
    assert said.startswith(message)
    assert "secret" not in said


def test_empty_lines_are_passed_over_and_a_user_stands_in_a_file_once() -> None:
    line = '{"user_id": "a", "preferences": ["x", {"text": "y"}], "revision": 3}'
    first, second = read_lines(io.BytesIO(f"\n{line}\n  \n{line}".encode()))
    assert first == Record(2, "a", (Preference("x"), Preference("y")), None)
    assert isinstance(second, tuple)
    assert (second[0], str(second[1])) == (4, "user_id: stands in line 2 already")
    assert isinstance(second[1], LineError)


class Longest(io.BytesIO):
    """Knows the longest piece that was read of it at once."""

    longest = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.longest = max(self.longest, len(line))
        return line


def test_a_line_without_an_end_is_passed_over_and_never_held_as_a_whole() -> None:
    good = '{"user_id": "a", "preferences": ["x"]}'
    source = Longest(b"[" + b"1," * (4 << 20) + f"\n{good}\n".encode())
    bad, record = read_lines(source)
    assert isinstance(bad, tuple)
    assert str(bad[1]) == f"must have at most {1 << 20} bytes, has {(8 << 20) + 2}"
    assert record == Record(2, "a", (Preference("x"),), None)
    assert source.longest <= (1 << 20) + 1


async def test_bad_lines_are_reported_and_the_good_ones_stored(pad: Pad, fake: FakeServer) -> None:
    lines = '{"user_id": "a", "preferences": ["x"]}\nbad\n{"user_id": "b", "preferences": ["x"]}\n'
    result = await pad("profile", "import", "-", stdin=lines)
    assert result.exit_code == 1
    assert "line 2: must be JSON" in result.stderr
    assert "2 created, 1 failed" in result.stderr
    assert set(fake.profiles) == {"a", "b"}


async def test_a_dry_run_counts_what_the_server_would_refuse(pad: Pad, fake: FakeServer) -> None:
    """It said "4 created, 1 failed" where the import itself created one."""
    lines = "\n".join(
        json.dumps(each)
        for each in (
            {"user_id": "a", "preferences": []},
            {"user_id": "b", "preferences": ["x"], "beta": 99},
            {"user_id": "", "preferences": ["x"]},
            {"user_id": "c", "preferences": [{"text": "x", "weight": -1}]},
            {"user_id": "d", "preferences": ["x"]},
        )
    )
    dry = await pad("profile", "import", "-", "--dry-run", stdin=lines)
    assert "it would be: 1 created, 4 failed" in dry.stderr
    real = await pad("profile", "import", "-", stdin=lines)
    assert "1 created, 4 failed" in real.stderr
    assert set(fake.profiles) == {"d"}


async def test_an_export_tells_of_damaged_profiles_and_writes_the_others(
    pad: Pad, fake: FakeServer
) -> None:
    store(fake, "ann", "x")
    fake.damaged = ("ben",)
    result = await pad("profile", "export", "-")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["user_id"] == "ann"
    assert "not exported: the stored profiles of 1 user are damaged: ben" in result.stderr


async def test_an_export_that_fails_leaves_the_file_as_it_was(
    pad: Pad, fake: FakeServer, tmp_path: Path
) -> None:
    store(fake, "ann", "x")
    file = tmp_path / "all.jsonl"
    file.write_text("precious")
    result = await pad("profile", "export", str(file))
    assert result.exit_code == 2
    assert "see --force" in result.stderr
    fake.failure = Failure(grpc.StatusCode.INTERNAL, "internal error")
    result = await pad("profile", "export", str(file), "--force")
    assert result.exit_code == 1
    assert os.listdir(tmp_path) == ["all.jsonl"]
    assert file.read_text() == "precious"
    fake.failure = None
    assert (await pad("profile", "export", str(file), "--force")).exit_code == 0
    assert json.loads(file.read_text())["user_id"] == "ann"


async def test_no_progress_bar_is_drawn_into_a_pipe(pad: Pad, fake: FakeServer) -> None:
    store(fake, "ann", "x")
    result = await pad("profile", "export", "-")
    assert result.stderr == "1 profile exported\n"


# -- explanations -----------------------------------------------------------------------------


async def test_generate_explains_which_wish_changed_which_token(pad: Pad, fake: FakeServer) -> None:
    result = await pad("generate", "Hello", "-p", "Be kind.", "-p", "2*Be brief.", "--explain")
    assert result.exit_code == 0, result.stderr
    assert "what each preference did" in result.stdout
    assert "Be kind." in result.stdout
    assert "+12.00" in result.stdout
    assert "'Sure'" in result.stdout
    assert "+3.00" in result.stdout  # beta 1.5 times (0.5 + 1.5)
    lines = (await pad("generate", "Hello", "-p", "a", "--explain", "--json")).stdout.splitlines()
    assert json.loads(lines[0])["explanation"]["changed_by"] == 0
    both = await pad("generate", "Hello", "-p", "a", "--explain", "--candidates")
    assert both.exit_code == 2


async def test_an_export_goes_on_behind_the_last_profile_after_a_failure(
    pad: Pad, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look-up that took the store too long ended it, with nothing written."""
    monkeypatch.setattr(profile_transfer, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(profile_transfer, "PAGE_SIZE", 2)
    for number in range(7):
        store(fake, f"u{number}", "x")
    fake.fails_at_page = 3
    fake.failure = Failure(grpc.StatusCode.UNAVAILABLE, "store: away", pushback_ms="1")
    result = await pad("profile", "export", "-")
    assert result.exit_code == 0, result.stderr
    users = [json.loads(line)["user_id"] for line in result.stdout.splitlines()]
    assert users == [f"u{number}" for number in range(7)]


async def test_undo_to_what_is_not_kept_says_what_is(pad: Pad) -> None:
    for text in ("One.", "Two."):
        await pad("profile", "put", "ann", "-p", text)
    result = await pad("profile", "undo", "ann", "--to", "9")
    assert result.exit_code == 1
    assert "--to: must be an earlier revision that is kept (1), got 9" in result.stderr
