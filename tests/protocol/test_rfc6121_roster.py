"""RFC 6121 section 2 (roster) and XEP-0237 (its versions)."""
import pytest

from raw import condition, every, get, text

QUERY = "<query xmlns='jabber:iq:roster'{}>{}</query>"


def roster(raw, ver=None):
    """The answer's <query/>, None when the answer is empty."""
    return get(raw.result("get", QUERY.format(f" ver='{ver}'" if ver is not None else "", "")), "roster:query")


def items(query):
    return {i.get("jid"): i for i in every(query, "roster:item")}


def put(raw, jid, attributes="", children=""):
    raw.result("set", QUERY.format("", f"<item jid='{jid}' {attributes}>{children}</item>"))


def push(raw):
    """The next roster push, answered; its item."""
    e = raw.expect("iq", type="set", where=lambda e: get(e, "roster:query") is not None)
    raw.send(f"<iq type='result' id='{e.get('id')}'/>")
    found = every(e, "roster:query/roster:item")
    assert len(found) == 1, "a push has one item"
    assert e.get("from") in (None, raw.bare)
    return found[0]


def test_empty(login):
    assert items(roster(login())) == {}


def test_add_and_change(login):
    raw = login(roster=True)
    put(raw, "nurse@rookery.test", "name='Nurse &amp; &lt;co&gt;'", "<group>Servants</group><group>House</group>")
    item = push(raw)
    assert (item.get("name"), item.get("subscription")) == ("Nurse & <co>", "none") and item.get("ask") is None
    put(raw, "nurse@rookery.test", "name='Angelica'")
    assert push(raw).get("name") == "Angelica"
    item = items(roster(raw))["nurse@rookery.test"]
    assert item.get("name") == "Angelica" and not every(item, "roster:group"), "a set replaces the item"


def test_groups(login):
    raw = login(roster=True)
    put(raw, "nurse@rookery.test", "", "<group>One</group><group>Zwei \u2603</group>")
    assert {g.text for g in every(push(raw), "roster:group")} == {"One", "Zwei \u2603"}


def test_remove(login):
    raw = login(roster=True)
    put(raw, "nurse@rookery.test")
    push(raw)
    put(raw, "nurse@rookery.test", "subscription='remove'")
    item = push(raw)
    assert (item.get("jid"), item.get("subscription")) == ("nurse@rookery.test", "remove")
    assert not items(roster(raw))


def test_remove_who_is_not_there(login):
    assert login().refused("set", QUERY.format("", "<item jid='nurse@rookery.test' subscription='remove'/>")) == "item-not-found"


def test_push_to_interested_only(login, account):
    """RFC 6121 2.1.6: resources that asked for the roster, available or not."""
    who = account()
    a, b, c = login(who, roster=True), login(who, roster=True, presence=True), login(who, presence=True)
    put(a, "nurse@rookery.test")
    assert push(a).get("jid") == push(b).get("jid") == "nurse@rookery.test"
    assert not [e for e in c.before(a) if e.tag.endswith("}iq")]


def test_subscription_cannot_be_set(login):
    raw = login(roster=True)
    put(raw, "nurse@rookery.test", "subscription='both' ask='subscribe' approved='true'")
    item = push(raw)
    assert item.get("subscription") == "none" and not item.get("ask") and not item.get("approved")


@pytest.mark.parametrize("payload,wanted", [
    ("", {"bad-request"}),
    ("<item jid='a@rookery.test'/><item jid='b@rookery.test'/>", {"bad-request"}),
    ("<item/>", {"bad-request", "jid-malformed"}),
    ("<item jid='@@'/>", {"jid-malformed", "bad-request"}),
    ("<item jid='a@rookery.test'><group>x</group><group>x</group></item>", {"bad-request"}),
    ("<item jid='a@rookery.test'><group/></item>", {"not-acceptable"}),
    ("<item jid='a@rookery.test' name='" + "n" * 2000 + "'/>", {"not-acceptable"}),
])
@pytest.mark.deviates("prosody", "lenient")
def test_bad_sets(login, payload, wanted):
    """RFC 6121 2.3.3."""
    raw = login(roster=True)
    assert raw.refused("set", QUERY.format("", payload)) in wanted
    assert not items(roster(raw))


def test_jid_is_prepared(login):
    raw = login(roster=True)
    put(raw, "NURSE@Rookery.TEST")
    assert push(raw).get("jid") == "nurse@rookery.test"
    put(raw, "nurse@rookery.test", "name='same'")
    assert len(items(roster(raw))) == 1


def test_roster_of_another(login):
    a, b = login(), login()
    assert a.refused("get", QUERY.format("", ""), to=b.bare) in ("forbidden", "service-unavailable", "not-allowed")
    for to in (b.bare, f"nobody@{b.domain}"):  # RFC 6121 2.1.5; and who asks learns nothing
        assert a.refused("set", QUERY.format("", "<item jid='x@rookery.test'/>"), to=to) == "forbidden"
    assert not items(roster(b))


def test_own_bare_jid(login):
    raw = login()
    assert items(get(raw.result("get", QUERY.format("", ""), to=raw.bare), "roster:query")) == {}


@pytest.mark.rookery
def test_limit_of_items(new_server, login, account):
    server = new_server(roster={"max_items": 3})
    raw = login(account(at=server), at=server, roster=True)
    for i in range(3):
        put(raw, f"x{i}@rookery.test")
    assert raw.refused("set", QUERY.format("", "<item jid='x3@rookery.test'/>")) in ("not-allowed", "resource-constraint", "policy-violation")
    put(raw, "x1@rookery.test", "name='changes are allowed'")


# -- XEP-0237 --------------------------------------------------------------------------------------------------------

def test_version_unchanged(login):
    raw = login()
    query = roster(raw, ver="")
    ver = query.get("ver")
    assert ver is not None
    assert roster(raw, ver=ver) is None, "an empty result: the client's copy is right"


@pytest.mark.deviates("prosody", "pushes the old version")
def test_version_changes(login, account):
    who = account()
    a = login(who)
    ver = roster(a, ver="").get("ver")
    put(a, "nurse@rookery.test")
    e = a.expect("iq", type="set")
    assert get(e, "roster:query").get("ver") not in (None, ver)
    b = login(who)
    query = roster(b, ver=ver)
    if query is None:  # the changes come as pushes
        assert push(b).get("jid") == "nurse@rookery.test"
    else:
        assert "nurse@rookery.test" in items(query) and query.get("ver") != ver


def test_version_unknown(login):
    raw = login()
    put(raw, "nurse@rookery.test")
    assert "nurse@rookery.test" in items(roster(raw, ver="no-such-version"))


def test_survives_restart(new_server, login, account):
    server = new_server()
    who = account(at=server)
    raw = login(who, at=server)
    query = roster(raw, ver="")
    put(raw, "nurse@rookery.test", "name='Nurse'", "<group>House</group>")
    server.restart()
    query = roster(login(who, at=server), ver="")
    item = items(query)["nurse@rookery.test"]
    assert item.get("name") == "Nurse" and text(item, "roster:group") == "House"
