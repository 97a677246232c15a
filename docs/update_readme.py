"""Write the generated parts of README.md anew: `python docs/update_readme.py`.

Settings tables come from the settings, the speed figures from the newest entry of the log.
"""

import sys
from pathlib import Path

from generator_svc.settings import PREFIX as GENERATOR_PREFIX
from generator_svc.settings import GeneratorSettings
from reward_svc.settings import PREFIX as REWARD_PREFIX
from reward_svc.settings import RewardSettings
from svc_common.settings import settings_table

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TABLES = {
    "settings:generator": (GeneratorSettings, GENERATOR_PREFIX),
    "settings:reward": (RewardSettings, REWARD_PREFIX),
}


def parts() -> dict[str, str]:
    """Return the generated parts by the names of their markers."""
    tables = {name: settings_table(settings, prefix) for name, (settings, prefix) in TABLES.items()}
    return {**tables, "bench": newest_entry((ROOT / "benchmarks/LOG.md").read_text("utf-8"))}


def newest_entry(log: str) -> str:
    """Return the last entry of the benchmark log, without its heading."""
    _, _, body = log.rpartition("\n## ")[2].partition("\n")
    return body.strip() + "\n"


def with_parts(text: str) -> str:
    """Return `text` with the current parts between their markers.

    Raises:
        ValueError: A marker is missing, stands twice, or ends before it begins.
    """
    for name, part in parts().items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise ValueError(f"{README.name}: must hold {begin} and then {end}, once each")
        before, rest = text.split(begin)
        after = rest.split(end)[1]
        text = f"{before}{begin}\n{part}{end}{after}"
    return text


def main() -> int:
    """Return the exit status: 1 where README.md lacks a marker."""
    try:
        text = with_parts(README.read_text(encoding="utf-8"))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    README.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
