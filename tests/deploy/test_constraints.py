import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.stack import ROOT


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\d.a-z]+", line) for line in lines)
    names = [canonicalize_name(line.partition("==")[0]) for line in lines]
    assert len(names) == len(set(names))
    return dict(zip(names, (line.partition("==")[2] for line in lines), strict=True))


def test_constraints_hold_a_fitting_version_of_everything_the_project_asks_for():
    pinned = pins()
    projects = [
        tomllib.loads((ROOT / path).read_text())["project"]
        for path in ("pyproject.toml", "client/pyproject.toml")
    ]
    own = {project["name"] for project in projects}
    for project in projects:
        extras = project["optional-dependencies"].values()
        for text in [*project["dependencies"], *(text for extra in extras for text in extra)]:
            requirement = Requirement(text)
            if requirement.name not in own:
                version = pinned[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(version), text
