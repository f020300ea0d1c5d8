"""XEP-0198: counting, resumption and its refusals; what becomes of messages that were never acknowledged."""
import pytest

from conftest import befriend
from raw import StreamClosed, condition, every, get, qname, text

ENABLE = "<enable xmlns='urn:xmpp:sm:3' resume='true'/>"


def resume(raw, previd, h):
    raw.send(f"<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='{h}'/>")
    return raw.expect_any("sm:resumed", "sm:failed")


def bodies(elements):
    return [text(e, "body") for e in elements if e.tag == qname("message") and get(e, "body") is not None]


@pytest.fixture
def managed(login):
    """A session with stream management whose .previd may be resumed; it answers no acks by itself."""
    def make(*a, presence=True, **k):
        raw = login(*a, presence=presence, **k)
        raw.answer_acks = False
        enabled = raw.enable_sm()
        assert enabled.tag == qname("sm:enabled") and enabled.get("resume") in ("true", "1")
        raw.previd = enabled.get("id")
        return raw
    return make


@pytest.fixture
def again(login):
    """A second connection of the session's account, authenticated and not bound, that counts on where the first ended."""
    def make(raw, h=None, **k):
        new = login(raw.account, bind=False, **k)
        new.answer_acks, new.jid = False, raw.jid
        reply = resume(new, raw.previd, raw.handled if h is None else h)
        if reply.tag == qname("sm:resumed"):
            new.handled = raw.handled
        return new, reply
    return make


# -- counting --------------------------------------------------------------------------------------------------------

def test_enable_without_resume(login):
    raw = login()
    enabled = raw.enable_sm(resume=False)
    assert enabled.tag == qname("sm:enabled") and enabled.get("resume") in (None, "false", "0")
    raw.ping()


def test_enable_twice(managed):
    raw = managed()
    raw.send(ENABLE)
    assert raw.expect_any("sm:failed", "sm:enabled").tag == qname("sm:failed")


def test_enable_before_bind(login):
    raw = login(bind=False)
    raw.send(ENABLE)
    reply = raw.expect("sm:failed")
    assert get(reply, "e:unexpected-request") is not None


def test_server_counts(login):
    raw = login()
    raw.enable_sm(resume=False)
    assert raw.acked() == 0
    raw.presence()
    raw.ping()
    assert raw.acked() == 2
    raw.message(raw.bare)
    raw.send("<iq type='result' id='nothing'/>")
    assert raw.acked() == 4


def test_ack_covers_what_was_sent(login, account):
    """An acknowledgement in the end for each of many, and never beyond."""
    raw, who = login(), account()
    raw.enable_sm(resume=False)
    for n in range(1, 201):
        raw.message(who.jid, str(n))
        if n % 50 == 0:
            h = raw.acked()
            assert h <= n
            while h < n:
                h = raw.acked()


def test_server_asks(managed, login):
    """Somebody must ask, or the queue would grow for ever."""
    a, b = managed(), login()
    for i in range(100):
        b.message(a.jid, str(i))
    a.expect("sm:r")


def test_r_answered_before_and_after(managed):
    raw = managed()
    for _ in range(3):
        assert raw.acked() == 0


@pytest.mark.parametrize("h", ["5", "4294967295", "-1", "99999999999999999999", "x", ""])
@pytest.mark.deviates("prosody", "its element has another form")
def test_ack_of_more_than_was_sent(managed, h):
    """THREATS 29; XEP-0198 4: undefined-condition with handled-count-too-high."""
    raw = managed()
    raw.send(f"<a xmlns='urn:xmpp:sm:3' h='{h}'/>")
    raw.expect_close()
    assert raw.error in ("undefined-condition", "policy-violation", "bad-format", "invalid-xml")
    if h in ("5", "4294967295"):
        assert raw.error == "undefined-condition"
        extra = get(raw.error_element, "sm:handled-count-too-high")
        assert extra.get("h") == h and extra.get("send-count") == "0"


# -- resumption ------------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_resume_brings_the_rest(managed, again, login):
    a, b = managed(), login()
    for i in range(5):
        b.message(a.jid, str(i))
    assert bodies(a.expect("message") for _ in range(3)) == ["0", "1", "2"]
    a.cut()
    for i in range(5, 8):
        b.message(a.jid, str(i))
    b.ping()
    c, reply = again(a, h=3)
    assert reply.tag == qname("sm:resumed") and reply.get("previd") == a.previd and reply.get("h") == "0"
    assert bodies(c.expect("message") for _ in range(5)) == ["3", "4", "5", "6", "7"]
    c.message(b.jid, "still there")
    assert b.expect("message", type="chat").get("from") == a.jid, "the resource is the old one"
    c.ping()


def test_resume_tells_what_arrived(managed, again, login, account):
    a, who = managed(), account()
    for i in range(7):
        a.message(who.jid, str(i))
    h = a.acked()
    while h < 7:
        h = a.acked()
    a.cut()
    c, reply = again(a)
    assert reply.get("h") == "7"
    assert c.acked() == 7, "counting goes on"


@pytest.mark.smoke
def test_resume_while_the_old_connection_lives(managed, again):
    """The client noticed the loss before the server did."""
    a = managed()
    c, reply = again(a)
    assert reply.tag == qname("sm:resumed")
    a.expect_close()
    c.ping()


def test_resume_twice(managed, again):
    a = managed()
    a.cut()
    c, reply = again(a)
    assert reply.tag == qname("sm:resumed")
    c.previd = a.previd
    c.handled = 0
    c.account = a.account
    c.cut()
    d, reply = again(c)
    assert reply.tag == qname("sm:resumed")
    d.ping()


def test_no_presence_flap(managed, again, login):
    """DESIGN 4.5: contacts see nothing."""
    a, b = login(presence=True, roster=True), login(presence=True, roster=True)
    befriend(a, b)
    a.answer_acks = False
    a.previd = a.enable_sm().get("id")
    a.handled = 0
    a.cut()
    c, reply = again(a)
    assert reply.tag == qname("sm:resumed")
    c.ping()
    assert not [e for e in b.before(c) if e.tag == qname("presence")]


def test_session_is_there_while_it_waits(managed, login, again):
    """What comes meanwhile is kept for it, and nobody gets an error."""
    a, b = managed(), login()
    a.cut()
    b.message(a.bare, "to the account")
    b.message(a.jid, "to the resource")
    b.ping()
    assert not [e for e in b.before() if e.get("type") == "error"]
    c, reply = again(a)
    assert bodies([c.expect("message"), c.expect("message")]) == ["to the account", "to the resource"]


@pytest.mark.parametrize("previd", ["", "nonsense", "\u2603" * 100, "x" * 5000])
def test_unknown_id(login, previd):
    raw = login(bind=False)
    reply = resume(raw, previd, 0)
    assert reply.tag == qname("sm:failed") and (get(reply, "e:item-not-found") is not None or get(reply, "e:bad-request") is not None)
    raw.bind()
    raw.ping()


@pytest.mark.rookery
def test_sent_again_without_origin_id(login):
    """Who could not resume sends again what may have been handled: the same id, the same content, once. Otherwise two messages
    may well have one id."""
    b = login(presence=True)
    a = login(presence=True)
    for body in ("one", "one", "two"):
        a.message(b.bare, body, id="m1")
    a.ping()
    again = login(a.account, bind=False)
    assert resume(again, "gone", 0).tag == qname("sm:failed")
    again.bind()
    for body, id in (("two", "m1"), ("three", "m1"), ("three", "m2"), ("three", "m2")):
        again.message(b.bare, body, id=id)
    again.ping()
    third = login(a.account)
    third.message(b.bare, "one", id="m1")
    third.message(b.bare, "end")
    got = []
    while "end" not in got:
        got.append(text(b.expect("message", type="chat"), "body"))
    assert got == ["one", "one", "two", "three", "three", "one", "end"]


def test_other_account(managed, login):
    """THREATS 17: nothing that tells that there is such a session."""
    a, b = managed(), login(bind=False)
    reply = resume(b, a.previd, 0)
    assert reply.tag == qname("sm:failed") and get(reply, "e:item-not-found") is not None and reply.get("h") is None
    a.ping()
    b.bind()


def test_ids_are_long_and_differ(login, account):
    """THREATS 16."""
    ids = {login(account()).enable_sm().get("id") for _ in range(20)}
    assert len(ids) == 20 and all(len(i) >= 12 for i in ids)


def test_resume_with_too_high_h(managed, again):
    a = managed()
    a.cut()
    new, reply = None, None
    try:
        new, reply = again(a, h=17)
    except AssertionError:
        pass
    assert reply is None or reply.tag == qname("sm:failed")


def test_resume_after_bind(managed, login):
    a = managed()
    b = login(a.account)
    b.answer_acks = False
    try:
        assert resume(b, a.previd, 0).tag == qname("sm:failed")
    except StreamClosed:
        pass  # not allowed in this state
    a.ping()


def test_before_authentication(managed, secure, account):
    """Section 3: <failed/>; and the stream goes on."""
    a, raw, who = managed(), secure(), account()
    for element in (f"<resume xmlns='urn:xmpp:sm:3' previd='{a.previd}' h='0'/>", ENABLE):
        raw.send(element)
        assert get(raw.expect_any("sm:resumed", "sm:enabled", "sm:failed"), "e:unexpected-request") is not None
    assert raw.auth(who.local, who.password) is None
    a.ping()


def test_proper_close_ends_it(managed, again):
    """RFC 6120 4.4: who says goodbye is gone."""
    a = managed()
    a.send("</stream:stream>")
    a.expect_close()
    _, reply = again(a)
    assert reply.tag == qname("sm:failed")


@pytest.mark.parametrize("asks", ["", "<r xmlns='urn:xmpp:sm:3'/>"])
def test_the_last_word_acknowledges_all(login, asks):
    """What came before </stream:stream> is committed and acknowledged before ours: nobody sends it again."""
    a, b = login(), login(presence=True)
    a.enable_sm(resume=False)
    a.answer_acks = False
    a.send("".join(f"<message to='{b.bare}' type='chat'><body>{i}</body></message>" for i in range(20)) + asks + "</stream:stream>")
    a.expect_close()
    acks = [int(e.get("h")) for e in a.queue if e.tag == qname("sm:a")]
    assert acks and acks[-1] == 20 and acks == sorted(acks)
    for i in range(20):
        assert text(b.expect("message"), "body") == str(i)


@pytest.mark.rookery
def test_unacknowledged_at_the_end_of_time(new_server, login, account):
    """Waiting is over: messages go offline, presence ends."""
    server = new_server(sm={"max_resume": "1s"})
    one, two = account(at=server), account(at=server)
    a, b = login(one, at=server, presence=True, roster=True), login(two, at=server, presence=True, roster=True)
    befriend(a, b)
    a.answer_acks = False
    a.enable_sm()
    b.message(a.jid, "first")
    a.expect("message")  # received, never acknowledged
    a.cut()
    b.message(one.jid, "second")
    b.expect("presence", from_=a.jid, type="unavailable", timeout=15)
    c = login(one, at=server, presence=True)
    assert bodies([c.expect("message"), c.expect("message")]) == ["first", "second"]


@pytest.mark.rookery
def test_unacknowledged_queue_is_bounded(new_server, login, account):
    """THREATS 27, 29: a client that reads but never acknowledges."""
    server = new_server(sm={"max_unacked": 50})
    a, b = login(account(at=server), at=server, presence=True), login(account(at=server), at=server)
    a.answer_acks = False
    a.enable_sm()
    for i in range(200):
        b.message(a.bare, str(i))
    a.expect_close({"policy-violation", "resource-constraint", "undefined-condition"})
    b.ping()
    c = login(a.account, at=server, presence=True)
    got = bodies(c.before(b))
    assert got == [str(i) for i in range(200)], "and nothing is lost"


@pytest.mark.rookery
def test_resume_after_restart_fails_with_h(new_server, login, account):
    """DESIGN 4.5: after a crash <failed h/> with the durable count, and what was unacknowledged comes again, with its
    stanza-id as it was."""
    server = new_server()
    one, two = account(at=server), account(at=server)
    a, b = login(one, at=server, presence=True), login(two, at=server)
    a.answer_acks = False
    previd = a.enable_sm().get("id")
    for i in range(3):
        a.message(two.jid, str(i))
    while a.acked() < 3:
        pass
    b.message(one.jid, "before the crash")
    sid = get(a.expect("message", type="chat"), "sid:stanza-id").get("id")
    server.kill()
    server.start()
    c = login(one, at=server, bind=False)
    reply = resume(c, previd, 0)
    assert reply.tag == qname("sm:failed")
    assert int(reply.get("h")) <= 3  # what was durable; it may lag by a moment
    c.bind()
    c.presence()
    e = c.expect("message", type="chat")
    assert text(e, "body") == "before the crash" and get(e, "sid:stanza-id").get("id") == sid
