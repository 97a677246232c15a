"""What is told of a child process."""

from pathlib import Path

from pad_client.embedded.child import read_log_tail


def test_end_of_a_log_is_whole_lines_and_no_routine(tmp_path: Path) -> None:
    """It began in mid-line, and `rpc ended` hid the cause of a death."""
    log = tmp_path / "log"
    routine = '{"level": "info", "event": "rpc ended"}'
    warning = '{"level": "warning", "event": "reward replica lost"}'
    log.write_text("\n".join([f"{number:099}" for number in range(2000)]))
    lines = read_log_tail(log).splitlines()
    assert all(len(line) == 2 + 99 for line in lines)
    assert lines[-1].endswith("1999")
    log.write_text("x" * 100_000 + f"\n{routine}\n{warning}\n[1]\n" + f"{routine}\n" * 30)
    assert read_log_tail(log) == f"  {warning}\n  [1]"
    log.write_text(f"{routine}\n")
    assert read_log_tail(log) == f"  {routine}"
    log.write_text("")
    assert read_log_tail(log) == "  (empty)"
