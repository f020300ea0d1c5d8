"""abuse.strangers: refused. Messages of those who are not in the recipient's roster."""
import pytest

import rig
from conftest import Account
from raw import condition, get, qname, text

pytestmark = pytest.mark.rookery


def bodies(raw):
    return [text(e, "body") for e in raw.before() if e.tag == qname("message")]


@pytest.fixture(scope="module")
def strict():
    s = rig.new_server(abuse={"strangers": "refused"}, contacts=[{"role": "admin", "address": f"xmpp:chief@{rig.DOMAINS[0]}?message"}])
    try:
        yield s.start()
    finally:
        s.stop()
        s.remove()


@pytest.fixture
def two(strict, login, account):
    return [login(account(at=strict), at=strict, presence=True, roster=True) for _ in "ab"]


def refused(a, to, body="x"):
    """As for an account that is not there."""
    replies = []
    for address in (to, f"nobody@{a.domain}"):
        id = a.message(address, body)
        e = a.expect("message", type="error", id=id)
        replies.append((condition(e), get(e, "error").get("type"), text(e, "error/e:text")))
    assert replies[0] == replies[1]
    return replies[0][0]


def test_refused(two):
    a, b = two
    for to in (b.bare, b.jid):
        assert refused(a, to) == "service-unavailable"
    a.message(b.bare, None, extra="<composing xmlns='http://jabber.org/protocol/chatstates'/>")
    a.message(b.bare, "head", type="headline")
    a.ping()
    assert not bodies(b) and not a.before()


def test_kept_for_nobody(strict, login, account, two):
    who = account(at=strict)
    refused(two[0], who.jid)
    b = login(who, at=strict)
    b.send("<presence/>")
    assert not bodies(b)


def test_contacts(two):
    a, b = two
    b.result("set", f"<query xmlns='jabber:iq:roster'><item jid='{a.bare}'/></query>")
    a.message(b.bare, "in the roster")
    assert text(b.expect("message", type="chat"), "body") == "in the roster"
    b.result("set", f"<query xmlns='jabber:iq:roster'><item jid='{a.bare}' subscription='remove'/></query>")
    refused(a, b.bare)


def test_asking(two):
    """A request is no message; who was asked may write, who asks may not yet."""
    a, b = two
    a.presence(to=b.bare, type="subscribe")
    b.expect("presence", type="subscribe")
    refused(a, b.bare)
    b.message(a.bare, "who are you?")
    assert text(a.expect("message", type="chat"), "body") == "who are you?"


def test_answers(two):
    a, b = two
    b.message(a.bare, "hello?", type="chat")
    b.expect("message", type="error")  # b is a stranger to a as well
    a.message(b.bare, "hello!")
    assert text(b.expect("message", type="chat"), "body") == "hello!"
    b.message(a.bare, "how are you")
    assert text(a.expect("message", type="chat"), "body") == "how are you"


def test_presence_was_sent(two):
    """Rooms, for instance."""
    a, b = two
    b.send(f"<presence to='{a.jid}'/>")
    a.expect("presence", from_=b.jid)
    a.message(b.jid, "welcome", type="normal")
    assert text(b.expect("message"), "body") == "welcome"


def test_own_and_errors(strict, login, two):
    a, b = two
    other = login(a.account, at=strict, presence=True)
    other.message(a.jid, "to myself")
    assert text(a.expect("message", type="chat"), "body") == "to myself"
    a.send(f"<message to='{b.jid}' type='error' id='e'><error type='cancel'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>")
    assert condition(b.expect("message", type="error", id="e")) == "gone"


def test_operators(strict, login, two):
    strict.add_user("chief", two[0].domain, "secret")
    chief = login(Account("chief", two[0].domain, "secret"), at=strict)
    chief.message(two[0].bare, "maintenance at noon")
    assert text(two[0].expect("message", type="chat"), "body") == "maintenance at noon"


@pytest.mark.single("the hosts of a cluster are the rig's")
def test_per_host(new_server, login, account):
    server = new_server(start=False)
    hosts = [{"domain": d, "certificate": c, "key": k} for d, (c, k) in server.certificates.items()]
    next(h for h in hosts if h["domain"] == rig.DOMAINS[1])["strangers"] = "allowed"
    server.settings = {"abuse": {"strangers": "refused"}, "hosts": hosts}
    server.write_config()
    server.start()
    strict, open_ = (login(account(domain=d, at=server), at=server, presence=True) for d in rig.DOMAINS[:2])
    strict.message(open_.bare, "hello")
    assert text(open_.expect("message", type="chat"), "body") == "hello"
    third = login(account(at=server), at=server)
    assert refused(third, strict.bare) == "service-unavailable"
