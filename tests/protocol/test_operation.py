"""What an operator sees: kill -9 under load, reload, stop, rookeryctl."""
import json
import re
import shutil
import subprocess
import threading
import time

import pytest

import rig
from raw import Raw, StreamClosed, Timeout, get, qname, text
from test_rfc6120_sasl import mechanisms
from test_xep_0313 import Page, rsm

pytestmark = pytest.mark.rookery


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


def test_access_rules(new_server, login, account, secure):
    server = new_server(access=[{"action": "deny", "host": "second.test"}])
    one, two = account(at=server), account(domain="second.test", at=server)
    login(one, at=server).ping()
    assert secure(at=server, domain="second.test").auth(two.local, two.password) is not None


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
    base = rig.free_port() % 40000 + 20000
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
