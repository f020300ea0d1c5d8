"""rookery-bench: short scenarios against a node, the JSON checked for counts; thresholds and the exit code; and against a fake
server that loses, doubles and reorders messages: what it counts must be what was done to it."""
import asyncio
import contextlib
import json
import os
import re
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

import rig

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.rookery

CONNECT = "  - { name: connect, until: done, measure: false, connect: { parallel: 8 } }\n"


def bench(*arguments, timeout=120):
    return subprocess.run([rig.build_dir() / "rookery-bench", *map(str, arguments)], text=True, capture_output=True, timeout=timeout)


@pytest.fixture(scope="module")
def users(server):
    """user0 ... user19 with one password."""
    server.ctl("user", "import", "--domain", server.domain, "--scram-iterations", "4096",
               input="".join(f"user{i},secret\n" for i in range(20)))
    return server


@pytest.fixture
def run(users, tmp_path):
    """run(phases, arguments...): a scenario of 20 sessions against the node; (exit code, result)."""
    def make(phases, *arguments, head="", thresholds=()):
        path, out = tmp_path / "scenario.yml", tmp_path / "out.json"
        lines = "".join(f"  - {t}\n" for t in thresholds)
        path.write_text(f"name: test\nsessions: 20\ndrain: 20\n{head}phases:\n{phases}" + (f"thresholds:\n{lines}" if lines else ""))
        done = bench(path, "--port", users.port, "--domain", users.domain, "--json", out, *arguments)
        assert out.exists(), done.stdout + done.stderr
        return done.returncode, json.loads(out.read_text())
    return make


def clean(result, *but):
    figures = result["figures"]
    bad = {k: figures[k] for k in ("lost", "unsent", "doubled", "reordered", "errors", "failed_logins", "cut_sessions", "foreign")
           if k not in but and figures[k]}
    assert not bad, (bad, result["first_failure"])
    return figures


def test_chat(run):
    code, result = run(CONNECT + "  - { name: chat, seconds: 3, message: { rate: [20, 180] } }\n",
                       thresholds=["lost == 0", "doubled == 0", "message_count > 200"])
    figures = clean(result)
    assert code == 0 and result["ok"] and all(t["met"] for t in result["thresholds"])
    assert figures["sessions"] == 20 and figures["logins"] == 20
    assert abs(figures["created"] - 300) <= 2  # the mean of the ramp, three seconds
    assert figures["message_count"] == figures["created"] == figures["sent"] == figures["received"]
    assert 0 < figures["p50_ms"] <= figures["p90_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert sum(n for _, n in result["histograms"]["message"]) == figures["message_count"]
    assert sum(row.get("message", 0) for row in result["seconds"]) == figures["message_count"]
    assert figures["wire_bytes_in"] > 300 * 100 and figures["wire_bytes_out"] > 300 * 100


def test_what_is_too_much_is_refused_and_counted(run):
    code, result = run(CONNECT + "  - { name: over, seconds: 3, message: { rate: 2000, accept: 2, pairs: 5 }, pause: { rate: 2, after: [0.5, 1] } }\n",
                       thresholds=["refused > 100", "refused_per_s > 30"])
    figures = clean(result)
    assert code == 0, result["thresholds"]
    assert figures["created"] + figures["refused"] == 6000 and figures["created"] == figures["received"] > 100
    assert figures["waited_count"] > 0 and sum(row.get("refused", 0) for row in result["seconds"]) == figures["refused"]


def test_some_pairs_come_before_the_others(run):
    _, result = run("  - { name: few, until: done, connect: { pairs: 3 } }\n"
                    "  - { name: write, seconds: 1, message: { rate: 20, pairs: 1 } }\n" + CONNECT, "--threads", 1)
    figures, online = clean(result), [p["online"] for p in result["phases"]]
    assert online == [6, 6, 20] and figures["received"] == 20


def test_full_speed_with_acknowledgements(run):
    code, result = run(CONNECT + "  - { name: full, seconds: 2, message: { window: 3 } }\n", "--mechanism", "SCRAM-SHA-256",
                       "--source", "127.0.0.2-127.0.0.5", "--threads", 2, head="client: { sm: true }\n")
    figures = clean(result)
    assert code == 0 and figures["acked"] == figures["sent"] == figures["received"] > 60
    assert figures["ack_count"] == figures["acked"]
    assert result["threads"] == 2


def test_logins_come_when_they_are_due(run, users):
    code, result = run("  - { name: logins, seconds: 2, login: { rate: 20 } }\n", "--direct", "--port", users.tls_port, "--mechanism", "PLAIN",
                       head="arrival: poisson\nclient: { roster: true, catch_up: 5 }\n")
    figures = clean(result)
    assert code == 0 and figures["login_count"] == figures["logins"] and 5 < figures["logins"] + figures["skipped"] < 120


def test_presence_goes_to_every_contact(run):
    code, result = run(CONNECT + "  - { name: make, until: done, measure: false, make: { contacts: 4, items: 3, parallel: 4 } }\n"
                       "  - { name: settle, seconds: 1, measure: false }\n"
                       "  - { name: statuses, seconds: 2, presence: { rate: 20 } }\n", thresholds=["presence_missing == 0"])
    figures = clean(result)
    assert code == 0, result["thresholds"]
    assert figures["presence_expected"] == figures["presence_received"] == 4 * 40 and figures["presence_doubled"] == 0


@pytest.mark.single("pauses the process")
def test_presence_that_is_late_is_waited_for(run, users):
    """The phase ends while the server stands still: what is on its way then is not missing."""
    code, result = run(CONNECT + "  - { name: make, until: done, measure: false, make: { contacts: 4, parallel: 4 } }\n"
                       "  - { name: settle, seconds: 1, measure: false }\n"
                       "  - { name: statuses, seconds: 1, presence: { rate: 20 } }\n", "--at", "statuses+0.4s",
                       f"kill -STOP {users.process.pid}; sleep 2; kill -CONT {users.process.pid}", thresholds=["presence_missing == 0"])
    figures = clean(result)
    assert code == 0, result["thresholds"]
    assert figures["presence_expected"] == figures["presence_received"] == 4 * 20 and figures["presence_max_ms"] > 1000


def test_queries(run):
    code, result = run(CONNECT + "  - { name: write, seconds: 2, measure: false, message: { rate: 100 } }\n"
                       "  - { name: ask, seconds: 2, archive: { rate: 10, page: 3, pages: 3 }, roster: { rate: 5 }, ping: { rate: 5 } }\n")
    figures = clean(result)
    assert code == 0 and figures["roster_count"] == 10 and figures["ping_count"] == 10
    assert figures["archive_count"] > 20 and figures["archive_messages"] > figures["archive_count"]
    assert result["unit"] == "archive" and result["not_offered"] == []


def test_cut_sessions_resume_and_nothing_is_lost(run):
    code, result = run(CONNECT + "  - { name: cuts, seconds: 4, message: { rate: 50 }, reconnect: { rate: 10, after: [0, 0.5] } }\n",
                       head="client: { sm: true, resume: true, origin_id: true, reconnect: 1 }\n")
    figures = clean(result)
    assert code == 0 and figures["resumed"] > 20 and figures["not_resumed"] == 0
    assert figures["return_count"] == figures["resumed"] and figures["logins"] == 20 + figures["resumed"]


def test_inactive_sessions_get_their_messages(run):
    code, result = run(CONNECT + "  - { name: day, seconds: 4, message: { rate: 100 }, csi: { rate: 20 } }\n", head="client: { sm: true }\n")
    figures = clean(result)
    assert code == 0 and result["not_offered"] == [] and figures["csi_switches"] == 80
    assert 40 < figures["received_inactive"] < figures["received"] == 400


def test_rooms_are_left_out_where_there_are_none(run, tmp_path):
    """The scenario as it stands: it ends early, and its thresholds on what was not measured are not met."""
    code, result = run(CONNECT + "  - { name: join, until: done, measure: false, group: { occupants: 5 } }\n"
                       "  - { name: rooms, seconds: 60, group: { rate: 50, occupants: 5 } }\n", thresholds=["p99_ms < 1000", "lost == 0"])
    figures = clean(result)
    assert code == 1 and [t["met"] for t in result["thresholds"]] == [False, True]
    assert result["not_offered"] == ["group"] and result["unit"] == "group"
    assert figures["count"] == figures["created"] == 0 and figures["sessions"] == 20 and figures["seconds"] < 10
    done = bench("compare", tmp_path / "out.json", tmp_path / "out.json")
    assert done.returncode == 0 and re.search(r"\| runs +\| +not offered \|", done.stdout), done.stdout


@pytest.mark.single("kills the process")
def test_a_fault_in_the_middle(new_server, tmp_path):
    server = new_server()
    server.ctl("user", "import", "--domain", server.domain, input="".join(f"user{i},secret\n" for i in range(20)))
    config, pid = server.dir / "rookery.yml", server.dir / "rookeryd.pid"
    proc = f"/proc/{server.process.pid}"  # a zombie that we have not waited for, but its threads must be gone, they hold the ports
    restart = f"kill -9 $(cat {pid}); while ! grep -q ') Z' {proc}/stat || [ $(ls {proc}/task | wc -l) -gt 1 ]; do sleep 0.05; done; " \
              f"{rig.build_dir()}/rookeryd --config {config} --pid {pid} >>{server.log_path} 2>&1 &"
    scenario, out, page = tmp_path / "s.yml", tmp_path / "out.json", tmp_path / "out.html"
    scenario.write_text("name: fault\nsessions: 20\ndrain: 30\nclient: { sm: true, resume: true, origin_id: true, reconnect: 0.5 }\n"
                        "phases:\n" + CONNECT + "  - { name: chat, seconds: 8, message: { rate: 50 } }\n"
                        "thresholds:\n  - lost == 0\n  - doubled == 0\n")
    done = bench(scenario, "--port", server.port, "--domain", server.domain, "--json", out, "--html", page, "--at", "2s", restart,
                 "--pid", f"node={pid}", "--source", "127.0.0.2")  # so that no client takes the port while the node is away
    server.process.wait()
    try:
        result = json.loads(out.read_text())
        figures = result["figures"]
        assert done.returncode == 0, (result["thresholds"], result["first_failure"], server.log()[-3000:])
        assert figures["cut_sessions"] == 20 and figures["logins"] >= 40 and figures["received"] == figures["sent"] == 400
        (fault,) = result["faults"]
        assert fault["exit"] == 0 and fault["worst_gap_ms"] > 200 and fault["seconds_below_999"] >= 0
        assert result["roles"]["node"]["cpu_percent"] > 0
        text = page.read_text()
        assert text.count("<svg") >= 8 and "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "<script" not in text
    finally:
        with contextlib.suppress(ProcessLookupError):  # then it is told above
            os.kill(int(pid.read_text()), 15)


def test_thresholds_decide_the_exit_code(run):
    phases = CONNECT + "  - { name: chat, seconds: 1, message: { rate: 20 } }\n"
    code, result = run(phases, thresholds=["p99_ms < 0.0001", "lost == 0"])
    assert code == 1 and [t["met"] for t in result["thresholds"]] == [False, True] and not result["ok"]
    code, result = run(phases, thresholds=["ping_p99_ms < 1000"])  # nothing pinged: not measured is not met
    assert code == 1 and result["thresholds"][0]["value"] is None
    code, _ = run(phases, "--at", "0.2s", "exit 3")  # a fault that failed was none
    assert code == 1
    code, _ = run(phases)
    assert code == 0


def test_misuse_is_told(tmp_path):
    bad = tmp_path / "bad.yml"
    bad.write_text("name: x\nsessions: 4\nphases:\n  - { name: a, seconds: 1, dance: {} }\n")
    done = bench(bad)
    assert done.returncode == 2 and f"{bad}:4: phase: no such key: dance" in done.stderr
    assert bench("check", bad).returncode == 2 and bench("check", ROOT / "bench/scenarios/chat.yml").returncode == 0
    assert bench("nosuchscenario").returncode == 2 and bench().returncode == 2
    assert bench(ROOT / "bench/scenarios/chat.yml", "--set", "steady.colour=3").returncode == 2
    assert bench(ROOT / "bench/scenarios/chat.yml", "--at", "nophase+3s", "true").returncode == 2
    assert bench("--help").returncode == 0 and bench("keys").returncode == 0


def test_compare_takes_medians(tmp_path):
    paths = []
    for label, values in (("ours", (3, 1, 2)), ("theirs", (10, 30, 20))):
        for i, v in enumerate(values):
            paths.append(tmp_path / f"{label}{i}.json")
            paths[-1].write_text(json.dumps({"scenario": "s", "label": label, "figures": {"p99_ms": v, "lost": 0}}))
    page = tmp_path / "c.html"
    done = bench("compare", *paths, "--html", page)
    assert done.returncode == 0
    assert re.search(r"\| p99 ms +\| +2 \| +20 \| +10", done.stdout), done.stdout
    assert "<svg" in page.read_text()
    paths[0].write_text("{}")
    assert bench("compare", *paths).returncode == 2


# ---- a server that does it wrong ----

class FakeServer:
    """As much XMPP as a login by PLAIN over direct TLS needs. Every message goes to its recipient, but for those that mishap(n)
    names for the n-th message: 'lose', 'double' or 'swap' (with the next one of the same two)."""

    def __init__(self, mishap):
        self.mishap, self.done, self.count = mishap, {"lose": 0, "double": 0, "swap": 0}, 0
        self.writers, self.held, self.rooms = {}, {}, {}
        self.ready = threading.Event()

    def __enter__(self):
        self.dir = Path(rig.tempfile.mkdtemp(prefix="bench-fake-"))
        self.thread = threading.Thread(target=lambda: asyncio.run(self.main()), daemon=True)
        self.thread.start()
        assert self.ready.wait(20)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(20)
        rig.shutil.rmtree(self.dir)

    async def main(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*rig.make_certificate(self.dir, "localhost"))
        server = await asyncio.start_server(self.client, "127.0.0.1", 0, ssl=context)
        self.port, self.loop, self.stop = server.sockets[0].getsockname()[1], asyncio.get_running_loop(), asyncio.Event()
        self.ready.set()
        await self.stop.wait()
        server.close()

    async def client(self, reader, writer):
        user, data = None, b""
        say = lambda text: writer.write(text.encode())
        features = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms>"
        while chunk := await self.read(reader):
            data += chunk
            while m := re.match(rb"\s*(<\?xml[^>]*>)?\s*(<stream:stream[^>]*>|</stream:stream>|<(\w+)[^>]*?(/>|>.*?</\3>))", data, re.S):
                data, text = data[m.end():], m[2].decode()
                if text.startswith("<stream:stream"):
                    say("<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' id='x' version='1.0'>"
                        f"<stream:features>{features}</stream:features>")
                elif text.startswith("<auth"):
                    import base64
                    user = base64.b64decode(re.search(r">(.*)<", text)[1]).split(b"\0")[1].decode()
                    features = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>"
                    say("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
                elif "<bind" in text:
                    self.writers[user] = writer
                    say(f"<iq type='result' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>{user}@localhost/x</jid></bind></iq>")
                elif text.startswith("<message"):
                    self.message(user, text)
                elif "/disco#" in text:
                    item = "<item jid='upload.localhost'/><item jid='rooms.localhost'/>" if "#items" in text else ""
                    feature = "<feature var='http://jabber.org/protocol/muc'/>" if "to='rooms." in text else ""
                    number = re.search(r"id='(.*?)'", text)[1]
                    say(f"<iq type='result' id='{number}'><query>{item}{feature}</query></iq>")
                elif text.startswith("<presence to="):
                    self.join(user, re.search(r"to='([^/]*)/", text)[1], say)
                elif "muc#owner" in text:
                    self.rooms[re.search(r"to='(.*?)'", text)[1]][:0] = [user]
                    say("<iq type='result' id='muc-open'/>")
                elif text.startswith("</stream"):
                    say("</stream:stream>")
                    writer.close()

    @staticmethod
    async def read(reader):
        try:
            return await reader.read(65536)
        except ConnectionError:
            return b""

    def join(self, user, room, say):
        """A room is locked, and nobody in it, until its maker has said that it may be as it is."""
        made, occupants = room in self.rooms, self.rooms.setdefault(room, [])
        if made and not occupants:
            say(f"<presence type='error' from='{room}/{user}'><error type='cancel'><item-not-found/></error></presence>")
        else:
            created = "" if made else "<status code='201'/>"
            say(f"<presence from='{room}/{user}'><x><status code='110'/>{created}</x></presence>")
            occupants += [user] if made else []

    def message(self, user, text):
        to = re.search(r"to='([^']*)'", text)[1]
        for occupant in self.rooms.get(to, [to.partition("@")[0]]):
            self.deliver(user, occupant, text)

    def deliver(self, user, to, text):
        out = self.writers.get(to)
        what = self.mishap(self.count) if not self.held.get((user, to)) else None
        self.count += 1
        text = text.replace("<message ", f"<message from='{user}@localhost/x' ").encode()
        if what:
            self.done[what] += 1
        if what == "swap":
            self.held[user, to] = text
            return
        for one in {"lose": [], "double": [text, text]}.get(what, [text]):
            out.write(one)
        if held := self.held.pop((user, to), None):
            out.write(held)


@pytest.mark.parametrize("what,figure", [("lose", "lost"), ("double", "doubled"), ("swap", "reordered")])
def test_what_a_bad_server_does_is_counted(tmp_path, what, figure):
    scenario, out = tmp_path / "s.yml", tmp_path / "out.json"
    scenario.write_text("name: bad\nsessions: 4\ndrain: 1\nphases:\n" + CONNECT + "  - { name: chat, seconds: 2, message: { rate: 100 } }\n"
                        "thresholds:\n  - lost == 0\n  - doubled == 0\n  - reordered == 0\n")
    with FakeServer(lambda n: what if n % 20 == 7 else None) as server:
        done = bench(scenario, "--port", server.port, "--direct", "--mechanism", "PLAIN", "--json", out)
        figures = json.loads(out.read_text())["figures"]
        wrong = {f: figures[f] for f in ("lost", "doubled", "reordered") if figures[f]}
        assert server.done[what] == 10
        assert wrong == {figure: 10} and done.returncode == 1
        assert figures["sent"] == server.count == 200


@pytest.mark.parametrize("what,figure", [("lose", "lost"), ("double", "doubled"), ("swap", "reordered"), (None, None)])
def test_what_a_bad_room_does_is_counted(tmp_path, what, figure):
    """Rooms of 4, 4 and 2; every delivery is one of the server's messages, which mishap() counts."""
    scenario, out = tmp_path / "s.yml", tmp_path / "out.json"
    scenario.write_text("name: rooms\nsessions: 10\ndrain: 1\nphases:\n" + CONNECT +
                        "  - { name: join, until: done, measure: false, group: { occupants: 4, parallel: 3 } }\n"
                        "  - { name: write, seconds: 2, group: { rate: 90, occupants: 4 } }\n"
                        "thresholds:\n  - lost == 0\n  - doubled == 0\n  - reordered == 0\n")
    with FakeServer(lambda n: what if n % 20 == 7 and n < 600 else None) as server:
        done = bench(scenario, "--port", server.port, "--direct", "--mechanism", "PLAIN", "--threads", 1, "--json", out)
        result = json.loads(out.read_text())
        figures = result["figures"]
        wrong = {f: figures[f] for f in ("lost", "doubled", "reordered", "missed", "errors", "unsent", "foreign") if figures[f]}
        assert sorted(map(len, server.rooms.values())) == [2, 4, 4] and result["not_offered"] == []
        assert figures["sent"] == server.count == 180 // 10 * (4 * 4 + 4 * 4 + 2 * 2)  # each writes in turn
        hits = server.done[what] if what else 0
        assert wrong == ({figure: hits} if what else {}) and done.returncode == bool(what)
        assert figures["count"] == figures["received"] == figures["sent"] - (hits if what == "lose" else 0)
        assert hits >= 20 or not what


def test_a_good_fake_server_is_clean(tmp_path):
    scenario, out = tmp_path / "s.yml", tmp_path / "out.json"
    scenario.write_text("name: good\nsessions: 4\nclient: { sm: true }\nphases:\n" + CONNECT +
                        "  - { name: chat, seconds: 1, message: { rate: 100 }, csi: { rate: 5 } }\n")
    with FakeServer(lambda n: None) as server:
        done = bench(scenario, "--port", server.port, "--direct", "--mechanism", "PLAIN", "--json", out)
        result = json.loads(out.read_text())
        assert done.returncode == 0 and clean(result)["received"] == 100
        assert sorted(result["not_offered"]) == ["csi", "sm"]
