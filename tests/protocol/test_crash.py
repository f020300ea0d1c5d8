"""kill -9 of the node under clients that also lose their connections: the short version of tests/soak/crash.

ROOKERY_SEED repeats the choices of a run.
"""
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from rig import ROOT, build_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "soak"))
from swarm import crash_run, report  # noqa: E402

pytestmark = [pytest.mark.rookery, pytest.mark.single("kills its own node; a cluster's has its own test")]


def test_history_through_crashes(tmp_path):
    seed = os.environ.get("ROOKERY_SEED") or secrets.token_hex(4)
    print(f"ROOKERY_SEED={seed}")
    violations, summary = crash_run(tmp_path / "history", seed, clients=10, rate=40, window=20, fault_every=4.0,
                                    seconds=20, messages=2000, kills=3, kill_every=2.5)
    print(summary)
    assert not violations, report(violations)
    assert summary["kill"] >= 3 and summary["sent"] >= 500 and summary["failed"] > 0, "little happened"
    assert summary["exit_code"] == 0


def test_crowd_through_kills_and_stops(tmp_path):
    """The driver of the cluster's soak test (tests/soak/cluster), on one node."""
    seed = os.environ.get("ROOKERY_SEED") or secrets.token_hex(4)
    done = subprocess.run([ROOT / "tests/soak/cluster", "--single", "--clients", "40", "--pairs", "4", "--rate", "200", "--seconds",
                           "20", "--faults", "kill,stop", "--max-stop", "2", "--cut-every", "5", "--quiet", "2", "--seed", seed,
                           "--build", build_dir(), "--out", tmp_path], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = next(line for line in map(json.loads, (s for s in done.stdout.splitlines() if s.startswith('{"seed"'))))
    assert summary["acked"] > 1000 and summary["faults"] and summary["resumed"] > 5 and summary["probes"] > 100, summary
