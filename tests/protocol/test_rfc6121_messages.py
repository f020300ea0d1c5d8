"""RFC 6121 section 8: who gets a message (the table of 8.5.4), and XEP-0160 offline messages, XEP-0334 hints."""
import time

import pytest

from raw import condition, every, get, qname, text

TYPES = ("normal", "chat", "groupchat", "headline", "error")


def messages(elements):
    return [e for e in elements if e.tag == qname("message") and e.get("type") != "error"]


def settled(sender, to):
    """Returns when all that was sent to the account has been dealt with: its home answers this after it, by the order that
    holds between two entities."""
    sender.refused("get", "<x xmlns='urn:nonsense'/>", to.split("/")[0])


def outcome(sender, to, kind, *receivers):
    """What became of a message: (the sender's error condition or None, how many copies each receiver got)."""
    body = f"outcome {kind}"
    sender.message(to, body, kind)
    settled(sender, to)
    for r in receivers:
        r.ping()
    errors = [condition(e) for e in sender.before() if e.tag == qname("message") and e.get("type") == "error"]
    got = [sum(text(e, "body") == body for e in r.before(sender) if e.tag == qname("message")) for r in receivers]
    return (errors[0] if errors else None), *got


def available(raw, priority=None):
    if priority is None:
        raw.send("<presence/>")
    else:
        raw.send(f"<presence><priority>{priority}</priority></presence>")
    raw.expect("presence", from_=raw.jid, type=None)


@pytest.fixture
def sender(login):
    return login(presence=True)


# -- the table of RFC 6121 8.5.4, row by row ---------------------------------------------------------------------------

@pytest.mark.parametrize("kind,error", [("normal", "service-unavailable"), ("chat", "service-unavailable"),
                                        ("groupchat", "service-unavailable"), ("headline", None), ("error", None)])
@pytest.mark.parametrize("to", ["nobody@{}", "nobody@{}/resource"])
def test_no_such_account(sender, kind, error, to):
    answer, = outcome(sender, to.format(sender.domain), kind)
    assert answer == error or (kind == "headline" and answer == "service-unavailable")


@pytest.mark.parametrize("kind,error,stored", [("normal", None, 1), ("chat", None, 1), ("groupchat", "service-unavailable", 0),
                                               ("headline", None, 0), ("error", None, 0)])
def test_bare_without_resources(sender, login, account, kind, error, stored):
    who = account()
    answer, = outcome(sender, who.jid, kind)
    assert answer == error or (kind == "headline" and answer == "service-unavailable")
    later = login(who)
    later.send("<presence/>")
    assert len(messages(later.before())) == stored


@pytest.mark.parametrize("kind,error,stored", [("normal", None, 1), ("chat", None, 1), ("groupchat", "service-unavailable", 0),
                                               ("headline", None, 0), ("error", None, 0)])
@pytest.mark.deviates("prosody", "looks for offline messages at the first presence only")
def test_bare_with_negative_resources_only(sender, login, account, kind, error, stored):
    who = account()
    shy = login(who)
    available(shy, -1)
    answer, got = outcome(sender, who.jid, kind, shy)
    assert got == 0 and (answer == error or (kind == "headline" and answer == "service-unavailable"))
    available(shy, 1)
    assert len(messages(shy.before())) == stored, "stored until a resource wants messages"


@pytest.mark.parametrize("kind,error,copies", [("normal", None, 1), ("chat", None, 1), ("groupchat", "service-unavailable", 0),
                                               ("headline", None, 1), ("error", None, 0)])
@pytest.mark.parametrize("priority", [None, 0, 7])
def test_bare_with_one_resource(sender, login, kind, error, copies, priority):
    b = login()
    available(b, priority)
    assert outcome(sender, b.bare, kind, b) == (error, copies)


def test_bare_with_a_silent_session(sender, login, account):
    """A session that never sent presence gets nothing that goes to the bare JID."""
    who = account()
    a, b = login(who), login(who, presence=True)
    assert outcome(sender, who.jid, "chat", a, b) == (None, 0, 1)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.smoke
def test_bare_with_several_resources(sender, login, account, kind):
    """Negative ones get nothing; a headline goes to all others; the rest to the highest at least."""
    who = account()
    low, high, shy = login(who), login(who), login(who)
    for raw, priority in ((low, 1), (high, 5), (shy, -5)):
        available(raw, priority)
    error, n_low, n_high, n_shy = outcome(sender, who.jid, kind, low, high, shy)
    assert n_shy == 0
    if kind == "headline":
        assert (error, n_low, n_high) == (None, 1, 1)
    elif kind == "groupchat":
        assert (error, n_low, n_high) == ("service-unavailable", 0, 0)
    elif kind == "error":
        assert (error, n_low, n_high) == (None, 0, 0)
    else:
        assert error is None and n_high == 1 and n_low in (0, 1)


@pytest.mark.parametrize("kind", ["normal", "chat"])
def test_bare_with_equal_priorities(sender, login, account, kind):
    who = account()
    a, b = login(who, presence=True), login(who, presence=True)
    error, n_a, n_b = outcome(sender, who.jid, kind, a, b)
    assert error is None and n_a + n_b >= 1 and n_a <= 1 and n_b <= 1


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("priority", [None, 3, -3, "silent"])
def test_full_jid_that_matches(sender, login, account, kind, priority):
    """RFC 6121 8.5.3.1: delivered whatever the type and priority, to this one only."""
    who = account()
    there, other = login(who, "there"), login(who, "other", presence=True)
    if priority != "silent":
        available(there, priority)
    assert outcome(sender, there.jid, kind, there, other) == (None, 1, 0)


@pytest.mark.parametrize("kind", TYPES)
def test_full_jid_without_match_but_others(sender, login, kind):
    """RFC 6121 8.5.3.2.1: chat as to the bare JID; the others bounce or vanish, normal may go the way of chat."""
    b = login(presence=True)
    error, copies = outcome(sender, f"{b.bare}/gone", kind, b)
    if kind == "chat":
        assert (error, copies) == (None, 1)
    elif kind == "normal":
        assert (error, copies) in ((None, 1), ("service-unavailable", 0))
    else:
        assert copies == 0 and (error == "service-unavailable" if kind == "groupchat" else error in (None, "service-unavailable"))
    assert kind != "error" or error is None


def test_full_jid_without_match_and_nobody_there(sender, login, account):
    who = account()
    assert outcome(sender, f"{who.jid}/gone", "chat") == (None,)
    later = login(who)
    available(later)
    assert len(messages(later.before())) == 1


def test_unknown_type_is_normal(sender, login):
    """RFC 6121 5.2.2."""
    b = login(presence=True)
    sender.message(b.bare, "odd", "x-odd")
    assert text(b.expect("message"), "body") == "odd"


def test_to_own_bare_jid(login):
    raw = login(presence=True)
    raw.message(raw.bare, "note to self")
    assert text(raw.expect("message", type="chat"), "body") == "note to self"


def test_without_to(login, account):
    """RFC 6120 10.3.1: as if to the own bare JID."""
    raw = login(presence=True)
    raw.send("<message type='chat' id='m'><body>hm</body></message>")
    assert raw.expect("message", id="m").get("type") in ("chat", "error")


@pytest.mark.parametrize("where", ["bare", "full"])
def test_iq_to_nobody_and_to_strangers(login, where):
    """RFC 6121 8.5: iq to a bare JID is answered by the server; to a full one passed on; THREATS 25: no difference."""
    a, b = login(), login()
    suffix = "" if where == "bare" else "/gone"
    for to in (f"nobody@{a.domain}{suffix}", f"{b.bare}{suffix}"):
        assert a.refused("get", "<x xmlns='urn:nonsense'/>", to) == "service-unavailable"


def test_iq_between_resources(login):
    a, b = login(), login()
    a.send(f"<iq type='get' to='{b.jid}' id='q'><q xmlns='urn:q'/></iq>")
    assert b.expect("iq", id="q").get("from") == a.jid
    b.send(f"<iq type='result' to='{a.jid}' id='q'><q xmlns='urn:q'>yes</q></iq>")
    assert a.expect("iq", id="q", type="result").get("from") == b.jid


# -- offline (XEP-0160) ------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_offline_in_order_with_delay(sender, login, account):
    who = account()
    for i in range(20):
        sender.message(who.jid, str(i))
    settled(sender, who.jid)
    b = login(who)
    b.send("<presence/>")
    for i in range(20):
        e = b.expect("message", type="chat")
        assert text(e, "body") == str(i) and e.get("from") == sender.jid
        delay = get(e, "delay:delay")
        assert delay.get("stamp").endswith("Z") and delay.get("from") in (who.domain, who.jid, None)
    assert not messages(b.before())


def test_offline_only_once(sender, login, account):
    who = account()
    sender.message(who.jid, "once")
    settled(sender, who.jid)
    first = login(who, presence=True)
    assert text(first.expect("message", type="chat"), "body") == "once"
    first.ping()
    first.close()
    second = login(who)
    second.send("<presence/>")
    assert not messages(second.before())


@pytest.mark.deviates("prosody", "looks for offline messages at the first presence only")
def test_offline_not_to_a_negative_resource(sender, login, account):
    """XEP-0160 3: only non-negative priority asks for them."""
    who = account()
    sender.message(who.jid, "later")
    settled(sender, who.jid)
    b = login(who)
    available(b, -1)
    assert not messages(b.before())
    available(b, 0)
    assert text(b.expect("message", type="chat"), "body") == "later"


@pytest.mark.parametrize("extra", ["<no-store xmlns='urn:xmpp:hints'/>", "<no-permanent-store xmlns='urn:xmpp:hints'/>"])
@pytest.mark.deviates("prosody", "stores whatever the hints say")
def test_hints_keep_from_storing(sender, login, account, extra):
    """XEP-0334."""
    who = account()
    sender.message(who.jid, "secret", extra=extra)
    settled(sender, who.jid)
    b = login(who)
    b.send("<presence/>")
    assert not messages(b.before()) or "permanent" in extra


@pytest.mark.deviates("prosody", "stores them")
def test_chat_states_are_not_stored(sender, login, account):
    """XEP-0085 5.8: nobody wants to read tomorrow that somebody was typing."""
    who = account()
    sender.message(who.jid, None, extra="<composing xmlns='http://jabber.org/protocol/chatstates'/>")
    settled(sender, who.jid)
    b = login(who)
    b.send("<presence/>")
    assert not messages(b.before())


def test_store_hint(sender, login, account):
    who = account()
    sender.message(who.jid, None, extra="<something xmlns='urn:s'/><store xmlns='urn:xmpp:hints'/>")
    settled(sender, who.jid)
    b = login(who)
    b.send("<presence/>")
    assert get(b.expect("message", type="chat"), "{urn:s}something") is not None


@pytest.mark.rookery
def test_offline_limit(new_server, login, account):
    """The sender is told (XEP-0160: service-unavailable)."""
    server = new_server(offline={"max_messages": 5})
    a, who = login(at=server, who=account(at=server), presence=True), account(at=server)
    for i in range(7):
        a.message(who.jid, str(i))
    settled(a, who.jid)
    errors = [condition(e) for e in a.before() if e.get("type") == "error"]
    assert len(errors) == 2 and set(errors) <= {"service-unavailable", "resource-constraint"}
    b = login(who, at=server)
    b.send("<presence/>")
    assert [text(e, "body") for e in messages(b.before())] == list("01234")


def test_offline_survives_restart(new_server, login, account):
    server = new_server()
    a, who = login(account(at=server), at=server, presence=True), account(at=server)
    a.message(who.jid, "kept")
    settled(a, who.jid)
    server.restart()
    b = login(who, at=server, presence=True)
    e = b.expect("message", type="chat")
    assert text(e, "body") == "kept" and len(every(e, "delay:delay")) == 1


@pytest.mark.rookery
@pytest.mark.parametrize("sm", [False, True])
def test_many_offline_messages(sender, login, account, sm):
    """More than a connection may have pending: they come page by page, as the client takes them, in order."""
    who, count = account(), 2500
    for i in range(count):
        sender.message(who.jid, f"{i} " + "x" * 2000)
    sender.request("get", "<ping xmlns='urn:xmpp:ping'/>", to=who.jid)
    raw = login(who)
    if sm:
        raw.enable_sm()
    raw.send("<presence/>")
    time.sleep(0.3)  # so that all of it would be pending by now
    got = [int(text(raw.expect("message", type="chat", timeout=30), "body").split()[0]) for _ in range(count)]
    assert got == list(range(count))
    sender.message(who.jid, "live")
    assert text(raw.expect("message", type="chat"), "body") == "live"


@pytest.mark.rookery
def test_reader_that_acknowledges_nothing(sender, login, account):
    """It does not hold up the account's other sessions for long, nor the server's end."""
    who, count = account(), 900
    for i in range(count):
        sender.message(who.jid, str(i))
    sender.request("get", "<ping xmlns='urn:xmpp:ping'/>", to=who.jid)
    mute = login(who)
    mute.answer_acks = False
    mute.enable_sm()
    mute.send("<presence/>")
    for i in range(400):
        assert text(mute.expect("message", type="chat"), "body") == str(i)
    other = login(who, presence=True)
    sender.message(who.jid, "live")
    assert text(other.expect("message", type="chat", timeout=15), "body") == "live"


@pytest.mark.rookery
def test_stop_while_a_reader_is_waited_for(new_server, login, account):
    server = new_server()
    a, who = login(account(at=server), at=server), account(at=server)
    for i in range(900):
        a.message(who.jid, str(i))
    a.request("get", "<ping xmlns='urn:xmpp:ping'/>", to=who.jid)
    mute = login(who, at=server)
    mute.answer_acks = False
    mute.enable_sm()
    mute.send("<presence/>")
    for i in range(400):
        mute.expect("message", type="chat")
    server.restart()
    again = login(who, at=server, presence=True)
    assert [text(again.expect("message", type="chat"), "body") for _ in range(900)] == [str(i) for i in range(900)]


@pytest.mark.rookery
def test_message_rate(new_server, login, account):
    """c2s.max_messages_per_minute: what is too much is refused, not lost silently; all else goes on."""
    server = new_server(c2s={"max_messages_per_minute": 5})
    a, b = (login(account(at=server), at=server, presence=True) for _ in "ab")
    ids = [a.message(b.bare, str(i)) for i in range(8)]
    refused = [a.expect("message", type="error", id=id) for id in ids[5:]]
    assert {condition(e) for e in refused} == {"resource-constraint"} and refused[0].find("*[@type='wait']") is not None
    assert [text(b.expect("message", type="chat"), "body") for _ in range(5)] == list("01234")
    a.ping()
    b.message(a.bare, "your turn is yours alone")
    assert text(a.expect("message", type="chat"), "body") == "your turn is yours alone"
