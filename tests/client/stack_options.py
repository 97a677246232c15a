"""Options that run the fake services in place of the real ones."""

import sys
from pathlib import Path
from typing import Any

from pad_client.embedded import StackOptions

ROOT = Path(__file__).resolve().parents[2]
SERVICE = ROOT / "tests" / "client" / "fake_service.py"


def fake_options(models_dir: Path, **changes: Any) -> StackOptions:
    """Return options for a stack of fakes; `generator_mode`, `reward_mode` are its FAKE_MODEs."""
    for name in ("demo-base", "demo-persrm"):
        (models_dir / name).mkdir(parents=True, exist_ok=True)
        (models_dir / name / "config.json").write_text("{}")
    modes = {key: changes.pop(f"{key}_mode", "") for key in ("generator", "reward")}
    settings: dict[str, Any] = {
        "models_dir": models_dir,
        "start_timeout_s": 60.0,
        "stop_grace_s": 5.0,
        "generator_command": (sys.executable, str(SERVICE), "generator"),
        "reward_command": (sys.executable, str(SERVICE), "reward"),
        "generator_environment": {"PYTHONPATH": str(ROOT), "FAKE_MODE": modes["generator"]},
        "reward_environment": {"PYTHONPATH": str(ROOT), "FAKE_MODE": modes["reward"]},
    }
    return StackOptions(**{**settings, **changes})
