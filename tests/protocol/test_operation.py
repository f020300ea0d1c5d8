"""What an operator sees: kill -9 under load, start, stop and reload, systemd, logs, rookeryctl, access rules."""
import contextlib
import ctypes
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pytest

import rig
from raw import Raw, StreamClosed, Timeout, get, qname, text
from test_rfc6120_sasl import mechanisms
from test_xep_0313 import Page, rsm

pytestmark = [pytest.mark.rookery, pytest.mark.single("one process: its signals, files and rookeryctl")]


def archive_bodies(raw):
    """All of the archive, page by page."""
    got, after = [], None
    while True:
        page = Page(raw, rsm(max=100, **({"after": after} if after else {})))
        got += page.bodies
        after = page.last
        if page.complete:
            return got


class Sender(threading.Thread):
    """Sends numbered messages to one account as fast as acknowledgements allow, until the connection breaks. .acked is the
    number of those that the server said to have handled."""

    def __init__(self, raw, to, prefix):
        super().__init__()
        self.raw, self.to, self.prefix, self.acked, self.sent = raw, to, prefix, 0, 0

    def run(self):
        self.raw.answer_acks = False
        try:
            while True:
                for _ in range(10):
                    self.raw.message(self.to, f"{self.prefix} {self.sent}")
                    self.sent += 1
                while self.sent - self.acked > 50:
                    self.acked = self.raw.acked()
                self.raw.send("<r xmlns='urn:xmpp:sm:3'/>")
                self.raw.log.clear()
        except (StreamClosed, Timeout):
            pass
        for e in self.raw.queue:  # acks that came but were not looked at
            if e.tag == qname("sm:a"):
                self.acked = max(self.acked, int(e.get("h")))


@pytest.mark.parametrize("recipient_online", [True, False])
@pytest.mark.smoke
def test_kill_9_loses_no_acknowledged_message(new_server, login, account, recipient_online):
    """Every acknowledged message is in the recipient's archive, once, in order; none twice."""
    server = new_server()
    who, senders = account(at=server), []
    reader = login(who, at=server, presence=True) if recipient_online else None
    for n in range(4):
        raw = login(account(at=server), at=server)
        raw.enable_sm()
        senders.append(Sender(raw, who.jid, f"s{n}"))
    for round_ in range(2):
        if round_:
            for s in senders:
                raw = login(s.raw.account, at=server)
                raw.enable_sm()
                s.raw = raw
            senders = [Sender(s.raw, who.jid, f"{s.prefix}r") for s in senders]
        for s in senders:
            s.start()
        deadline = time.monotonic() + 20
        while min(s.acked for s in senders) < 60 and time.monotonic() < deadline:
            time.sleep(0.01)
        server.kill()
        for s in senders:
            s.join()
        server.start()
        got = archive_bodies(login(who, at=server))
        for s in senders:
            mine = [int(b.split()[1]) for b in got if b.split()[0] == s.prefix]
            assert s.acked >= 60, "there was load"
            assert mine == list(range(len(mine))), f"{s.prefix}: in order, once, without holes"
            assert len(mine) >= s.acked, f"{s.prefix}: {s.acked} acknowledged, {len(mine)} archived"


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come"
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["signal", "rookeryctl"])
@pytest.mark.smoke
def test_reload_changes_certificate_and_drops_no_stream(new_server, login, account, how):
    server = new_server()
    raw = login(account(at=server), at=server)
    serial = lambda: Raw(server.tls_port, server.domain).start_tls().tls.get_peer_certificate().get_serial_number()
    before = serial()
    crt, key = rig.make_certificate(server.dir, server.domain, "-new")
    for new, old in zip((crt, key), server.certificates[server.domain]):
        shutil.copy(new, old)
    raw.ping()
    assert serial() == before
    server.reload() if how == "signal" else server.ctl("reload")
    wait_for(lambda: serial() != before)
    raw.ping()
    login(raw.account, at=server).ping()


def test_reload_changes_settings(new_server, secure):
    server = new_server()
    assert "PLAIN" in mechanisms(secure(at=server).features)
    server.settings = {"sasl": {"plain": False}}
    server.write_config()
    server.reload()
    wait_for(lambda: "PLAIN" not in mechanisms(secure(at=server).features))


def test_reload_of_nonsense_changes_nothing(new_server, login, account):
    server = new_server()
    raw = login(account(at=server), at=server)
    (server.dir / "rookery.yml").write_text("hosts: nonsense\nlisten: 7\n")
    server.reload()
    raw.ping()
    login(raw.account, at=server).ping()
    wait_for(lambda: re.search("level=(error|warn)", server.log()))


@pytest.mark.smoke
def test_sigterm_closes_streams_and_ends(new_server, login, account):
    server = new_server()
    raw = login(account(at=server), at=server, presence=True)
    thread = threading.Thread(target=server.stop)
    thread.start()
    raw.expect_close("system-shutdown")
    thread.join()
    assert server.process.returncode == 0


def test_check_names_every_mistake(server, tmp_path):
    (tmp_path / "bad.yml").write_text("hosts:\n  - domain: a.test\n    colour: blue\nlisten:\n  - port: 99999\n    mode: sideways\n")
    done = subprocess.run([rig.build_dir() / "rookeryd", "--check", tmp_path / "bad.yml"], capture_output=True, text=True)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    for line, word in ((3, "colour"), (5, "port"), (6, "mode")):
        assert re.search(rf"bad\.yml:{line}: .*{word}", said), said
    assert subprocess.run([rig.build_dir() / "rookeryd", "--check", server.dir / "rookery.yml"]).returncode == 0


def test_users_by_rookeryctl(new_server, secure):
    server = new_server()
    tries = lambda name, password: secure(at=server).auth(name, password)
    server.ctl("user", "add", "tybalt@rookery.test", "one")
    assert tries("tybalt", "one") is None
    with pytest.raises(RuntimeError):
        server.ctl("user", "add", "tybalt@rookery.test", "two")
    server.ctl("user", "passwd", "tybalt@rookery.test", "two")
    assert tries("tybalt", "two") is None and tries("tybalt", "one") == "not-authorized"
    server.ctl("user", "import", "--domain", "rookery.test", input="mercutio,three\nbenvolio,four\n")
    assert tries("benvolio", "four") is None
    listed = server.ctl("user", "list", "rookery.test")
    assert all(name in listed for name in ("tybalt", "mercutio", "benvolio"))
    server.ctl("user", "del", "tybalt@rookery.test")
    assert tries("tybalt", "two") == "not-authorized"
    with pytest.raises(RuntimeError):
        server.ctl("user", "add", "@@", "x")
    with pytest.raises(RuntimeError):
        server.ctl("user", "add", "x@elsewhere.test", "x")


@pytest.mark.smoke
def test_sessions_by_rookeryctl(server, login):
    raw = login(resource="seen")
    assert raw.jid in server.ctl("session", "list")
    json.loads(server.ctl("--json", "status"))
    server.ctl("session", "kick", raw.jid)
    raw.expect_close()


def test_deleting_a_user_ends_its_sessions(server, login, secure):
    raw = login()
    server.ctl("user", "del", raw.account.jid)
    raw.expect_close()
    assert secure().auth(raw.account.local, raw.account.password) == "not-authorized"


def test_log_has_no_secrets_and_no_control_characters(server, login, secure):
    """THREATS 38."""
    raw = login(resource="with space", presence=True)
    raw.message(raw.bare, "a very private body")
    raw.ping()
    secure().auth("evil\x1b[31m", "another secret", "PLAIN")
    log = server.log()
    assert "a very private body" not in log and raw.account.password not in log and "another secret" not in log
    assert "\x1b" not in log


def test_quickstart(tmp_path):
    """The one command of the README: accounts that can log in at both ports, started again as it was, stopped."""
    def run(*arguments):
        return subprocess.run([rig.ROOT / "deploy/quickstart", "--dir", tmp_path / "run", *arguments], capture_output=True,
                              text=True, timeout=500, stdin=subprocess.DEVNULL)
    base = rig.free_hundreds()
    first = run("--no-install", "--port-base", str(base), "--domain", "verona.test", "--user", "romeo:pw1", "--user",
                "juliet:pw2", "--detach")
    assert first.returncode == 0, first.stdout + first.stderr
    try:
        assert str(base + 22) in first.stdout and "romeo@verona.test" in first.stdout
        assert "pw1" not in first.stdout
        for port, direct in ((base + 22, False), (base + 23, True), (base + 43, False), (base + 43, True)):
            raw = Raw(port, "verona.test")
            if direct:
                raw.start_tls()
            else:
                raw.open()
                raw.starttls()
            raw.open()
            assert raw.auth("juliet", "pw2") is None
            raw.close()
        assert run("--no-install", "--detach").returncode != 0, "one node for a directory"
    finally:
        stopped = run("--stop")
    assert stopped.returncode == 0 and not (tmp_path / "run/rookeryd.pid").exists()
    with pytest.raises(OSError):
        Raw(base + 22, "verona.test")
    again = run("--no-install", "--detach")
    try:
        assert again.returncode == 0, again.stdout + again.stderr
        raw = Raw(base + 23, "verona.test").start_tls()
        raw.open()
        assert raw.auth("romeo", "pw1") is None, "what was there is kept"
    finally:
        run("--stop")


# -- systemd ---------------------------------------------------------------------------------------------------------


class Notified:
    """A systemd for one daemon: its socket, and what came to it."""

    def __init__(self, server, abstract=False, watchdog_us=None):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = f"@rookery-test-{server.dir.name}" if abstract else str(server.dir / "notify.sock")
        self.socket.bind("\0" + path[1:] if abstract else path)
        server.environment = {"NOTIFY_SOCKET": path}
        if watchdog_us:
            server.environment["WATCHDOG_USEC"] = str(watchdog_us)

    def next(self, seconds=10):
        self.socket.settimeout(seconds)
        return self.socket.recv(4096).decode()

    def hears(self, seconds):
        """Everything until it has been silent for so long, at most 100 messages."""
        heard = []
        try:
            while len(heard) < 100:
                heard.append(self.next(seconds))
        except OSError:  # time is over
            pass
        return heard

    def close(self):
        self.socket.close()


@pytest.fixture
def notified(new_server):
    """(a running server, what it tells systemd): notified(abstract=True, watchdog_us=400000)."""
    made = []

    def start(settings=None, **more):
        server = new_server(start=False, **(settings or {}))
        made.append(Notified(server, **more))
        server.start()
        return server, made[-1]
    yield start
    for n in made:
        n.close()


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_ready_and_stopping(notified, abstract):
    server, systemd = notified(abstract=abstract)
    assert systemd.next() == "READY=1"
    server.reload()
    wait_for(lambda: "event=reloaded" in server.log())
    server.stop()
    assert systemd.hears(0.1) == ["STOPPING=1"]


def test_systemd_watchdog_is_fed_in_time(notified):
    server, systemd = notified(watchdog_us=1000000)
    assert systemd.next() == "READY=1"
    for _ in range(6):
        assert systemd.next(1) == "WATCHDOG=1"
    server.stop()
    assert "STOPPING=1" in systemd.hears(0.1)


class Stalled:
    """One thread of a process stands still, by ptrace(2)."""
    SEIZE, INTERRUPT, DETACH, ALL = 0x4206, 0x4207, 17, 0x40000000

    def __init__(self, thread):
        self.thread, self.libc = thread, ctypes.CDLL(None, use_errno=True)

    def ptrace(self, request):
        if self.libc.ptrace(ctypes.c_long(request), ctypes.c_long(self.thread), None, None) < 0:
            raise OSError(ctypes.get_errno(), "ptrace")

    def __enter__(self):
        try:
            self.ptrace(self.SEIZE)
        except PermissionError:
            pytest.skip("no ptrace here")
        self.ptrace(self.INTERRUPT)
        os.waitpid(self.thread, self.ALL)

    def __exit__(self, *_):
        self.ptrace(self.DETACH)


def test_systemd_watchdog_starves_when_any_worker_stands_still(notified):
    """Not only the main thread's."""
    server, systemd = notified(watchdog_us=400000)
    assert systemd.next() == "READY=1"
    starved = 0
    for task in Path(f"/proc/{server.process.pid}/task").iterdir():
        with Stalled(int(task.name)):
            time.sleep(0.4)
            systemd.hears(0)
            starved += not systemd.hears(0.4)
        assert systemd.next() == "WATCHDOG=1"
    assert starved == 2, "the loops of both workers, and no other thread"


def test_systemd_watchdog_of_another_process_is_not_ours(notified):
    server, systemd = notified(watchdog_us=100000)
    assert systemd.next() == "READY=1" and systemd.next() == "WATCHDOG=1"
    server.stop()
    server.environment["WATCHDOG_PID"] = "1"
    systemd.hears(0.1)
    server.start()
    assert systemd.hears(0.5) == ["READY=1"]


# -- starting and stopping -------------------------------------------------------------------------------------------


def run_daemon(*arguments):
    return subprocess.run([rig.build_dir() / "rookeryd", *arguments], capture_output=True, text=True, timeout=60)


def test_sigterm_ends_within_seconds_with_sessions_open(new_server, login, account):
    """Also with sessions that wait for resumption and clients that read nothing."""
    server = new_server()
    who = account(at=server)
    waiting = login(who, at=server, presence=True)
    waiting.enable_sm()
    waiting.socket.close()
    silent = [login(who, f"r{n}", at=server, presence=True) for n in range(10)]
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 8
    for raw in silent:
        raw.expect_close("system-shutdown")
    assert "event=stopped" in server.log()
    assert not (server.dir / "rookeryd.pid").exists() and not (server.dir / "rookeryctl.sock").exists()


def test_stop_by_rookeryctl(new_server, login, account):
    server = new_server()
    raw = login(account(at=server), at=server)
    server.ctl("stop")
    raw.expect_close("system-shutdown")
    assert server.process.wait(20) == 0


def second(server, **settings):
    """Tries to start another daemon with the configuration of the first, changed; its exit code and words."""
    config = rig.merge(server.config(), settings)
    (server.dir / "second.yml").write_text(rig.to_yaml(config) + "\n")
    done = run_daemon("--config", server.dir / "second.yml")
    return done.returncode, done.stderr


def test_a_second_daemon_is_refused(new_server, login, account, tmp_path):
    server = new_server()
    ports = [{"address": "127.0.0.1", "port": rig.free_port(), "mode": "tls"}]
    web = [{"address": "127.0.0.1", "port": rig.free_port()}]
    elsewhere = {"path": tmp_path / "other.sqlite"}
    code, said = second(server)
    assert code == 1 and f"port {server.port}: another process listens there" in said
    code, said = second(server, storage=elsewhere, control={"socket": tmp_path / "s"})
    assert code == 1 and f"port {server.port}: another process listens there" in said
    code, said = second(server, listen=ports, http=web, control={"socket": tmp_path / "s"})
    assert code == 1 and "rookery.sqlite is in use by another server" in said
    code, said = second(server, listen=ports, http=web, storage=elsewhere)
    assert code == 1 and "rookeryctl.sock: another server listens there" in said
    login(account(at=server), at=server).ping()
    server.ctl("status")


def test_a_dead_daemon_leaves_nothing_in_the_way(new_server, login, account):
    server = new_server()
    who = account(at=server)
    server.kill()
    assert (server.dir / "rookeryctl.sock").exists()
    server.start()
    login(who, at=server).ping()


def test_start_failures_say_why(new_server, tmp_path):
    server = new_server()
    server.stop()

    def failure(**settings):
        code, said = second(server, **settings)
        assert code == 1
        return said
    assert "/nowhere/db" in failure(storage={"path": "/nowhere/db"})
    assert "listen on 192.0.2.1 port" in failure(listen=[{"address": "192.0.2.1", "port": 5222}])
    assert "/nowhere/sock" in failure(control={"socket": "/nowhere/sock"})
    key = server.certificates["second.test"][1]
    crt = server.certificates["rookery.test"][0]
    said = failure(hosts=[{"domain": "rookery.test", "certificate": crt, "key": key}])
    assert "rookery.test" in said and str(key) in said
    (tmp_path / "empty.yml").write_text("")
    assert "hosts" in run_daemon("--config", tmp_path / "empty.yml").stderr
    assert "/nowhere.yml" in run_daemon("--config", "/nowhere.yml").stderr


# -- configuration ---------------------------------------------------------------------------------------------------


def test_options_are_those_of_the_manual():
    assert run_daemon("--options").stdout == (rig.ROOT / "deploy/docs/options.md").read_text()


def test_example_configuration_is_good(tmp_path):
    """But for its certificates, which are not there."""
    crt, key = rig.make_certificate(tmp_path, "example.org")
    (tmp_path / "certs").mkdir()
    shutil.copy(crt, tmp_path / "certs/example.org.pem")
    shutil.copy(key, tmp_path / "certs/example.org.key")
    shutil.copy(rig.ROOT / "deploy/rookery.example.yml", tmp_path)
    done = run_daemon("--check", tmp_path / "rookery.example.yml")
    assert done.returncode == 0, done.stderr


def test_refused_reload_says_why(new_server, login, account):
    server = new_server()
    raw = login(account(at=server), at=server)
    good = (server.dir / "rookery.yml").read_text()
    (server.dir / "rookery.yml").write_text("hosts: nonsense\nlisten: 7\nlog:\n  colour: blue\n")
    server.reload()
    wait_for(lambda: server.log().count("event=reload-refused") >= 3)
    for line in (1, 2, 4):
        assert re.search(rf'event=reload-refused why=".*rookery\.yml:{line}: ', server.log())
    with pytest.raises(RuntimeError, match=r"rookery\.yml:4"):
        server.ctl("reload")
    (server.dir / "rookery.yml").write_text(good)
    server.certificates["rookery.test"][0].write_text("no certificate\n")
    server.reload()
    wait_for(lambda: re.search(r"event=reload-refused why=.*rookery\.test\.crt", server.log()))
    raw.ping()
    login(raw.account, at=server).ping()


def test_reload_names_what_needs_a_restart(new_server):
    server = new_server()
    server.settings = {"node": {"workers": 1}, "storage": {"max_batch": 7}, "sasl": {"plain": False}}
    server.write_config()
    server.ctl("reload")
    named = re.findall("event=needs-restart option=(.*)", server.log())
    assert sorted(named) == ["node.workers", "storage.max_batch"]


# -- log -------------------------------------------------------------------------------------------------------------


def test_log_file_is_reopened_and_changed(new_server, login, account):
    server = new_server(log={"path": "rookery.log", "level": "info"})
    log, other = server.dir / "rookery.log", server.dir / "other.log"
    who = account(at=server)
    login(who, "before", at=server)
    log.rename(server.dir / "rookery.log.1")
    server.reload()
    wait_for(lambda: log.exists() and "event=reloaded" in log.read_text())
    login(who, "after", at=server)
    old = (server.dir / "rookery.log.1").read_text()
    assert "/before" in old and "/after" not in old and "/after" in log.read_text()
    server.settings = {"log": {"path": "other.log", "level": "info"}}
    server.write_config()
    server.ctl("reload")
    login(who, "elsewhere", at=server)
    assert "/elsewhere" in other.read_text() and "/elsewhere" not in log.read_text()
    server.settings = {}
    server.write_config()
    server.ctl("reload")
    login(who, "last", at=server)
    assert "/last" in server.log() and "/last" not in other.read_text()


def test_json_log_lines_parse(new_server, login, account, secure):
    server = new_server(log={"format": "json", "level": "debug"})
    raw = login(account(at=server), 'strange "\\ é resource', at=server, presence=True)
    secure(at=server).auth("no\u202ebody\x7f", "wrong", "PLAIN")
    server.ctl("session", "kick", raw.jid)
    raw.expect_close()
    server.reload()
    wait_for(lambda: "reloaded" in server.log())
    server.stop()
    lines = [json.loads(line) for line in server.log().splitlines()]
    assert {"ready", "authenticated", "bound", "stopping", "stopped"} <= {line["event"] for line in lines}
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["level"] in ("error", "warn", "info", "debug") and line["event"]
    assert any(line.get("jid") == raw.jid for line in lines if line["event"] == "bound")


# -- rookeryctl ------------------------------------------------------------------------------------------------------


def test_json_of_every_command(new_server, login, account):
    server = new_server()
    call = lambda *words, **more: json.loads(server.ctl("--json", *words, **more))
    status = call("status")
    assert status["state"] == "running" and status["workers"] == 2 and status["hosts"] == list(rig.DOMAINS)
    assert call("user", "add", "benvolio@rookery.test", "-", input="secret\n")["jid"] == "benvolio@rookery.test"
    assert call("user", "passwd", "benvolio@rookery.test", "other")["jid"] == "benvolio@rookery.test"
    imported = call("user", "import", "--domain", "second.test", "--scram-iterations", "4096", input="a,1\nb,2\n")
    assert imported == {"created": 2, "bad": 0}
    listed = call("user", "list")
    assert set(listed["users"]) == {"benvolio@rookery.test", "a@second.test", "b@second.test"} and listed["count"] == 3
    assert call("user", "list", "SECOND.test")["count"] == 2
    who = account(at=server)
    raw = login(who, "desk", at=server, presence=True, roster=True)
    raw.result("set", "<query xmlns='jabber:iq:roster'><item jid='juliet@elsewhere.test' name='J'><group>x</group></item></query>")
    for sessions in (call("session", "list"), call("session", "list", who.jid)):
        assert [s["jid"] for s in sessions] == [raw.jid] and sessions[0]["available"] is True
    contact, = call("roster", "show", who.jid)
    assert (contact["jid"], contact["name"], contact["groups"], contact["subscription"]) == ("juliet@elsewhere.test", "J", ["x"], "none")
    raw.message(raw.bare, "to myself")
    raw.ping()
    wait_for(lambda: call("archive", "purge", who.jid, "--older-than", "0")["removed"] >= 1)
    assert call("archive", "purge", "--before", "2020-01-01") == {"removed": 0}
    assert call("session", "kick", raw.jid) == {"kicked": 1}
    assert call("user", "del", "a@second.test")["jid"] == "a@second.test"
    assert call("reload") is None
    assert call("stop") is None
    assert server.process.wait(20) == 0


def test_rookeryctl_says_what_is_wrong(server, account):
    def refused(*words, code=1, input=""):
        done = subprocess.run([rig.build_dir() / "rookeryctl", "--dir", server.dir, *words], input=input, text=True,
                              capture_output=True, timeout=60)
        assert (done.returncode, done.stdout) == (code, ""), done
        return done.stderr
    nobody = "nobody@rookery.test"
    for words in (["user", "del"], ["roster", "show"], ["session", "list"], ["session", "kick"]):
        assert "no such account" in refused(*words, nobody)
    assert "no such account" in refused("user", "passwd", nobody, "x")
    assert "no such session" in refused("session", "kick", account().jid)
    assert "no such host" in refused("user", "list", "elsewhere.test")
    assert "no such host" in refused("user", "add", "x@elsewhere.test", "x")
    assert "not the JID of an account" in refused("user", "del", "rookery.test")
    assert "not a bare JID" in refused("user", "del", f"{account().jid}/all")
    assert "no such account" in refused("user", "del", "x@elsewhere.test")
    assert "not the JID of an account" in refused("session", "kick", "rookery.test")
    assert "exists already" in refused("user", "add", account().jid, "x")
    assert "password" in refused("user", "add", nobody, "", code=2)
    assert "domain" in refused("user", "import", code=2)
    assert "date" in refused("archive", "purge")
    assert "unknown command" in refused("frobnicate", code=2)
    done = subprocess.run([rig.build_dir() / "rookeryctl", "--socket", "/nowhere", "status"], text=True, capture_output=True)
    assert done.returncode == 3 and "no server at /nowhere" in done.stderr


def test_kick_ends_one_session_or_all(server, login, account):
    who = account()
    one, two, three = (login(who, name, presence=True) for name in ("one", "two", "three"))
    server.ctl("session", "kick", one.jid)
    one.expect_close()
    two.ping()
    three.ping()
    server.ctl("session", "kick", who.jid)
    two.expect_close()
    three.expect_close()
    assert json.loads(server.ctl("--json", "session", "list", who.jid)) == []


def resume(raw, secure, enabled):
    """The answer to an attempt to resume raw's session on a new stream."""
    again = secure()
    assert again.auth(raw.account.local, raw.account.password) is None
    again.open()
    again.send(f"<resume xmlns='urn:xmpp:sm:3' h='{raw.handled}' previd='{enabled.get('id')}'/>")
    return again.expect_any("sm:resumed", "sm:failed")


def test_a_kicked_session_cannot_be_resumed(server, login, secure):
    raw = login(presence=True)
    enabled = raw.enable_sm()
    raw.socket.close()
    server.ctl("session", "kick", raw.account.jid)
    assert resume(raw, secure, enabled).tag == qname("sm:failed")


def test_a_new_password_ends_sessions(server, login, account, secure):
    """Those with a stream and those that wait for one."""
    who = account()
    raw, waiting = login(who, "open", presence=True), login(who, "waiting")
    enabled = waiting.enable_sm()
    waiting.socket.close()
    server.ctl("user", "passwd", who.jid, "another")
    raw.expect_close("not-authorized")
    assert secure().auth(who.local, who.password) == "not-authorized"
    who.password = "another"
    assert resume(waiting, secure, enabled).tag == qname("sm:failed")


def test_old_messages_are_removed(new_server, login, account):
    """archive.retention_days"""
    server = new_server()
    who = account(at=server)
    raw = login(who, at=server, presence=True)
    for body in ("old", "recent"):
        raw.message(raw.bare, body)
        raw.ping()
    wait_for(lambda: {"old", "recent"} <= set(archive_bodies(raw)))
    server.stop()
    with contextlib.closing(sqlite3.connect(server.dir / "rookery.sqlite")) as db, db:  # the old ones are of three days ago
        changed = db.execute("UPDATE message SET id = id - ? WHERE instr(CAST(stanza AS TEXT), '>old<')", (3 * 86400 * 10**6 * 16,)).rowcount
    assert changed
    server.settings = {"archive": {"retention_days": 2}}
    server.write_config()
    server.start()
    wait_for(lambda: "event=retention" in server.log())
    assert set(archive_bodies(login(who, at=server))) == {"recent"}


def test_import_tells_bad_lines(new_server, secure):
    server = new_server()
    lines = 'good,one\nno comma\n,empty\nbad user@x,two\n"quoted","with "" and ,"\ngood,again\n'
    done = subprocess.run([rig.build_dir() / "rookeryctl", "--dir", server.dir, "--json", "user", "import", "--domain", "rookery.test"],
                          input=lines, text=True, capture_output=True, timeout=60)
    assert done.returncode == 1 and json.loads(done.stdout) == {"created": 2, "bad": 4}
    for line in (2, 3, 4, 6):
        assert f"line {line}:" in done.stderr
    assert secure(at=server).auth("quoted", 'with " and ,') is None
    assert secure(at=server).auth("good", "one") is None


# -- access ----------------------------------------------------------------------------------------------------------


def test_access_by_jid_host_and_network(new_server, account, connect):
    """The first entry that fits decides; who fits none is allowed."""
    server = new_server(start=False, access=[
        {"action": "allow", "jid": "chosen@second.test", "network": "127.0.0.0/8"},
        {"action": "deny", "host": "second.test"},
        {"action": "deny", "jid": "shut@rookery.test"},
        {"action": "deny", "jid": "home@rookery.test", "network": "::1/128"},
        {"action": "allow", "network": "127.0.0.1"},
        {"action": "deny", "jid": "far@rookery.test"},
    ])
    server.settings["listen"] = [{"port": port, "mode": mode} for port, mode in zip(server.ports(), ("starttls", "tls", "auto"))]
    server.write_config()
    server.start()
    for jid in ("chosen@second.test", "other@second.test", "shut@rookery.test", "home@rookery.test", "far@rookery.test", "free@rookery.test"):
        server.ctl("user", "add", jid, "pw")

    def let_in(jid, host="127.0.0.1"):
        local, domain = jid.split("@")
        raw = connect(tls=True, domain=domain, at=server, host=host)
        raw.open()
        return raw.auth(local, "pw") is None
    assert let_in("chosen@second.test") and not let_in("other@second.test")
    assert not let_in("chosen@second.test", "::1")
    assert not let_in("shut@rookery.test")
    assert let_in("home@rookery.test") and not let_in("home@rookery.test", "::1")
    assert let_in("far@rookery.test") and not let_in("far@rookery.test", "::1")
    assert let_in("free@rookery.test", "::1")
    server.settings["access"] = []
    server.write_config()
    server.ctl("reload")
    assert let_in("shut@rookery.test") and let_in("other@second.test")
