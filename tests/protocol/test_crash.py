"""kill -9 of the node under clients that also lose their connections: the short version of tests/soak/crash.

ROOKERY_SEED repeats the choices of a run.
"""
import os
import secrets
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "soak"))
from swarm import crash_run, report  # noqa: E402

pytestmark = pytest.mark.rookery


def test_history_through_crashes(tmp_path):
    seed = os.environ.get("ROOKERY_SEED") or secrets.token_hex(4)
    print(f"ROOKERY_SEED={seed}")
    violations, summary = crash_run(tmp_path / "history", seed, clients=10, rate=40, window=20, fault_every=4.0,
                                    seconds=20, messages=2000, kills=3, kill_every=2.5)
    print(summary)
    assert not violations, report(violations)
    assert summary["kill"] >= 3 and summary["sent"] >= 500 and summary["failed"] > 0, "little happened"
    assert summary["exit_code"] == 0
