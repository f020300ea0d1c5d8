"""XEPs that are one question and one answer: 0030 disco, 0092 version, 0199 ping, 0202 time, 0191 blocking."""
import re
from datetime import datetime, timedelta, timezone

import pytest

from raw import condition, every, get, qname, text
from test_rfc6121_presence import expect_item

INFO = "<query xmlns='http://jabber.org/protocol/disco#info'/>"
ITEMS = "<query xmlns='http://jabber.org/protocol/disco#items'/>"


def info(raw, to):
    query = get(raw.result("get", INFO, to), "info:query")
    return ({(i.get("category"), i.get("type")) for i in every(query, "info:identity")},
            [f.get("var") for f in every(query, "info:feature")])


# -- XEP-0030 --------------------------------------------------------------------------------------------------------

def test_info_of_the_server(login):
    raw = login()
    identities, features = info(raw, raw.domain)
    assert ("server", "im") in identities
    assert {"http://jabber.org/protocol/disco#info", "http://jabber.org/protocol/disco#items", "urn:xmpp:ping", "urn:xmpp:time",
            "jabber:iq:version", "urn:xmpp:carbons:2", "urn:xmpp:blocking"} <= set(features)
    assert len(features) == len(set(features)), "no feature twice"


def test_offline_feature(login):
    raw = login()
    assert "msgoffline" in info(raw, raw.domain)[1]


def test_info_of_the_account(login):
    raw = login()
    identities, features = info(raw, raw.bare)
    assert ("account", "registered") in identities
    assert {"urn:xmpp:mam:2", "urn:xmpp:mam:2#extended", "urn:xmpp:sid:0"} <= set(features)
    assert len(features) == len(set(features))


@pytest.mark.parametrize("query,node", [(INFO, "no-such-node"), (ITEMS, "no-such-node")])
def test_unknown_node(login, query, node):
    raw = login()
    assert raw.refused("get", query.replace("/>", f" node='{node}'/>"), raw.domain) == "item-not-found"


def test_items(login):
    raw = login()
    for to in (raw.domain, raw.bare):
        assert get(raw.result("get", ITEMS, to), "items:query") is not None


def test_info_of_others(login, friends):
    """THREATS 24: strangers learn nothing, and not whether there is such an account."""
    a, b = login(), login()
    nobody = f"nobody@{a.domain}"
    for node in ("/>", " node='x'/>"):
        assert {a.refused("get", INFO.replace("/>", node), to) for to in (b.bare, nobody)} == {"service-unavailable"}
        for to in (b.bare, nobody):  # XEP-0030 section 8
            query = get(a.result("get", ITEMS.replace("/>", node), to), "items:query")
            assert query is not None and not len(query)


def test_info_of_a_contact(friends):
    a, b = friends()
    assert ("account", "registered") in info(a, b.bare)[0]


def test_resources_of_a_contact(friends, login):
    """XEP-0030 section 4: those that are available."""
    a, b = friends()
    login(b.account, "silent")
    hidden = login(b.account, "chamber", presence=True)
    a.expect("presence", from_=hidden.jid)
    for who in (a, b):
        assert {e.get("jid") for e in get(who.result("get", ITEMS, b.bare), "items:query")} == {b.jid, hidden.jid}
    hidden.send("<presence type='unavailable'/>")
    a.expect("presence", type="unavailable", from_=hidden.jid)
    assert [e.get("jid") for e in get(a.result("get", ITEMS, b.bare), "items:query")] == [b.jid]


# -- XEP-0199, 0202, 0092 --------------------------------------------------------------------------------------------

def test_ping(login):
    raw = login()
    for to in (None, raw.domain, raw.bare):
        assert raw.request("get", "<ping xmlns='urn:xmpp:ping'/>", to).get("type") == "result"
    assert raw.refused("set", "<ping xmlns='urn:xmpp:ping'/>", raw.domain) in ("service-unavailable", "bad-request",
                                                                           "feature-not-implemented", "not-allowed")


def test_time(login):
    raw = login()
    reply = raw.result("get", "<time xmlns='urn:xmpp:time'/>", raw.domain)
    assert re.fullmatch(r"Z|[+-]\d\d:\d\d", text(reply, "time:time/time:tzo"))
    utc = datetime.fromisoformat(text(reply, "time:time/time:utc").replace("Z", "+00:00"))
    assert abs(utc - datetime.now(timezone.utc)) < timedelta(seconds=60)


def test_version(login):
    raw = login()
    reply = raw.result("get", "<query xmlns='jabber:iq:version'/>", raw.domain)
    assert text(reply, "version:query/version:name") and text(reply, "version:query/version:version")


@pytest.mark.rookery
def test_version_hidden(login):
    raw = login()
    assert get(raw.result("get", "<query xmlns='jabber:iq:version'/>", raw.domain), "version:query/version:os") is None


# -- XEP-0191 --------------------------------------------------------------------------------------------------------

def block(raw, *jids, name="block"):
    raw.result("set", f"<{name} xmlns='urn:xmpp:blocking'>" + "".join(f"<item jid='{j}'/>" for j in jids) + f"</{name}>")


def blocklist(raw):
    reply = raw.result("get", "<blocklist xmlns='urn:xmpp:blocking'/>")
    return {i.get("jid") for i in every(reply, "blocking:blocklist/blocking:item")}


def test_blocklist(login, account):
    who = account()
    a, other = login(who), login(who)
    assert blocklist(a) == set() and blocklist(other) == set()
    block(a, "x@rookery.test", "elsewhere.test")
    assert blocklist(a) == {"x@rookery.test", "elsewhere.test"}
    e = other.expect("iq", type="set", where=lambda e: get(e, "blocking:block") is not None)
    assert {i.get("jid") for i in every(e, "blocking:block/blocking:item")} == {"x@rookery.test", "elsewhere.test"}
    block(a, "x@rookery.test", name="unblock")
    assert blocklist(a) == {"elsewhere.test"}
    block(a, name="unblock")
    assert blocklist(a) == set()
    e = other.expect("iq", type="set", where=lambda e: get(e, "blocking:unblock") is not None and not len(get(e, "blocking:unblock")))


@pytest.mark.parametrize("payload,error", [("<block xmlns='urn:xmpp:blocking'/>", "bad-request"),
                                           ("<block xmlns='urn:xmpp:blocking'><item jid='@@'/></block>", "jid-malformed"),
                                           ("<block xmlns='urn:xmpp:blocking'><item/></block>", "bad-request")])
def test_bad_block(login, payload, error):
    assert login().refused("set", payload) in (error, "jid-malformed", "bad-request")


@pytest.mark.deviates("prosody", "drops what goes to a full JID")
def test_blocked_messages_bounce(friends):
    a, b = friends()
    block(a, b.bare)
    b.expect("presence", type="unavailable", from_=a.jid)
    id = b.message(a.jid)
    assert condition(b.expect("message", type="error", id=id)) == "service-unavailable"
    assert b.refused("get", INFO, a.jid) == "service-unavailable"
    b.send("<presence><show>dnd</show></presence>")
    b.expect("presence", from_=b.jid)
    assert not a.before()
    block(a, b.bare, name="unblock")
    b.expect("presence", type=None, from_=a.jid)
    b.message(a.jid, "again")
    assert text(a.expect("message", type="chat"), "body") == "again"


def test_sending_to_the_blocked(friends):
    a, b = friends()
    block(a, b.bare)
    id = a.message(b.jid)
    e = a.expect("message", type="error", id=id)
    assert condition(e) == "not-acceptable" and get(e, "error/blocked:blocked") is not None
    assert get(e, "error").get("type") == "cancel"
    assert a.refused("get", INFO, b.jid) == "not-acceptable"
    b.expect("presence", type="unavailable", from_=a.jid)
    for kind in ({}, {"type": "unavailable"}, {"type": "probe"}, {"type": "unsubscribe"}):
        a.presence(to=b.bare, **kind)
        e = a.expect("presence", type="error", from_=b.bare)
        assert condition(e) == "not-acceptable" and get(e, "error/blocked:blocked") is not None
    assert not [e for e in b.before() if e.tag in (qname("message"), qname("presence"))]


def test_blocked_domain(login):
    a, b = login(presence=True), login(presence=True)
    block(a, b.domain)
    id = b.message(a.bare)
    assert condition(b.expect("message", type="error", id=id)) == "service-unavailable"


@pytest.mark.deviates("prosody", "drops what goes to a full JID")
def test_blocked_full_jid(login, account):
    who = account()
    a, b, c = login(presence=True), login(who, "bad", presence=True), login(who, "good", presence=True)
    block(a, b.jid)
    id = b.message(a.jid)
    assert condition(b.expect("message", type="error", id=id)) == "service-unavailable"
    c.message(a.jid, "fine")
    assert text(a.expect("message", type="chat"), "body") == "fine"


def test_blocked_offline(login, account):
    """Nothing of theirs is kept either."""
    a, b = login(presence=True), login(presence=True)
    block(a, b.bare)
    who = a.account
    a.close()
    b.message(who.jid, "for later")
    b.expect("message", type="error")
    again = login(who)
    again.send("<presence/>")
    assert not [e for e in again.before() if e.tag == qname("message")]


def test_blocked_subscription_request(login):
    a, b = login(presence=True, roster=True), login(presence=True, roster=True)
    block(a, b.bare)
    b.presence(to=a.bare, type="subscribe")
    expect_item(b, a.bare, ask="subscribe")
    assert not [e for e in a.before() if e.tag == qname("presence")]


def test_headlines_and_iq_errors_of_the_blocked_are_dropped(login):
    a, b = login(presence=True), login(presence=True)
    block(a, b.bare)
    b.send(f"<presence to='{a.jid}'/><iq type='result' to='{a.jid}' id='r'/>")
    b.ping()
    assert not a.before()
