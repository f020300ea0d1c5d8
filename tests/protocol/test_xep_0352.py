"""XEP-0352: what waits while the client is inactive, what brings it along, and what becomes of it when the stream is lost.

Presence is sent directed here: on its way from one session to another it then keeps its order with messages, so that a
message proves what came before it, without waiting for a time."""
import pytest

from raw import get, qname, text
from test_xep_0198 import again, managed  # noqa: F401  (fixtures)

INACTIVE, ACTIVE = "<inactive xmlns='urn:xmpp:csi:0'/>", "<active xmlns='urn:xmpp:csi:0'/>"
STATES = "http://jabber.org/protocol/chatstates"


def show(raw, to, value, **more):
    raw.presence(f"<show>{value}</show>", to=to.jid, **more)


def state(raw, to, name):
    raw.message(to.jid, body=None, extra=f"<{name} xmlns='{STATES}'/>")


def until_body(raw):
    """What came, up to and with the first message with a body, as short words."""
    seen = []
    while not seen or get(seen[-1], "body") is None:
        seen.append(raw.next())
    return [word(e) for e in seen]


def word(e):
    kind = e.tag.split("}")[1]
    if kind == "presence":
        return e.get("type") or text(e, "show") or "available"
    if (body := text(e, "body")) is not None:
        return body
    states = [c.tag.split("}")[1] for c in e.iter() if c.tag.startswith("{%s}" % STATES)]
    return states[0] if states else kind


@pytest.fixture
def phone(login):
    """A session with presence whose client is not looked at."""
    def make(*a, **k):
        raw = login(*a, presence=True, **k)
        raw.send(INACTIVE)
        raw.ping()
        return raw
    return make


def test_announced_after_login(secure, login):
    assert get(secure().features, "{urn:xmpp:csi:0}csi") is None
    assert get(login().features, "{urn:xmpp:csi:0}csi") is not None


@pytest.mark.rookery
def test_switched_off(new_server, login, account):
    server = new_server(c2s={"csi_max_held": 0})
    a, b = (login(account(at=server), at=server, presence=True) for _ in range(2))
    assert get(a.features, "{urn:xmpp:csi:0}csi") is None
    a.send(INACTIVE)
    a.ping()
    show(b, a, "away")
    show(b, a, "dnd")
    b.message(a.jid, "hello")
    assert until_body(a) == ["away", "dnd", "hello"]


@pytest.mark.smoke
def test_the_latest_presence_goes_before_a_message(phone, login):
    a, b = phone(), login()
    for value in ("away", "xa", "dnd"):
        show(b, a, value)
    b.message(a.jid, "hello")
    assert until_body(a) == ["dnd", "hello"]
    show(b, a, "chat")
    b.message(a.jid, "still inactive")
    show(b, a, "away")
    show(b, a, "xa")
    b.message(a.jid, "and again")
    assert until_body(a) == ["chat", "still inactive"] and until_body(a) == ["xa", "and again"]


def test_unavailable_takes_the_place_of_available(phone, login):
    a, b = phone(), login()
    show(b, a, "away")
    b.presence(to=a.jid, type="unavailable")
    b.message(a.jid, "gone")
    assert until_body(a) == ["unavailable", "gone"]


def test_each_resource_has_its_own(phone, login):
    a, b = phone(), login()
    other = login(b.account)
    show(b, a, "away")
    show(other, a, "dnd")
    other.message(a.jid, "one")
    b.message(a.jid, "two")
    seen = until_body(a) + until_body(a)
    assert sorted(seen) == ["away", "dnd", "one", "two"]
    assert seen.index("away") < seen.index("two") and seen.index("dnd") < seen.index("one")


def test_the_latest_chat_state(phone, login):
    a, b = phone(), login()
    for name in ("active", "composing", "paused"):
        state(b, a, name)
    b.message(a.jid, "hello")
    assert until_body(a) == ["paused", "hello"]
    state(b, a, "composing")
    b.message(a.jid, "written", extra=f"<active xmlns='{STATES}'/>")
    assert until_body(a) == ["written"], "a message with a state of its own makes the one before it void"


def test_in_the_order_of_the_last_change(phone, login):
    a, b = phone(), login()
    show(b, a, "away")
    state(b, a, "composing")
    show(b, a, "dnd")
    b.message(a.jid, "hello")
    assert until_body(a) == ["composing", "dnd", "hello"]


def test_what_does_not_wait(phone, login):
    """Subscriptions, errors, receipts, iqs, and a room's answer to a join."""
    a, b = phone(), login()
    b.presence(to=a.bare, type="subscribe")
    a.expect("presence", type="subscribe")
    b.presence("<x xmlns='http://jabber.org/protocol/muc#user'><status code='110'/></x>", to=a.jid)
    a.expect("presence", from_=b.jid)
    b.message(a.jid, body=None, extra=f"<received xmlns='urn:xmpp:receipts' id='1'/><active xmlns='{STATES}'/>")
    a.expect("message", from_=b.jid)
    show(b, a, "away")
    b.send(f"<iq type='get' to='{a.jid}' id='q1'><ping xmlns='urn:xmpp:ping'/></iq>")
    assert [e.tag for e in (a.next(), a.next())] == [qname("presence"), qname("iq")]
    b.presence(type="error", to=a.jid)
    a.expect("presence", type="error")


def test_active_brings_it(phone, login):
    a, b = phone(), login()
    show(b, a, "away")
    state(b, a, "composing")
    a.send(ACTIVE)
    assert text(a.expect("presence", from_=b.jid), "show") == "away"
    a.expect("message", from_=b.jid)
    for value in ("xa", "dnd"):
        show(b, a, value)
    assert [text(a.expect("presence", from_=b.jid), "show") for _ in range(2)] == ["xa", "dnd"], "nothing waits any more"


def test_own_answers_bring_it(phone, login):
    """XEP-0352 5.1: what was held comes before the answer to what was asked later."""
    a, b = phone(), login()
    show(b, a, "away")
    while not any(e.tag == qname("presence") for e in a.queue):
        a.ping()
    assert a.queue[0].tag == qname("presence")


def test_chat_states_in_carbons(phone, login):
    a, b = phone(), login(presence=True)
    a.result("set", "<enable xmlns='urn:xmpp:carbons:2'/>")
    desktop = login(a.account)
    for name in ("composing", "paused", "composing"):
        state(desktop, b, name)
    desktop.message(b.jid, "from the desktop")
    body = a.expect("message", where=lambda e: "from the desktop" in "".join(e.itertext()))
    assert [word(e) for e in a.queue] == ["composing"] and body.get("from") == a.bare


@pytest.mark.rookery
def test_limit(new_server, login, account):
    server = new_server(c2s={"csi_max_held": 1})
    a, b = (login(account(at=server), at=server, presence=True) for _ in range(2))
    a.send(INACTIVE)
    a.ping()
    show(b, a, "away")
    state(b, a, "composing")
    assert [word(a.next()) for _ in range(2)] == ["away", "composing"]


# -- with XEP-0198 ---------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_held_and_resumed(managed, again, login):  # noqa: F811
    """Held while there is a stream and while there is none; resumed, also on another node, the client has all of it, once,
    and is active."""
    a, b = managed(), login()
    a.send(INACTIVE)
    a.ping()
    show(b, a, "away")
    b.message(a.jid, "seen")
    assert until_body(a) == ["away", "seen"]
    show(b, a, "xa")
    show(b, a, "dnd")
    a.cut()
    show(b, a, "chat")
    b.message(a.jid, "missed")
    state(b, a, "composing")
    state(b, a, "paused")
    show(b, a, "away")
    b.ping()
    c, reply = again(a)
    assert reply.tag == qname("sm:resumed")
    assert until_body(c) == ["chat", "missed"]
    assert [word(c.next()) for _ in range(2)] == ["paused", "away"]
    show(b, a, "xa")
    show(b, a, "dnd")
    assert [word(c.next()) for _ in range(2)] == ["xa", "dnd"], "a resumed stream is active"
    c.send(f"<a xmlns='urn:xmpp:sm:3' h='{c.handled}'/>")
    c.ping()


def test_held_is_not_counted(managed, login):  # noqa: F811
    """Nobody is asked to acknowledge what has not been sent, and acknowledging it is too high."""
    a, b = managed(), login()
    a.send(INACTIVE)
    a.ping()
    show(b, a, "away")
    a.acked()
    a.send(f"<a xmlns='urn:xmpp:sm:3' h='{a.handled + 1}'/>")
    a.expect_close("undefined-condition")


def test_resumed_while_the_old_connection_lives(managed, again, login):  # noqa: F811
    a, b = managed(), login()
    a.send(INACTIVE)
    a.ping()
    show(b, a, "away")
    b.message(b.jid, "passed")  # what b sent before has left it
    b.ping()
    c, reply = again(a)
    assert reply.tag == qname("sm:resumed")
    assert word(c.expect("presence", from_=b.jid)) == "away"
    a.expect_close()


def test_a_pipelined_inactive_after_resumption(managed, login):  # noqa: F811
    a, b = managed(), login()
    a.cut()
    c = login(a.account, bind=False)
    c.send(f"<resume xmlns='urn:xmpp:sm:3' previd='{a.previd}' h='{a.handled}'/>{INACTIVE}")
    c.expect("sm:resumed")
    for value in ("xa", "dnd"):
        show(b, a, value)
    b.message(a.jid, "hello")
    assert until_body(c) == ["dnd", "hello"]
