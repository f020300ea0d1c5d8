"""XEP-0012: last activity."""
import pytest

from raw import get
from test_xep_small import block, info

NS = "jabber:iq:last"
LAST = f"<query xmlns='{NS}'/>"


def last(raw, to=None):
    """(seconds, status)"""
    query, = raw.result("get", LAST, to)
    assert query.tag == f"{{{NS}}}query"
    return int(query.get("seconds")), query.text


def test_announced(login):
    raw = login()
    assert NS in info(raw, raw.domain)[1] and NS in info(raw, raw.bare)[1]


def test_uptime(login):
    raw = login()
    seconds, status = last(raw, raw.domain)
    assert 0 <= seconds < 86400 and status is None


def test_of_a_contact(friends):
    a, b = friends()
    assert last(a, b.bare) == (0, None)
    b.presence("<status>Heading Home &amp; on</status>", type="unavailable")
    a.expect("presence", type="unavailable", from_=b.jid)
    seconds, status = last(a, b.bare)
    assert seconds < 60 and status == "Heading Home & on"
    b.close()  # what was said at leaving stays
    assert last(a, b.bare)[1] == "Heading Home & on"


def test_without_a_farewell(friends, login):
    a, b = friends()
    second = login(b.account, "chamber", presence=True)
    b.send("</stream:stream>")
    a.expect("presence", type="unavailable", from_=b.jid)
    assert last(a, b.bare) == (0, None)
    second.send("</stream:stream>")
    a.expect("presence", type="unavailable", from_=second.jid)
    assert last(a, b.bare)[1] is None
    assert last(login(b.account))[0] < 60  # one's own, while nothing else is online


@pytest.mark.rookery
def test_never_there(login):
    assert login().refused("get", LAST) == "item-not-found"


@pytest.mark.rookery
def test_strangers(login):
    """THREATS 25: presence is for those who may see it; a stranger cannot tell accounts and resources from none."""
    a, b = (login(presence=True, roster=True) for _ in "ab")
    for to in (b.bare, b.jid, f"nobody@{a.domain}", f"nobody@{a.domain}/x", f"{b.bare}/nowhere"):
        assert a.refused("get", LAST, to) == "forbidden"
    assert not [e for e in b.before() if e.tag.endswith("iq")]
    b.presence(to=a.bare, type="subscribe")
    a.expect("presence", type="subscribe")
    a.presence(to=b.bare, type="subscribed")
    b.expect("presence", type="subscribed")
    assert last(b, a.bare) == (0, None)
    assert a.refused("get", LAST, b.bare) == "forbidden"  # a does not see b


def test_clients_answer(friends):
    """At a full JID a contact's client is asked, and one's own."""
    a, b = friends()
    for asking, to in ((a, b), (b, b)):
        asking.send(f"<iq type='get' id='f' to='{to.jid}'>{LAST}</iq>")
        q = to.expect("iq", type="get", id="f", from_=asking.jid)
        assert get(q, f"{{{NS}}}query") is not None or q[0].tag == f"{{{NS}}}query"
        to.send(f"<iq type='result' id='f' to='{asking.jid}'><query xmlns='{NS}' seconds='123'/></iq>")
        assert asking.expect("iq", type="result", id="f")[0].get("seconds") == "123"


def test_blocked(friends):
    a, b = friends()
    block(b, a.bare)
    assert a.refused("get", LAST, b.bare) == "service-unavailable"
