"""The history checker itself (tests/tools/history.py): a good history passes, each fault alone is found, and named rightly."""
import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools/history.py"
sys.path.insert(0, str(TOOL.parent))
from history import check_events  # noqa: E402

ROMEO, JULIET = "romeo@x/orchard", "juliet@x/balcony"


def send(n, again=False):
    return {"e": "send", "from": ROMEO, "to": "juliet@x", "n": n, "again": again}


def recv(n, session="j1", sid=None, **other):
    return {"e": "recv", "at": JULIET, "session": session, "from": ROMEO, "sid": sid or f"s{n}",
            "body": f"{ROMEO} juliet@x {n}", **other}


def row(of, n, sid=None, **other):
    return {"e": "archive", "of": of, "sid": sid or f"s{n}", "from": ROMEO, "body": f"{ROMEO} juliet@x {n}", **other}


def good():
    """Five messages; 3 was repeated, 4 came twice (in two sessions), 5 was never acknowledged and arrived all the same."""
    return ([send(n) for n in (1, 2, 3)] + [send(3, again=True)] + [send(4), send(5)]
            + [{"e": "count", "session": "r1", "h": 1, "known": 0, "sent": 5},
               {"e": "count", "session": "r1", "h": 4, "known": 1, "sent": 5},
               {"e": "acked", "from": ROMEO, "messages": [["juliet@x", n] for n in (1, 2, 3, 4)]}]
            + [recv(n) for n in (1, 2, 3, 4)] + [recv(4, "j2"), recv(5, "j2")]
            + [row(of, n) for of in ("romeo@x", "juliet@x") for n in (1, 2, 3, 4, 5)]
            + [{"e": "archived", "of": "romeo@x"}, {"e": "archived", "of": "juliet@x"}])


def found(events):
    return {v.invariant for v in check_events(copy.deepcopy(events))[0]}


def without(*gone):
    assert all(g in good() for g in gone)
    return [e for e in good() if e not in gone]


def with_(*more):
    return good() + list(more)


def swapped(a, b):
    events = good()
    i, j = events.index(a), events.index(b)
    events[i], events[j] = events[j], events[i]
    return events


def instead(old, **new):
    events = good()
    events[events.index(old)] = {**old, **new}
    return events


def test_a_good_history_passes():
    violations, summary = check_events(good())
    assert violations == []
    assert summary["sent"] == 5 and summary["acked"] == 4 and summary["received_again"] == 1 and summary["sent_again"] == 1


def test_unacknowledged_may_be_lost():
    assert found(without(recv(5, "j2"), row("juliet@x", 5), row("romeo@x", 5))) == set()


def test_early_may_overtake():
    """Only the one that was early."""
    events = swapped(recv(2), recv(3))
    assert found([{**e, "early": True} if e == recv(3) else e for e in events]) == set()
    assert found([{**e, "early": True} if e == recv(4) else e for e in events]) == {"I3"}


def test_waiting_is_not_lost():
    events = without(recv(2))
    assert found(events) == {"I2"}
    assert found(events + [{"e": "waiting", "of": "juliet@x", "body": f"{ROMEO} juliet@x 2"}]) == set()


def test_bounced_is_not_lost():
    events = without(recv(2), row("juliet@x", 2), row("romeo@x", 2))
    assert found(events) == {"I1", "I2"}
    assert found(events + [{"e": "bounced", "from": ROMEO, "to": "juliet@x", "n": 2}]) == set()


def test_rows_of_an_archive_may_come_together():
    def packed(of, numbers):
        return {"e": "archive", "of": of, "rows": [[f"s{n}", ROMEO, f"{ROMEO} juliet@x {n}"] for n in numbers]}
    singles = [e for e in good() if e["e"] != "archive"]
    fine = packed("romeo@x", (1, 2, 3, 4, 5))
    assert found(singles + [fine, packed("juliet@x", (1, 2)), packed("juliet@x", (3, 4, 5))]) == set()
    assert found(singles + [fine, packed("juliet@x", (1, 2, 4)), packed("juliet@x", (3, 5))]) == {"I3"}


def test_to_oneself():
    """One archive, one row."""
    events = [{"e": "send", "from": ROMEO, "to": "romeo@x", "n": 1}, {"e": "acked", "from": ROMEO, "messages": [["romeo@x", 1]]},
              {"e": "recv", "at": ROMEO, "session": "r1", "from": ROMEO, "sid": "s1", "body": f"{ROMEO} romeo@x 1"},
              {"e": "archived", "of": "romeo@x"}]
    kept = {"e": "archive", "of": "romeo@x", "sid": "s1", "from": ROMEO, "body": f"{ROMEO} romeo@x 1"}
    assert found(events + [kept]) == set()
    assert [v.invariant for v in check_events(events)[0]] == ["I1"]


def probes(pair, *times, sockets=("node1", "node2")):
    return [{"e": "probe", "t": t, "pair": pair, "sockets": list(sockets)} for t in times]


def broken(t, healed, kind="kill", on="node3"):
    return [{"e": "fault", "t": t, "id": t, "kind": kind, "on": on}, {"e": "healed", "t": healed, "id": t}]


def test_gaps_are_told_by_kind():
    """stop hits a node that a's clients are connected to, b's are not; what begins long after a fault is not its own."""
    events = (good() + broken(100, 101) + broken(200, 220, "stop", "node2")
              + probes("a", 1, 2.5, 99.9, 103, 111.5, 112.5, 199, 221, 231)
              + probes("b", 199, 200.1, 231, 240, 241, sockets=("node1",)))
    violations, summary = check_events(events)
    assert violations == []
    assert summary["faults"] == {"kill": 1, "stop": 1} and summary["probes"] == 14
    assert summary["worst_gap_s"] == {"none": 97.4, "kill": 8.5, "stop": 30.9, "stop socket": 22}


def test_a_gap_above_its_limit_is_found():
    events = good() + broken(100, 101) + probes("a", 99.5, 99.9, 103, 103.1)
    assert check_events(events, {"kill": 3.2})[0] == []
    assert [v.invariant for v in check_events(events, {"kill": 3})[0]] == ["I8"]
    socket = good() + broken(100, 101, on="node1") + probes("a", 99.5, 99.9, 103, 103.1)
    assert check_events(socket, {"kill": 3})[0] == []
    assert [v.invariant for v in check_events(socket, {"kill socket": 3})[0]] == ["I8"]


FAULTS = {
    "lost in the recipient's archive": ("I1", without(row("juliet@x", 2))),
    "lost in the sender's archive": ("I1", without(row("romeo@x", 2))),
    "twice in the recipient's archive": ("I1", with_(row("juliet@x", 5, sid="s6"))),
    "twice in the sender's archive": ("I1", with_(row("romeo@x", 5, sid="s6"))),
    "an archive that was not read": ("I1", without({"e": "archived", "of": "juliet@x"})),
    "never received": ("I2", without(recv(2))),
    "archive of the recipient out of order": ("I3", swapped(row("juliet@x", 2), row("juliet@x", 3))),
    "archive of the sender out of order": ("I3", swapped(row("romeo@x", 2), row("romeo@x", 3))),
    "received out of order": ("I3", swapped(recv(2), recv(3))),
    "twice in one session": ("I4", with_(recv(3))),
    "again under another stanza-id": ("I4", with_(recv(3, "j2", sid="s9"))),
    "no stanza-id": ("I4", instead(recv(3), sid=None)),
    "received under another stanza-id than archived": ("I4", instead(recv(3), sid="s9")),
    "two messages of one stanza-id": ("I4", instead(row("romeo@x", 5), sid="s4")),
    "received and never sent": ("I5", with_(recv(6, "j2"))),
    "archived and never sent": ("I5", with_(row("juliet@x", 6))),
    "a body of another kind": ("I5", with_(recv(6, "j2", body="hello"))),
    "from somebody else": ("I5", with_(recv(5, "j3", **{"from": "tybalt@x/square"}))),
    "for somebody else": ("I5", with_({**recv(5, "t1"), "at": "tybalt@x/square"})),
    "in a stranger's archive": ("I5", with_(row("tybalt@x", 5))),
    "acknowledged and never sent": ("I5", with_({"e": "acked", "from": ROMEO, "messages": [["juliet@x", 9]]})),
    "waiting for somebody else": ("I5", with_({"e": "waiting", "of": "tybalt@x", "body": f"{ROMEO} juliet@x 5"})),
    "a resumption refused with too high a count": ("I6", with_({"e": "failed", "session": "r1", "h": 6, "sent": 5})),
    "a count that goes back": ("I6", with_({"e": "count", "session": "r1", "h": 3, "known": 1, "sent": 5})),
    "a count above what was sent": ("I6", with_({"e": "count", "session": "r1", "h": 6, "known": 1, "sent": 5})),
    "a count below what was acknowledged": ("I6", with_({"e": "count", "session": "r9", "h": 1, "known": 2, "sent": 5})),
    "stuck in a session that lives": ("I9", with_({"e": "left", "from": ROMEO, "session": "r1", "messages": [["juliet@x", 5]]})),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found(name):
    invariant, events = FAULTS[name]
    assert found(events) == {invariant}


def test_command(tmp_path):
    for name, events, code in (("good", good(), 0), ("bad", without(row("juliet@x", 2)), 1)):
        path = tmp_path / name
        path.write_text("".join(json.dumps(e) + "\n" for e in events))
        done = subprocess.run([sys.executable, TOOL, path], capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        assert ("I1: 1 violations" in done.stdout) == bool(code)
    done = subprocess.run([sys.executable, TOOL, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "Invariants:" in done.stdout


def test_a_run_in_several_files(tmp_path):
    events = good()
    for name, part in (("a", events[:9]), ("b", events[9:])):
        (tmp_path / name).write_text("".join(json.dumps(e) + "\n" for e in part))
    done = subprocess.run([sys.executable, TOOL, f"{tmp_path}/a+{tmp_path}/b"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
