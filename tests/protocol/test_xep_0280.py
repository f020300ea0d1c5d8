"""XEP-0280: carbons."""
import pytest

from raw import NS, every, get, qname, text

ENABLE, DISABLE = "<enable xmlns='urn:xmpp:carbons:2'/>", "<disable xmlns='urn:xmpp:carbons:2'/>"


def carbon(e):
    """(kind, the forwarded message) of a carbon, (None, None) of any other message."""
    for kind in ("received", "sent"):
        inner = get(e, f"carbons:{kind}/fwd:forwarded/message")
        if inner is not None:
            return kind, inner
    return None, None


def carbons(elements):
    return [(kind, text(inner, "body")) for e in elements if e.tag == qname("message") for kind, inner in [carbon(e)] if kind]


@pytest.fixture
def three(login, account):
    """a and b of one account, b with carbons; and somebody else."""
    who = account()
    a, b, other = login(who, "a", presence=True), login(who, "b", presence=True), login(presence=True)
    b.result("set", ENABLE)
    a.before()
    b.before(a)
    return a, b, other


def test_received(three):
    a, b, other = three
    other.message(a.jid, "hi")
    assert text(a.expect("message", type="chat"), "body") == "hi"
    e = b.expect("message")
    kind, inner = carbon(e)
    assert kind == "received" and text(inner, "body") == "hi"
    assert e.get("from") == a.bare and e.get("to") == b.jid and e.get("type") == "chat"
    assert inner.get("from") == other.jid and inner.get("to") == a.jid


@pytest.mark.smoke
def test_sent(three):
    a, b, other = three
    id = a.message(other.bare, "hello")
    e = b.expect("message")
    kind, inner = carbon(e)
    assert kind == "sent" and inner.get("id") == id and inner.get("to") == other.bare and inner.get("from") == a.jid
    assert e.get("from") == a.bare
    assert not carbons(a.before()), "not to the sender itself"


def test_not_twice(three):
    """A message that b gets anyway is no carbon too."""
    a, b, other = three
    other.message(a.bare, "both")
    other.ping()
    seen = b.before(other)
    copies = [e for e in seen if text(e, "body") == "both"] + carbons(seen)
    assert len(copies) == 1
    assert not carbons(a.before(other))


def test_disable(three):
    a, b, other = three
    b.result("set", DISABLE)
    other.message(a.jid)
    a.expect("message", type="chat")
    assert not carbons(b.before(other))


def test_not_by_default(login, account):
    who = account()
    a, b, other = login(who, presence=True), login(who, presence=True), login(presence=True)
    other.message(a.jid)
    a.expect("message", type="chat")
    assert not carbons(b.before(other))


def test_twice_enabled(three):
    _, b, _ = three
    b.result("set", ENABLE)


@pytest.mark.parametrize("marker", ["<private xmlns='urn:xmpp:carbons:2'/>", "<no-copy xmlns='urn:xmpp:hints'/>"])
def test_private(three, marker):
    a, b, other = three
    other.message(a.jid, "psst", extra=marker)
    e = a.expect("message", type="chat")
    a.message(other.jid, "psst", extra=marker)
    other.expect("message", type="chat")
    assert not carbons(b.before(a) + b.before(other))


@pytest.mark.parametrize("kind,copied", [("chat", True), ("normal", True), ("headline", False), ("groupchat", False)])
def test_types(three, kind, copied):
    a, b, other = three
    other.message(a.jid, "x", kind)
    a.expect("message")
    assert bool(carbons(b.before(other))) == copied


def test_normal_without_body(three):
    """XEP-0280 6.1: a normal message counts when it has a body; chat always."""
    a, b, other = three
    other.message(a.jid, None, "normal", extra="<x xmlns='urn:x'/>")
    a.expect("message")
    assert not carbons(b.before(other))


def test_receipts_are_copied(three):
    a, b, other = three
    other.message(a.jid, None, "chat", extra="<received xmlns='urn:xmpp:receipts' id='x'/>")
    a.expect("message")
    seen = b.before(other)
    assert [kind for kind, _ in carbons(seen)] == ["received"]


@pytest.mark.parametrize("kind", ["received", "sent"])
@pytest.mark.deviates("prosody", "lets it through: clients must look at the sender")
def test_forged(three, kind):
    """THREATS 23: many clients believed them. None reaches one, nested or not."""
    a, b, other = three
    inner = (f"<{kind} xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' "
             f"from='{a.bare}' to='{a.bare}' type='chat'><body>forged</body></message></forwarded></{kind}>")
    other.message(a.jid, "real", extra=inner + inner)
    for raw in (a, b):
        for e in raw.before(other):
            if e.tag != qname("message"):
                continue
            outer, content = carbon(e)
            assert text(content if outer and e.get("from") == raw.bare else e, "body") != "forged"
            if e.get("from") != raw.bare:
                assert outer is None
            else:
                assert not every(content, f"carbons:{kind}")


def test_to_offline_resources_of_the_sender(login, account):
    """Carbons of what the account sends to itself do not multiply."""
    who = account()
    a, b = login(who, presence=True), login(who, presence=True)
    for raw in (a, b):
        raw.result("set", ENABLE)
    a.message(b.jid, "across")
    b.expect("message", type="chat", where=lambda e: text(e, "body") == "across")
    a.ping()
    assert len(carbons(b.before(a))) <= 1 and len(carbons(a.before())) <= 1
