"""XEP-0313 (urn:xmpp:mam:2 and #extended), XEP-0059 pages, XEP-0359 stanza-ids."""
from datetime import datetime, timedelta, timezone

import pytest

from raw import condition, every, get, new_id, qname, text

STORE = "<store xmlns='urn:xmpp:hints'/>"


def form(**fields):
    """A data form of the archive; a list makes several values."""
    out = "<field var='FORM_TYPE' type='hidden'><value>urn:xmpp:mam:2</value></field>"
    for var, v in fields.items():
        values = "".join(f"<value>{x}</value>" for x in (v if isinstance(v, list) else [v]))
        out += f"<field var='{var.rstrip('_').replace('_', '-')}'>{values}</field>"
    return f"<x xmlns='jabber:x:data' type='submit'>{out}</x>"


def rsm(**fields):
    return "<set xmlns='http://jabber.org/protocol/rsm'>" + "".join(
        f"<{k}>{v}</{k}>" if v is not None else f"<{k}/>" for k, v in fields.items()) + "</set>"


class Page:
    """A query's results: .ids, .bodies (None without), .messages, and the <fin/> as .complete, .first, .last, .count."""

    def __init__(self, raw, payload="", to=None, flip=False):
        queryid, id = new_id(), new_id()
        target = f" to='{to}'" if to else ""
        raw.send(f"<iq type='set' id='{id}'{target}><query xmlns='urn:xmpp:mam:2' queryid='{queryid}'>{payload}"
                 + ("<flip-page/>" if flip else "") + "</query></iq>")
        done = raw.expect("iq", id=id)
        self.error = condition(done)
        results = [e for e in raw.queue if (r := get(e, "mam:result")) is not None and r.get("queryid") == queryid]
        raw.queue = [e for e in raw.queue if e not in results]
        self.outer = results
        self.ids = [get(e, "mam:result").get("id") for e in results]
        self.stamps = [get(e, "mam:result/fwd:forwarded/delay:delay").get("stamp") for e in results]
        self.messages = [get(e, "mam:result/fwd:forwarded/message") for e in results]
        self.bodies = [text(m, "body") for m in self.messages]
        if not self.error:
            fin = get(done, "mam:fin")
            self.complete = fin.get("complete") == "true"
            self.first, self.last, self.count = (text(fin, f"rsm:set/rsm:{k}") for k in ("first", "last", "count"))


@pytest.fixture
def archive(login):
    """A session with ten messages from somebody (bodies 0 to 9) in its archive."""
    raw, other = login(presence=True), login(presence=True)
    for i in range(10):
        other.message(raw.bare, str(i))
    for i in range(10):
        raw.expect("message", type="chat")
    raw.other = other
    return raw


DIGITS = [str(i) for i in range(10)]


# -- what is archived ------------------------------------------------------------------------------------------------

def test_all(archive):
    page = Page(archive)
    assert page.bodies == DIGITS and page.complete
    assert page.first == page.ids[0] and page.last == page.ids[-1] and len(set(page.ids)) == 10
    assert page.stamps == sorted(page.stamps)
    assert all(e.get("from") in (None, archive.bare) for e in page.outer)
    assert all(m.get("from") == archive.other.jid for m in page.messages)


def test_of_the_sender(archive):
    """What one sends is in the own archive too."""
    page = Page(archive.other)
    assert page.bodies == DIGITS and all(m.get("to") == archive.bare for m in page.messages)


def test_live_message_has_the_archive_id(login):
    """XEP-0359 and XEP-0313 4.1.1."""
    a, b = login(presence=True), login(presence=True)
    a.message(b.bare, "hello")
    sid = get(b.expect("message", type="chat"), "sid:stanza-id")
    assert sid.get("by") == b.bare
    page = Page(b)
    assert page.ids == [sid.get("id")]


def test_empty(login):
    page = Page(login())
    assert page.bodies == [] and page.complete and page.first is None


@pytest.mark.parametrize("kind,extra,body,kept", [
    ("chat", "", "x", True), ("normal", "", "x", True), ("headline", "", "x", False), ("error", "", "x", False),
    ("chat", "<no-store xmlns='urn:xmpp:hints'/>", "x", False),
    ("chat", "<no-permanent-store xmlns='urn:xmpp:hints'/>", "x", False),
    ("chat", "<composing xmlns='http://jabber.org/protocol/chatstates'/>", None, False),
    ("chat", "<x xmlns='urn:x'/>" + STORE, None, True),
    ("chat", "<received xmlns='urn:xmpp:receipts' id='x'/>", None, True),
    ("chat", "<displayed xmlns='urn:xmpp:chat-markers:0' id='x'/>", None, True)])
@pytest.mark.deviates("prosody", "its own rules for some")
def test_rules(login, kind, extra, body, kept):
    a, b = login(presence=True), login(presence=True)
    a.message(b.jid, body, kind, extra)
    b.expect("message")
    assert len(Page(b).ids) == kept
    a.ping()
    assert len(Page(a).ids) == kept


def test_survives_restart(new_server, login, account):
    server = new_server()
    one, two = account(at=server), account(at=server)
    a, b = login(one, at=server), login(two, at=server, presence=True)
    a.message(two.jid, "kept")
    sid = get(b.expect("message", type="chat"), "sid:stanza-id").get("id")
    server.restart()
    page = Page(login(two, at=server))
    assert page.bodies == ["kept"] and page.ids == [sid]


# -- filters ---------------------------------------------------------------------------------------------------------

def test_with(archive, login):
    third = login(presence=True)
    third.message(archive.bare, "from a third")
    archive.expect("message", type="chat")
    archive.message(third.bare, "to a third")
    third.expect("message", type="chat")
    archive.ping()
    assert Page(archive, form(with_=third.bare)).bodies == ["from a third", "to a third"]
    assert Page(archive, form(with_=archive.other.bare)).bodies == DIGITS
    assert Page(archive, form(with_=archive.other.jid)).bodies == DIGITS
    assert Page(archive, form(with_="nobody@rookery.test")).bodies == []


def test_start_and_end(archive):
    stamps = Page(archive).stamps
    later = (datetime.now(timezone.utc) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert Page(archive, form(start=later)).bodies == []
    assert Page(archive, form(end=later)).bodies == DIGITS
    assert Page(archive, form(start="2020-01-01T00:00:00Z", end="2020-01-02T00:00:00Z")).bodies == []
    assert Page(archive, form(start=stamps[0])).bodies[-1] == "9"


@pytest.mark.deviates("prosody", "ignores unknown ids")
def test_ids(archive):
    ids = Page(archive).ids
    assert Page(archive, form(ids=[ids[7], ids[2]])).bodies == ["2", "7"]
    assert Page(archive, form(ids=[ids[7], "nonsense"])).error == "item-not-found"


@pytest.mark.deviates("prosody", "ignores unknown ids")
def test_before_and_after_id(archive):
    ids = Page(archive).ids
    assert Page(archive, form(after_id=ids[6])).bodies == ["7", "8", "9"]
    assert Page(archive, form(before_id=ids[3])).bodies == ["0", "1", "2"]
    assert Page(archive, form(after_id=ids[2], before_id=ids[5])).bodies == ["3", "4"]
    assert Page(archive, form(after_id="nonsense")).error == "item-not-found"
    assert Page(archive, form(before_id="nonsense")).error == "item-not-found"


def test_form_fields(login):
    raw = login()
    reply = raw.result("get", "<query xmlns='urn:xmpp:mam:2'/>")
    fields = {f.get("var") for f in every(reply, "mam:query/x:x/x:field")}
    assert {"FORM_TYPE", "with", "start", "end", "before-id", "after-id", "ids"} <= fields


@pytest.mark.deviates("prosody", "takes month 13")
@pytest.mark.parametrize("bad", [form(start="yesterday"), form(with_="@@"), form(start="2020-13-45T99:00:00Z")])
def test_bad_fields(login, bad):
    assert Page(login(), bad).error in ("bad-request", "jid-malformed")


@pytest.mark.deviates("prosody", "ignores it")
def test_unknown_field(login):
    """XEP-0313 4.1.6: one that is not supported must not be ignored."""
    assert Page(login(), form(colour="blue")).error in ("feature-not-implemented", "bad-request")


@pytest.mark.deviates("prosody", "answers with nothing")
@pytest.mark.parametrize("value", ["'; DROP TABLE archive; --", "' OR '1'='1", "%", "\u2603", "0", "-1", "x" * 2000])
def test_quotes_in_ids(archive, value):
    """THREATS 37."""
    escaped = value.replace("'", "&apos;")
    for payload in (rsm(after=escaped), rsm(before=escaped), form(after_id=escaped), form(ids=escaped)):
        assert Page(archive, payload).error == "item-not-found"
    assert Page(archive).bodies == DIGITS


# -- pages (XEP-0059) ------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_forward_pages(archive):
    got, after = [], None
    for n in range(4):
        page = Page(archive, rsm(max=3, **({"after": after} if after else {})))
        got += page.bodies
        after = page.last
        assert page.complete == (n == 3)
    assert got == DIGITS


def test_backward_pages(archive):
    got, before = [], None
    for _ in range(10):
        page = Page(archive, rsm(max=3, before=before))
        got = page.bodies + got
        before = page.first
        if page.complete:
            break
    assert got == DIGITS


def test_last_page(archive):
    page = Page(archive, rsm(max=4, before=None))
    assert page.bodies == ["6", "7", "8", "9"] and not page.complete


def test_flip_page(archive):
    page = Page(archive, rsm(max=4, before=None), flip=True)
    assert page.bodies == ["9", "8", "7", "6"]


def test_exact_end_is_complete(archive):
    assert Page(archive, rsm(max=10)).complete
    assert not Page(archive, rsm(max=9)).complete


def test_count(archive):
    """XEP-0059 2.6: max 0 asks for the number."""
    page = Page(archive, rsm(max=0))
    assert page.bodies == [] and page.count == "10"
    assert Page(archive, rsm(max=2)).count in ("10", None)


def test_pages_within_a_filter(archive):
    ids = Page(archive).ids
    page = Page(archive, form(after_id=ids[1]) + rsm(max=3))
    assert page.bodies == ["2", "3", "4"]
    assert Page(archive, form(after_id=ids[1]) + rsm(max=3, after=page.last)).bodies == ["5", "6", "7"]


@pytest.mark.deviates("prosody", "empty page for -1")
@pytest.mark.parametrize("maximum", ["-1", "many", "", "99999999999999999999"])
def test_bad_max(archive, maximum):
    page = Page(archive, rsm(max=maximum))
    assert page.error == "bad-request" or len(page.bodies) == 10


def test_page_size_is_limited(login):
    """One query may not bring everything."""
    a, b = login(presence=True), login(presence=True)
    for i in range(300):
        a.message(b.jid, str(i))
    for i in range(300):
        b.expect("message", type="chat")
    page = Page(b, rsm(max=100000))
    assert len(page.bodies) <= 250 and not page.complete


# -- metadata, preferences -------------------------------------------------------------------------------------------

def test_metadata(archive):
    page = Page(archive)
    reply = archive.result("get", "<metadata xmlns='urn:xmpp:mam:2'/>")
    start, end = get(reply, "mam:metadata/mam:start"), get(reply, "mam:metadata/mam:end")
    assert (start.get("id"), end.get("id")) == (page.ids[0], page.ids[-1])
    assert start.get("timestamp") == page.stamps[0] and end.get("timestamp") == page.stamps[-1]


def test_metadata_of_nothing(login):
    reply = login().request("get", "<metadata xmlns='urn:xmpp:mam:2'/>")
    assert get(reply, "mam:metadata/mam:start") is None


def prefs(raw, default=None, always=(), never=()):
    """Sets (with default) or gets; (default, always, never)."""
    if default:
        lists = "".join(f"<{name}>{''.join(f'<jid>{j}</jid>' for j in jids)}</{name}>" for name, jids in (("always", always), ("never", never)))
        reply = raw.result("set", f"<prefs xmlns='urn:xmpp:mam:2' default='{default}'>{lists}</prefs>")
    else:
        reply = raw.result("get", "<prefs xmlns='urn:xmpp:mam:2'/>")
    p = get(reply, "mam:prefs")
    return p.get("default"), {j.text for j in every(p, "mam:always/mam:jid")}, {j.text for j in every(p, "mam:never/mam:jid")}


def test_preferences(login):
    raw = login()
    assert prefs(raw) == ("always", set(), set())
    wanted = ("roster", {"a@rookery.test"}, {"b@rookery.test", "c@elsewhere.test"})
    assert prefs(raw, *wanted) == wanted and prefs(raw) == wanted


@pytest.mark.parametrize("default,always,never,kept", [("never", (), (), 0), ("never", ("{}",), (), 1), ("always", (), ("{}",), 0),
                                                       ("roster", (), (), 0), ("always", (), (), 1)])
def test_preferences_decide(login, default, always, never, kept):
    a, b = login(presence=True), login(presence=True)
    prefs(b, default, [j.format(a.bare) for j in always], [j.format(a.bare) for j in never])
    a.message(b.bare, "x")
    b.expect("message", type="chat")
    b.message(a.bare, "y")
    a.expect("message", type="chat")
    b.ping()
    assert len(Page(b).ids) == 2 * kept and len(Page(a).ids) == 2


def test_preference_roster(friends):
    a, b = friends()
    prefs(b, "roster")
    a.message(b.bare, "x")
    b.expect("message", type="chat")
    assert Page(b).bodies == ["x"]


@pytest.mark.parametrize("payload", ["<prefs xmlns='urn:xmpp:mam:2' default='sometimes'/>", "<prefs xmlns='urn:xmpp:mam:2'/>",
                                     "<prefs xmlns='urn:xmpp:mam:2' default='always'><always><jid>@@</jid></always></prefs>"])
@pytest.mark.deviates("prosody", "lenient")
def test_bad_preferences(login, payload):
    assert login().refused("set", payload) in ("bad-request", "jid-malformed")


# -- others ----------------------------------------------------------------------------------------------------------

def test_archive_of_another(archive, login):
    """THREATS 24."""
    raw = login()
    for to in (archive.bare, "nobody@rookery.test"):
        page = Page(raw, to=to)
        assert page.error in ("forbidden", "service-unavailable", "item-not-found", "not-allowed", "feature-not-implemented") and not page.ids


@pytest.mark.deviates("prosody", "lets results through")
def test_forged_result(login):
    """THREATS 23."""
    a, b = login(presence=True), login(presence=True)
    a.message(b.jid, "real", extra="<result xmlns='urn:xmpp:mam:2' id='1'><forwarded xmlns='urn:xmpp:forward:0'/></result>" * 2)
    assert get(b.expect("message", type="chat"), "mam:result") is None


@pytest.mark.deviates("prosody", "leaves some")
@pytest.mark.parametrize("copies", [1, 3])
def test_forged_stanza_id(login, copies):
    """XEP-0359 4; THREATS 23: all copies, ejabberd replaced only the first. Ids of others stay."""
    a, b = login(presence=True), login(presence=True)
    forged = f"<stanza-id xmlns='urn:xmpp:sid:0' id='forged' by='{b.bare}'/>" * copies
    other = "<stanza-id xmlns='urn:xmpp:sid:0' id='theirs' by='room@elsewhere.test'/>"
    origin = "<origin-id xmlns='urn:xmpp:sid:0' id='mine'/>"
    a.message(b.jid, "x", extra=forged + other + forged + origin)
    e = b.expect("message", type="chat")
    ours = [s.get("id") for s in every(e, "sid:stanza-id") if s.get("by") == b.bare]
    assert len(ours) == 1 and ours[0] != "forged"
    assert [s.get("id") for s in every(e, "sid:stanza-id") if s.get("by") != b.bare] == ["theirs"]
    assert get(e, "sid:origin-id").get("id") == "mine"
    page = Page(b)
    assert page.ids == ours
    assert "forged" not in [s.get("id") for s in every(page.messages[0], "sid:stanza-id")]


def test_forged_stanza_id_on_what_is_not_archived(login):
    a, b = login(presence=True), login(presence=True)
    a.message(b.jid, "x", "headline", extra=f"<stanza-id xmlns='urn:xmpp:sid:0' id='forged' by='{b.bare}'/>" * 2)
    assert not every(b.expect("message", type="headline"), "sid:stanza-id")


@pytest.mark.deviates("prosody", "compares bytes")
def test_prepared_forgery(login):
    """The same JID in another spelling."""
    a, b = login(presence=True), login(presence=True)
    a.message(b.jid, "x", extra=f"<stanza-id xmlns='urn:xmpp:sid:0' id='forged' by='{b.bare.upper()}'/>")
    assert "forged" not in [s.get("id") for s in every(b.expect("message", type="chat"), "sid:stanza-id")]


def test_offline_message_has_the_archive_id(login, account):
    a, who = login(), account()
    a.message(who.jid, "later")
    a.ping()
    b = login(who, presence=True)
    e = b.expect("message", type="chat")
    page = Page(b)
    assert [s.get("id") for s in every(e, "sid:stanza-id") if s.get("by") == who.jid] == page.ids


@pytest.mark.rookery
def test_resent_with_the_same_origin_id(login):
    """DESIGN 4.3: a client that lost its session sends again; stored and delivered once."""
    a, b = login(presence=True), login(presence=True)
    for _ in range(2):
        a.message(b.bare, "once", extra="<origin-id xmlns='urn:xmpp:sid:0' id='unique-1'/>")
    a.message(b.bare, "end")
    assert [text(b.expect("message", type="chat"), "body") for _ in range(2)] == ["once", "end"]
    a.ping()
    assert Page(b).bodies == Page(a).bodies == ["once", "end"]
