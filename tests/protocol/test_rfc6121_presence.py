"""RFC 6121 sections 3 (subscriptions) and 4 (presence)."""
import pytest

from conftest import befriend
from raw import condition, every, get, qname, text
from test_rfc6121_roster import items, put, roster


def expect_item(raw, jid, **attributes):
    """A roster push for jid whose item has these attributes (None: absent)."""
    def fits(e):
        i = get(e, "roster:query/roster:item")
        return i is not None and i.get("jid") == jid and all(i.get(k) == v for k, v in attributes.items())
    return raw.expect("iq", type="set", where=fits)


def subscriptions(a, b):
    """(a's subscription to b, b's to a) as both rosters say."""
    return tuple((items(roster(x)).get(y.bare).get("subscription") if y.bare in items(roster(x)) else None) for x, y in ((a, b), (b, a)))


@pytest.fixture
def two(login):
    return login(presence=True, roster=True), login(presence=True, roster=True)


# -- subscriptions ---------------------------------------------------------------------------------------------------

def test_handshake(two):
    a, b = two
    a.presence(to=b.bare, type="subscribe")
    expect_item(a, b.bare, subscription="none", ask="subscribe")
    request = b.expect("presence", type="subscribe")
    assert request.get("from") == a.bare and b.bare == request.get("to").split("/")[0]
    assert a.bare not in items(roster(b)), "an inbound request is not in the roster (RFC 6121 3.1.3)"
    b.presence(to=a.bare, type="subscribed")
    expect_item(b, a.bare, subscription="from")
    assert a.expect("presence", type="subscribed").get("from") == b.bare
    expect_item(a, b.bare, subscription="to", ask=None)
    assert a.expect("presence", type=None, from_=b.jid) is not None, "the contact's presence follows"
    assert subscriptions(a, b) == ("to", "from")


@pytest.mark.smoke
def test_mutual(friends):
    a, b = friends()
    assert subscriptions(a, b) == ("both", "both")


def test_full_jids_count_as_bare(two):
    a, b = two
    a.presence(to=b.jid, type="subscribe")
    assert b.expect("presence", type="subscribe").get("from") == a.bare
    b.presence(to=a.jid, type="subscribed")
    assert a.expect("presence", type="subscribed").get("from") == b.bare


def test_request_carries_its_status(two):
    a, b = two
    a.presence("<status>It is me</status>", to=b.bare, type="subscribe")
    assert text(b.expect("presence", type="subscribe"), "status") == "It is me"


def test_request_waits_for_login(login, account):
    """RFC 6121 3.1.3: until the contact answers, at every login."""
    a, who = login(presence=True, roster=True), account()
    a.presence("<status>Hi</status>", to=who.jid, type="subscribe")
    expect_item(a, who.jid, ask="subscribe")
    for _ in range(2):
        b = login(who, presence=True, roster=True)
        request = b.expect("presence", type="subscribe", from_=a.bare)
        assert text(request, "status") == "Hi"
        b.close()
        b.expect_close() if not b.eof else None
    b = login(who, presence=True, roster=True)
    b.presence(to=a.bare, type="unsubscribed")
    a.expect("presence", type="unsubscribed", from_=who.jid)
    b.close()
    again = login(who, presence=True, roster=True)
    assert not [e for e in again.before() if e.get("type") == "subscribe"]


def test_deny(two):
    a, b = two
    a.presence(to=b.bare, type="subscribe")
    b.expect("presence", type="subscribe")
    b.presence(to=a.bare, type="unsubscribed")
    a.expect("presence", type="unsubscribed")
    expect_item(a, b.bare, subscription="none", ask=None)


def test_cancel_by_contact(friends):
    """RFC 6121 3.2."""
    a, b = friends()
    b.presence(to=a.bare, type="unsubscribed")
    assert a.expect("presence", type="unsubscribed").get("from") == b.bare
    a.expect("presence", type="unavailable", from_=b.jid)
    expect_item(a, b.bare, subscription="from")
    expect_item(b, a.bare, subscription="to")


@pytest.mark.deviates("prosody", "no unavailable to who unsubscribes")
def test_unsubscribe(friends):
    """RFC 6121 3.3."""
    a, b = friends()
    a.presence(to=b.bare, type="unsubscribe")
    assert b.expect("presence", type="unsubscribe").get("from") == a.bare
    expect_item(a, b.bare, subscription="from")
    expect_item(b, a.bare, subscription="to")
    a.expect("presence", type="unavailable", from_=b.jid)


def test_removal_cancels_both(friends):
    """RFC 6121 2.5.2."""
    a, b = friends()
    put(a, b.bare, "subscription='remove'")
    expect_item(b, a.bare, subscription="none")
    for kind in ("unsubscribe", "unsubscribed"):
        assert b.expect("presence", type=kind).get("from") == a.bare
    b.expect("presence", type="unavailable", from_=a.jid)
    assert subscriptions(a, b) == (None, "none")


@pytest.mark.deviates("prosody", "its own order of events")
def test_preapproval(two):
    """RFC 6121 3.4: the subscribe is answered without asking again."""
    a, b = two
    b.presence(to=a.bare, type="subscribed")
    expect_item(b, a.bare, approved="true", subscription="none")
    a.presence(to=b.bare, type="subscribe")
    assert a.expect("presence", type="subscribed").get("from") == b.bare
    expect_item(b, a.bare, subscription="from")
    assert not [e for e in b.before(a) if e.get("type") == "subscribe"]


@pytest.mark.deviates("prosody", "keeps approved in another way")
def test_preapproval_withdrawn(two):
    a, b = two
    b.presence(to=a.bare, type="subscribed")
    expect_item(b, a.bare, approved="true")
    b.presence(to=a.bare, type="unsubscribed")
    a.presence(to=b.bare, type="subscribe")
    assert b.expect("presence", type="subscribe").get("from") == a.bare


def test_subscribe_again_is_answered_by_the_server(friends):
    """RFC 6121 3.1.3: the contact is not bothered. (The answer is not shown to the user: 3.1.6, nothing was pending.)"""
    a, b = friends()
    a.presence(to=b.bare, type="subscribe")
    a.ping()
    assert not [e for e in b.before(a) if e.get("type") == "subscribe"]


def test_unasked_subscribed_changes_nothing(two):
    a, b = two
    b.presence(to=a.bare, type="subscribed")
    b.presence(to=a.bare, type="unsubscribed")
    assert not [e for e in a.before(b) if e.tag == qname("presence")]
    assert b.bare not in items(roster(a))


@pytest.mark.parametrize("kind", ["subscribe", "subscribed", "unsubscribe", "unsubscribed"])
@pytest.mark.deviates("prosody", "tells by unavailable")
def test_to_nobody(login, kind):
    """THREATS 25: no difference between nobody and somebody who does not answer."""
    raw = login(presence=True, roster=True)
    raw.presence(to=f"nobody@{raw.domain}", type=kind)
    seen = [e for e in raw.before() if e.tag == qname("presence")]
    assert all(e.get("type") in ("unsubscribed", "error") for e in seen)


def test_to_oneself(login):
    raw = login(presence=True, roster=True)
    raw.presence(to=raw.bare, type="subscribe")
    raw.before()
    assert raw.bare not in items(roster(raw)) or items(roster(raw))[raw.bare].get("subscription") != "both"


def test_requests_survive_restart(new_server, login, account):
    server = new_server()
    one, two = account(at=server), account(at=server)
    a = login(one, at=server, presence=True, roster=True)
    a.presence(to=two.jid, type="subscribe")
    expect_item(a, two.jid, ask="subscribe")
    a.ping()
    server.restart()
    b = login(two, at=server, presence=True, roster=True)
    assert b.expect("presence", type="subscribe").get("from") == one.jid


# -- presence --------------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_initial_presence_both_ways(friends, login):
    """RFC 6121 4.2, 4.3: contacts are told, and probed for us."""
    a, b = friends()
    c = login(b.account, "cellar", roster=True)
    c.send("<presence><show>away</show><status>down here</status><priority>3</priority></presence>")
    assert c.expect("presence", from_=a.jid, type=None) is not None
    for raw in (a, b):
        e = raw.expect("presence", from_=c.jid, type=None)
        assert (text(e, "show"), text(e, "status"), text(e, "priority")) == ("away", "down here", "3")
    assert c.expect("presence", from_=b.jid, type=None) is not None, "the other resource of the account"


def test_update_is_broadcast(friends):
    a, b = friends()
    a.send("<presence><show>dnd</show></presence>")
    assert text(b.expect("presence", from_=a.jid), "show") == "dnd"


@pytest.mark.parametrize("how", ["presence", "close", "cut"])
def test_unavailable_is_broadcast(friends, how):
    a, b = friends()
    if how == "presence":
        a.send("<presence type='unavailable'><status>bye</status></presence>")
    elif how == "close":
        a.send("</stream:stream>")
    else:
        a.cut()
    e = b.expect("presence", from_=a.jid, type="unavailable")
    assert how != "presence" or text(e, "status") == "bye"


def test_no_presence_without_subscription(two):
    a, b = two
    a.send("<presence><show>away</show></presence>")
    assert not [e for e in b.before(a) if e.tag == qname("presence")]


def test_one_way_subscription(two):
    a, b = two
    a.presence(to=b.bare, type="subscribe")
    b.expect("presence", type="subscribe")
    b.presence(to=a.bare, type="subscribed")
    a.expect("presence", type=None, from_=b.jid)
    a.send("<presence><show>xa</show></presence>")
    assert not [e for e in b.before(a) if e.tag == qname("presence") and e.get("type") is None]
    b.send("<presence><show>dnd</show></presence>")
    assert text(a.expect("presence", from_=b.jid), "show") == "dnd"


def test_directed_presence(two):
    """RFC 6121 4.6: told of the end, too, and once only."""
    a, b = two
    a.send(f"<presence to='{b.jid}'><status>for you</status></presence>")
    assert text(b.expect("presence", from_=a.jid), "status") == "for you"
    a.send("<presence type='unavailable'/>")
    b.expect("presence", from_=a.jid, type="unavailable")
    a.ping()
    assert not [e for e in b.before(a) if e.tag == qname("presence")]


def test_directed_presence_ends_with_the_connection(two):
    a, b = two
    a.send(f"<presence to='{b.jid}'/>")
    b.expect("presence", from_=a.jid)
    a.cut()
    b.expect("presence", from_=a.jid, type="unavailable")


def test_directed_unavailable(friends):
    """RFC 6121 4.6.3: then nothing more is sent to them at the end, as they were told, until the next available."""
    a, b = friends()
    a.send(f"<presence to='{b.jid}' type='unavailable'/>")
    b.expect("presence", from_=a.jid, type="unavailable")


def test_probe_by_subscriber(friends):
    a, b = friends()
    a.presence(to=b.bare, type="probe")
    assert a.expect("presence", from_=b.jid, type=None) is not None


def test_probe_tells_strangers_nothing(two):
    """THREATS 25: the same for an account one is not subscribed to as for none."""
    a, b = two
    answers = []
    for to in (b.bare, f"nobody@{a.domain}"):
        a.presence(to=to, type="probe")
        answers.append([(e.tag, e.get("type"), condition(e)) for e in a.before() if e.tag == qname("presence")])
    assert answers[0] == answers[1] and all(t in ("unsubscribed", "error") for _, t, _ in answers[0])
    assert not [e for e in b.before() if e.tag == qname("presence")]


def test_probe_of_an_unavailable_contact(friends, login):
    a, b = friends()
    b.send("<presence type='unavailable'/>")
    a.expect("presence", from_=b.jid, type="unavailable")
    a.presence(to=b.bare, type="probe")
    e = [e for e in a.before(b) if e.tag == qname("presence")]
    assert all(x.get("type") == "unavailable" for x in e)


@pytest.mark.parametrize("priority", ["128", "-129", "many", ""])
@pytest.mark.deviates("prosody", "lenient")
def test_bad_priority(login, priority):
    """RFC 6121 4.7.2.3."""
    raw = login()
    raw.send(f"<presence id='p'><priority>{priority}</priority></presence>")
    assert condition(raw.expect("presence", id="p", type="error")) == "bad-request"


def test_unknown_type(login):
    raw = login()
    raw.send("<presence id='p' type='sleepy'/>")
    assert condition(raw.expect("presence", id="p", type="error")) == "bad-request"


def test_own_resources_see_each_other(login, account):
    who = account()
    a, b = login(who, "a", presence=True), login(who, "b", presence=True)
    assert a.expect("presence", from_=b.jid) is not None and b.expect("presence", from_=a.jid) is not None
    b.close()
    a.expect("presence", from_=b.jid, type="unavailable")


def test_payload_is_kept(friends):
    """Caps and others' extensions go along."""
    a, b = friends()
    a.send("<presence><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:x' ver='QgayPKawpkPSDYmwT/WM94uAlu0='/></presence>")
    e = b.expect("presence", from_=a.jid)
    assert e.find("{http://jabber.org/protocol/caps}c").get("ver") == "QgayPKawpkPSDYmwT/WM94uAlu0="
