"""What a product pays for `import pad_client`."""

import subprocess
import sys

HEAVY = {
    "torch",
    "transformers",
    "numpy",
    "redis",
    "typer",
    "rich",
    "click",
    "svc_common",
    "opentelemetry",
}


def _modules_after(statement: str) -> set[str]:
    script = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.check_output([sys.executable, "-c", script], text=True).split())


def test_importing_the_client_loads_nothing_heavy() -> None:
    assert not _modules_after("import pad_client") & HEAVY


def test_importing_the_embedded_stack_loads_nothing_heavy() -> None:
    assert not _modules_after("import pad_client.embedded") & HEAVY


def test_importing_the_command_line_loads_no_model_library() -> None:
    assert not _modules_after("import pad_client.cli") & (HEAVY - {"typer", "rich", "click"})
