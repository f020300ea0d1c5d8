"""A phone's day, with real clients: xmpp.js is the phone, slixmpp and aioxmpp are its five contacts.

It logs in by token in one round trip (XEP-0388, 0386, 0484), is looked at, is put away (XEP-0352), loses its connection
(XEP-0198), is told of what comes by its app server (XEP-0357), and comes back: everything is there, once, in order."""
import socket
import threading
import time

import pytest

from test_clients import Client, start  # noqa: F401  (fixture)
from test_xep_0357 import App

pytestmark = pytest.mark.rookery
ROUNDS = ("away", "composing"), ("dnd", "paused"), ("xa", "composing"), ("away", "paused"), ("xa", "active")


class Air:
    """What is between the phone and the server: it counts the phone's bytes, and can be gone."""

    def __init__(self, server):
        self.server, self.dir, self.down, self.links = server, server.dir, 0, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.tls_port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                phone = self.listener.accept()[0]
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.server.tls_port))
            self.links += [phone, far]
            for one, other, down in ((phone, far, False), (far, phone, True)):
                threading.Thread(target=self._pass, args=(one, other, down), daemon=True).start()

    def _pass(self, one, other, down):
        try:
            while data := one.recv(65536):
                self.down += len(data) if down else 0
                other.sendall(data)
        except OSError:
            pass
        for s in (one, other):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        for s in self.links:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.close()
        self.cut()


@pytest.fixture
def air(server):
    a = Air(server)
    yield a
    a.close()


@pytest.fixture
def phone(air, account, monkeypatch, tmp_path):
    """The program that has logged in by password once, and now by the token it was given."""
    who, programs = account(name="phone"), []
    monkeypatch.setenv("TOKENS", str(tmp_path / "tokens"))
    for _ in range(2):
        programs.append(Client("xmpp.js", who, air, "tls"))
        programs[-1].login = programs[-1].expect("login")[0]
        if len(programs) == 1:
            assert programs[0].login.startswith("authenticate:SCRAM")
            programs[0].quit()
    phone = programs[-1]
    phone.air = air
    monkeypatch.delenv("TOKENS")
    yield phone
    for p in programs:
        p.kill()


def befriend(a, b):
    for x, y in ((a, b), (b, a)):
        x.do("subscribe", y.bare)
        y.expect("presence", x.bare, "subscribe")
        y.do("subscribed", x.bare)
        x.expect("presence", y.bare, "subscribed")
        x.expect("presence", y.jid, "available")


def bustle(contacts, phone):
    """What contacts do all day: each ends as xa, with the chat state `active`."""
    for show, state in ROUNDS:
        for c in contacts:
            c.do("show", show).do("state", phone.bare, state)
    for c in contacts:
        c.do("roster").expect("roster")  # what came before it has been done


def collect(phone, contacts, messages):
    """Events until each contact's presence is the last one and its messages are here; by contact: shows, states,
    messages, each in order of coming."""
    seen = {c.jid: {"presence": [], "state": [], "message": []} for c in contacts}

    def whole(s):
        return len(s["message"]) >= messages and s["presence"][-1:] == ["xa"] and s["state"][-1:] == ["active"]
    deadline = time.monotonic() + 30
    while not all(whole(s) for s in seen.values()):
        kinds = ("presence", "state", "message", "delayed")
        line = next((line for line in phone.lines if line[0] in kinds and line[1] in seen), None)
        if line:
            phone.lines.remove(line)
            seen[line[1]]["message" if line[0] == "delayed" else line[0]].append(line[-1])
        else:
            phone.more(deadline, f"end of {seen}")
    return seen


def test_a_phones_day(start, phone, login, capsys):  # noqa: F811
    assert phone.login == "authenticate:HT-SHA-256-NONE", "one element sent, and it was online: one round trip"
    app = App(login())
    phone.do("roster").expect("roster")
    phone.do("presence").expect("presence", phone.jid, "available")
    phone.do("push", app.jid, "node").expect("push")
    contacts = [start(library) for library in ("slixmpp", "slixmpp", "slixmpp", "aioxmpp", "aioxmpp")]
    for c in contacts:
        befriend(phone, c)

    # in the hand: everything comes as it happens
    before = phone.air.down
    bustle(contacts, phone)
    for c in contacts:
        c.do("chat", phone.bare, "morning")
    seen = collect(phone, contacts, 1)
    active = phone.air.down - before
    for s in seen.values():
        assert s == {"presence": [show for show, _ in ROUNDS], "state": [state for _, state in ROUNDS],
                     "message": ["morning"]}

    # in the pocket: the same happens, the last of it comes with the messages
    phone.do("inactive").do("roster").expect("roster")
    before = phone.air.down
    bustle(contacts, phone)
    for c in contacts:
        c.do("chat", phone.bare, "noon")
    phone.do("active")  # a presence might have been overtaken by all messages
    seen = collect(phone, contacts, 1)
    inactive = phone.air.down - before
    for s in seen.values():
        assert s["message"] == ["noon"] and len(s["presence"]) + len(s["state"]) < 2 * len(ROUNDS)
    with capsys.disabled():
        print(f"\nto the phone, {len(contacts)} contacts, {2 * len(ROUNDS)} changes each: {active} bytes active, "
              f"{inactive} inactive")
    assert inactive < active / 2

    # in the tunnel
    phone.do("inactive").do("away").do("roster").expect("roster")
    bustle(contacts, phone)
    phone.air.cut()
    for n in ("1", "2"):
        for c in contacts:
            c.do("chat", phone.bare, f"evening {n}")
    counts = []
    while not counts or counts[-1] < 2 * len(contacts):
        counts.append(int(app.next(timeout=30)["message-count"]))
    assert counts == sorted(set(counts)), "each message was told once"

    # back again, maybe on another node: by token and resumption in one round trip
    phone.do("back")
    assert phone.expect("login")[0] == "authenticate:HT-SHA-256-NONE"
    assert phone.expect("resumed") == [phone.jid]
    seen = collect(phone, contacts, 2)
    for s in seen.values():
        assert s["message"] == ["evening 1", "evening 2"]
    contacts[0].do("chat", phone.bare, "night")
    assert phone.expect("message", contacts[0].jid)[1] == "night"
    assert not [e for e in phone.lines if e[0] in ("message", "delayed")], "once"
    phone.quit()
    assert not [e for e in app.raw.before() if e.tag.endswith("}iq")]
