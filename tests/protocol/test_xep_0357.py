"""XEP-0357: who is notified of what, when, and when not any more. The app server is the session of another account."""
import pytest

from raw import NS, condition, every, get, new_id, qname, text
from test_xep_0198 import again, bodies, managed  # noqa: F401  (fixtures)

PUSH, PUBSUB = NS["push"], NS["pubsub"]
OPTIONS = ("<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>" + PUBSUB + "#publish-options</value>"
           "</field><field var='secret'><value>{}</value></field></x>")
RECEIPT = "<received xmlns='urn:xmpp:receipts' id='1'/><store xmlns='urn:xmpp:hints'/>"


class App:
    """An app server: it takes notifications and answers them."""

    def __init__(self, raw):
        self.raw, self.jid = raw, raw.jid

    def next(self, answer=True, timeout=None):
        """The fields of the next notification's summary, with .node, .options, .iq beside."""
        iq = self.raw.expect("iq", type="set", timeout=timeout)
        publish = get(iq, "pubsub:pubsub/pubsub:publish")
        note = get(publish, "pubsub:item/push:notification")
        n = Note({f.get("var"): text(f, "x:value") for f in every(note, "x:x/x:field")})
        n.node, n.iq = publish.get("node"), iq
        n.options = get(iq, "pubsub:pubsub/pubsub:publish-options/x:x")
        assert n.pop("FORM_TYPE") == "urn:xmpp:push:summary"
        if answer:
            self.answer(n)
        return n

    def answer(self, note, error=None, kind="cancel"):
        head = f"<iq to='{note.iq.get('from')}' id='{note.iq.get('id')}'"
        self.raw.send(f"{head} type='result'/>" if not error else
                      f"{head} type='error'><error type='{kind}'><{error} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
                      "</error></iq>")


class Note(dict):
    pass


def enable(raw, app, node="n1", options=""):
    raw.result("set", f"<enable xmlns='{PUSH}' jid='{app.jid}' node='{node}'>{options}</enable>")


def disable(raw, app, node=None):
    raw.result("set", f"<disable xmlns='{PUSH}' jid='{app.jid}'" + (f" node='{node}'/>" if node else "/>"))


@pytest.fixture
def app(login):
    def make(**more):
        return App(login(**more))
    return make


@pytest.fixture
def away(login, account, app):
    """An account whose phone has enabled push and logged out; its app server."""
    def make(**more):
        phone, server = login(account(**more), "phone", **more), app(**more)
        enable(phone, server)
        phone.close()
        return phone.account, server
    return make


def at(server, account):
    return account(at=server)


# -- enabling --------------------------------------------------------------------------------------------------------

def features(raw, to):
    return [f.get("var") for f in every(raw.result("get", f"<query xmlns='{NS['info']}'/>", to=to),
                                            "info:query/info:feature")]


def test_announced_on_the_account(login):
    raw = login()
    assert PUSH in features(raw, raw.bare)


@pytest.mark.rookery
def test_switched_off(new_server, login, account):
    server = new_server(push={"max_targets": 0})
    raw = login(account(at=server), at=server)
    assert PUSH not in features(raw, raw.bare)
    assert raw.refused("set", f"<enable xmlns='{PUSH}' jid='push.example' node='x'/>") == "service-unavailable"


@pytest.mark.parametrize("payload,why", [
    (f"<enable xmlns='{PUSH}' node='x'/>", "bad-request"),
    (f"<enable xmlns='{PUSH}' jid='a@b@c' node='x'/>", "jid-malformed"),
    (f"<disable xmlns='{PUSH}'/>", "bad-request"),
    (f"<enable xmlns='{PUSH}' jid='push.example' node='{'x' * 1024}'/>", "policy-violation"),
    (f"<enable xmlns='{PUSH}' jid='push.example' node='x'><x xmlns='jabber:x:data' type='submit'/></enable>", "bad-request"),
    (f"<enable xmlns='{PUSH}' jid='push.example' node='x'>{OPTIONS.format('s' * 5000)}</enable>", "policy-violation"),
])
def test_refused(login, payload, why):
    assert login().refused("set", payload) == why


def test_not_for_others(login):
    a, b = login(), login()
    assert a.refused("set", f"<enable xmlns='{PUSH}' jid='push.example' node='x'/>", to=b.bare) == "service-unavailable"


@pytest.mark.rookery
def test_limit(login, app):
    raw, server = login(), app()
    for i in range(10):
        enable(raw, server, f"n{i}")
    enable(raw, server, "n3")
    assert raw.refused("set", f"<enable xmlns='{PUSH}' jid='{server.jid}' node='n10'/>") == "resource-constraint"
    disable(raw, server, "n3")
    enable(raw, server, "n10")


# -- notifications ---------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_no_session(away, login):
    who, server = away()
    b = login()
    b.message(who.jid, "secret words")
    note = server.next()
    assert note == {"message-count": "1", "last-message-sender": b.jid} and note.node == "n1"
    assert note.iq.get("from") == who.jid and note.iq.get("to") == server.jid and note.options is None
    b.message(who.jid, "more", extra="<encrypted xmlns='urn:xmpp:omemo:2'><payload/></encrypted>")
    assert server.next()["message-count"] == "2"
    phone = login(who, "phone", presence=True)
    assert bodies(phone.expect("message") for _ in range(2)) == ["secret words", "more"]


@pytest.mark.rookery
def test_body_by_option(new_server, login, account, app):
    server = new_server(push={"body": True, "sender": False})
    phone, service, b = login(at(server, account), at=server), App(login(at(server, account), at=server)), \
        login(at(server, account), at=server)
    enable(phone, service)
    phone.close()
    b.message(phone.bare, "wherefore <&> \u2603")
    assert service.next() == {"message-count": "1", "last-message-body": "wherefore <&> \u2603"}
    b.message(phone.bare, "\u2603" * 1000)
    assert service.next()["last-message-body"] == "\u2603" * 341, "cut, at a character"


def test_publish_options(login, app):
    phone, server, b = login(), app(), login()
    enable(phone, server, options=OPTIONS.format("first"))
    enable(phone, server, options=OPTIONS.format("second &amp; last"))
    phone.close()
    b.message(phone.bare)
    note = server.next()
    assert {f.get("var"): text(f, "x:value") for f in every(note.options, "x:field")} == {
        "FORM_TYPE": PUBSUB + "#publish-options", "secret": "second & last"}


def test_what_is_no_news(away, login):
    """Receipts, chat states, one's own notes: the next real message is the first that is told."""
    who, server = away()
    b, own = login(), login(who, "desktop")
    b.message(who.jid, body=None, extra=RECEIPT)
    b.message(who.jid, body=None, extra="<composing xmlns='http://jabber.org/protocol/chatstates'/>")
    b.message(who.jid, body="not kept", extra="<no-store xmlns='urn:xmpp:hints'/>")
    own.message(who.jid, "note to self")
    own.ping()
    b.message(who.jid, "news")
    assert server.next()["last-message-sender"] == b.jid
    b.message(who.jid, body=None, extra="<propose xmlns='urn:xmpp:jingle-message:0' id='c'/><store xmlns='urn:xmpp:hints'/>")
    server.next()


@pytest.mark.smoke
def test_a_sleeping_phone(managed, again, login, app):  # noqa: F811
    """Detached: each message is told once, kept, and delivered on resumption, wherever that is; also when the desktop is
    there. Nothing is told while the phone is there itself."""
    phone, server, b = managed(None, "phone"), app(), login()
    enable(phone, server)
    desktop = login(phone.account, "desktop", presence=True)
    b.message(phone.bare, "seen")
    phone.expect("message")
    phone.send(f"<a xmlns='urn:xmpp:sm:3' h='{phone.handled}'/>")
    phone.ping()
    phone.cut()
    for i in ("1", "2"):
        b.message(phone.bare, i)
        assert server.next()["message-count"] == i, "and the one that was seen is none of them"
    c, reply = again(phone)
    assert reply.tag == qname("sm:resumed")
    assert bodies(c.expect("message", type="chat") for _ in range(2)) == ["1", "2"]
    assert bodies(desktop.expect("message") for _ in range(3)) == ["seen", "1", "2"]
    c.send(f"<a xmlns='urn:xmpp:sm:3' h='{c.handled}'/>")
    c.ping()
    c.cut()
    b.message(phone.bare, "3")
    assert server.next()["message-count"] == "1", "it was there meanwhile"
    assert not [e for e in server.raw.before(b) if e.tag == qname("iq")]


def test_lost_with_messages_in_hand(managed, again, login, app):  # noqa: F811
    """The connection was dead before anybody knew: told when it is known, once."""
    phone, server, b = managed(None, "phone"), app(), login()
    enable(phone, server)
    for i in range(3):
        b.message(phone.bare, str(i))
    bodies(phone.expect("message") for _ in range(3))
    phone.cut()
    assert server.next()["message-count"] == "3"
    b.message(phone.bare, "3")
    assert server.next()["message-count"] == "4"
    c, _ = again(phone, h=phone.handled - 3)
    assert bodies(c.expect("message") for _ in range(4)) == ["0", "1", "2", "3"]


@pytest.mark.rookery
@pytest.mark.parametrize("inactive", [False, True])
def test_connected_and_asleep(new_server, login, account, inactive):
    """It does not acknowledge: the app is frozen. With XEP-0352 and without, the message is sent and then told of."""
    server = new_server(push={"ack_delay": "1s"})
    phone, service, b = login(at(server, account), "phone", presence=True, at=server), \
        App(login(at(server, account), at=server)), login(at(server, account), at=server)
    phone.answer_acks = False
    phone.enable_sm()
    enable(phone, service)
    if inactive:
        phone.send("<inactive xmlns='urn:xmpp:csi:0'/>")
    b.message(phone.bare, "one")
    phone.expect("message")
    assert service.next()["message-count"] == "1"
    b.message(phone.bare, "two")
    phone.expect("message")
    assert service.next()["message-count"] == "2"


def test_one_at_a_time(away, login):
    who, server = away()
    b = login()
    b.message(who.jid, "1")
    first = server.next(answer=False)
    for i in "234":
        b.message(who.jid, i)
    b.ping()
    assert not [e for e in server.raw.before(b) if e.tag == qname("iq")]
    server.answer(first)
    assert server.next()["message-count"] == "4", "what came meanwhile in one"


# -- disabling -------------------------------------------------------------------------------------------------------

def test_disable(login, app):
    phone, server, other, b = login(), app(), app(), login()
    for node in ("n1", "n2", "n3"):
        enable(phone, server, node)
    enable(phone, other, "o1")
    disable(phone, server, "n2")
    disable(phone, server, "never enabled")
    b.message(phone.bare, "1")
    assert {server.next().node, server.next().node} == {"n1", "n3"} and other.next().node == "o1"
    disable(phone, server)
    b.message(phone.bare, "2")
    assert other.next()["message-count"] == "2"
    enable(phone, server, "n4")
    b.message(phone.bare, "3")
    assert server.next().node == "n4"


@pytest.mark.parametrize("error", ["item-not-found", "forbidden"])
def test_an_error_disables(away, login, error):
    who, server = away()
    b = login()
    b.message(who.jid, "1")
    server.answer(server.next(answer=False), error)
    server.raw.ping()
    phone = login(who, "phone")
    enable(phone, server, "n2")
    phone.close()
    b.message(who.jid, "2")
    assert server.next().node == "n2"
    b.message(who.jid, "3")
    assert server.next().node == "n2"


def test_an_error_that_may_pass(away, login):
    who, server = away()
    b = login()
    for i in range(3):
        b.message(who.jid, str(i))
        server.answer(server.next(answer=False), "resource-constraint", "wait")
    b.message(who.jid, "3")
    assert server.next()["message-count"] == "4"


def test_errors_of_others(away, login):
    """Who knows the id of the notification and is not the app server changes nothing."""
    who, server = away()
    b = login()
    b.message(who.jid, "1")
    note = server.next(answer=False)
    App(b).answer(note, "item-not-found")
    b.ping()
    server.answer(note)
    b.message(who.jid, "2")
    assert server.next()["message-count"] == "2"


def test_an_app_server_that_is_not_there(login, app):
    """A full JID without a session, a bare JID, another domain: nothing comes back to the sender, nothing is in the way."""
    phone, server, b = login(), app(), login()
    for jid in (f"{b.bare}/nobody", b.bare, "push.example", "nobody@" + b.domain, b.domain):
        phone.result("set", f"<enable xmlns='{PUSH}' jid='{jid}' node='x'/>")
    enable(phone, server)
    phone.close()
    for i in "123":
        b.message(phone.bare, i)
        server.next()
    assert not [e for e in b.before() if condition(e)]


@pytest.mark.rookery
@pytest.mark.single("the server is restarted")
def test_kept_over_a_restart(new_server, login, account):
    server = new_server()
    phone, b, service = (account(at=server) for _ in range(3))
    raw, app = login(phone, at=server), App(login(service, "fixed", at=server))
    enable(raw, app)
    raw.close()
    server.restart()
    app, sender = App(login(service, "fixed", at=server)), login(b, at=server)
    sender.message(phone.jid, "after the restart")
    note = app.next(answer=False)
    server.kill()
    server.start()
    late = App(login(service, "fixed", at=server))
    late.answer(note, "item-not-found")
    late.raw.ping()
    sender, other = login(b, at=server), App(login(account(at=server), at=server))
    raw = login(phone, at=server)
    enable(raw, other, new_id())
    raw.close()
    sender.message(phone.jid, "told to the other one only")
    assert other.next()["message-count"] == "2"
    assert not [e for e in late.raw.before(sender) if e.tag == qname("iq")]
