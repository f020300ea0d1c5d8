"""XEP-0033: extended stanza addressing, by the host itself."""
import pytest

from raw import condition, get, qname, text
from test_xep_0313 import Page
from test_xep_small import block, info

pytestmark = pytest.mark.rookery
NS = "http://jabber.org/protocol/address"


def addresses(*list):
    return f"<addresses xmlns='{NS}'>" + "".join(f"<address type='{t}' jid='{j}'/>" for t, j in list) + "</addresses>"


def of(message):
    return [(a.get("type"), a.get("jid"), a.get("delivered")) for a in message.find(f"{{{NS}}}addresses")]


def bodies(raw):
    return [text(e, "body") for e in raw.before() if e.tag == qname("message")]


def test_announced(login):
    raw = login()
    assert NS in info(raw, raw.domain)[1]


def test_to_cc_bcc(login):
    a, b, c, d, e = (login(presence=True) for _ in range(5))
    a.message(a.domain, "hello", extra=addresses(("to", b.bare), ("cc", c.jid), ("bcc", d.bare), ("bcc", e.bare),
                                                 ("replyto", a.bare)), id="m")
    seen = [("to", b.bare, "true"), ("cc", c.jid, "true"), ("replyto", a.bare, None)]
    for raw, to, blind in ((b, b.bare, []), (c, c.jid, []), (d, d.bare, [d]), (e, e.bare, [e])):
        m = raw.expect("message", type="chat", id="m")
        assert (m.get("from"), m.get("to"), text(m, "body")) == (a.jid, to, "hello")
        assert of(m) == seen + [("bcc", x.bare, None) for x in blind]
        assert Page(raw).ids == [get(m, "sid:stanza-id").get("id")]
    assert not a.before()
    assert {m.get("to") for m in Page(a).messages} == {b.bare, c.jid, d.bare, e.bare}


def test_carbons_of_the_sender(login, account):
    who = account()
    a, other, b = login(who), login(who, presence=True), login(presence=True)
    other.result("set", "<enable xmlns='urn:xmpp:carbons:2'/>")
    a.message(a.domain, "hello", extra=addresses(("to", b.bare)))
    b.expect("message", type="chat")
    carbon = other.expect("message", where=lambda e: get(e, "carbons:sent") is not None)
    assert get(carbon, "carbons:sent/fwd:forwarded/message").get("to") == b.bare
    assert not a.before()


def test_once_each(login, account):
    """Twice named, or delivered already."""
    a, b, c, offline = login(presence=True), login(presence=True), login(presence=True), account()
    a.message(a.domain, "one", extra=addresses(("to", b.bare), ("cc", b.bare), ("bcc", b.bare), ("to", offline.jid)))
    assert text(b.expect("message", type="chat"), "body") == "one"
    done = addresses(("to", b.bare)).replace("/>", " delivered='true'/>").replace("</add", f"<address type='cc' jid='{c.bare}'/></add", 1)
    a.message(a.domain, "two", extra=done)
    assert text(c.expect("message", type="chat"), "body") == "two"
    assert bodies(b) == []
    d = login(offline)
    d.send("<presence/>")
    assert text(d.expect("message", type="chat"), "body") == "one"


def test_two_resources(login, account):
    who = account()
    a, b, c = login(presence=True), login(who, "b", presence=True), login(who, "c", presence=True)
    origin = "<origin-id xmlns='urn:xmpp:sid:0' id='o'/>"
    for _ in range(2):  # the second time it is a repetition
        a.message(a.domain, "x", extra=addresses(("to", b.jid), ("to", c.jid)) + origin)
    a.ping()
    assert bodies(b) == bodies(c) == ["x"]
    assert len(Page(a).ids) == 2


@pytest.mark.parametrize("payload,error", [
    (addresses(("to", "@@")), "jid-malformed"),
    (f"<addresses xmlns='{NS}'><address type='to' uri='sip:x@y'/></addresses>", "jid-malformed"),
    (addresses(("replyto", "x@rookery.test")), "bad-request"), (addresses(), "bad-request"),
    (addresses(*(("to", f"u{i}@rookery.test") for i in range(51))), "not-acceptable"), ("", "service-unavailable")])
def test_refused(login, payload, error):
    raw = login()
    id = raw.message(raw.domain, "x", extra=payload)
    assert condition(raw.expect("message", type="error", id=id)) == error


def test_blocked(login):
    """Nobody gets it when one may not; and who has blocked the sender does not."""
    a, b, c = (login(presence=True) for _ in range(3))
    block(a, b.bare)
    a.message(a.domain, "x", extra=addresses(("to", b.bare), ("to", c.bare)), id="m")
    assert condition(a.expect("message", type="error", id="m")) == "not-acceptable"
    block(c, a.bare)
    d = login(presence=True)
    a.message(a.domain, "y", extra=addresses(("to", c.bare), ("to", d.bare)), id="n")
    assert condition(a.expect("message", type="error", id="n", from_=c.bare)) == "service-unavailable"
    assert bodies(d) == ["y"] and bodies(b) == bodies(c) == []


def test_elsewhere(login):
    raw = login()
    raw.message(raw.domain, "x", extra=addresses(("to", "x@elsewhere.test")), id="m")
    assert condition(raw.expect("message", type="error", id="m", from_="x@elsewhere.test")) == "remote-server-not-found"


def test_off(new_server, login, account):
    server = new_server(multicast={"max_recipients": 0})
    raw = login(account(at=server), at=server)
    raw.message(raw.domain, "x", extra=addresses(("to", raw.bare)), id="m")
    assert condition(raw.expect("message", type="error", id="m")) == "service-unavailable"
    assert NS not in info(raw, raw.domain)[1]
