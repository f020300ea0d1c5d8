"""XEP-0377: reports of spam and abuse in block requests."""
import pytest

import rig
from conftest import Account
from raw import text
from test_xep_small import blocklist, info

pytestmark = pytest.mark.rookery
NS, SPAM, ABUSE = "urn:xmpp:reporting:1", "urn:xmpp:reporting:spam", "urn:xmpp:reporting:abuse"


def report(jid, reason=SPAM, more=""):
    return f"<item jid='{jid}'><report xmlns='{NS}' reason='{reason}'>{more}</report></item>"


def block(raw, items):
    raw.result("set", f"<block xmlns='urn:xmpp:blocking'>{items}</block>")


@pytest.fixture
def scene(new_server, login, account):
    """(the server, a session of an operator, a user)"""
    domain, second = rig.DOMAINS[:2]
    server = new_server(reports=[{"jid": f"guard@{domain}"}, {"jid": f"other@{domain}", "host": second}])
    for name in ("guard", "other"):
        server.add_user(name, server.domain, "secret")
    guard, other = (login(Account(n, server.domain, "secret"), at=server, presence=True)
                    for n in ("guard", "other"))
    guard.other = other
    return server, guard, login(account(at=server), at=server, presence=True)


def test_announced(login):
    raw = login()
    assert NS in info(raw, raw.domain)[1]


def test_report(scene):
    server, guard, user = scene
    more = f"<stanza-id xmlns='urn:xmpp:sid:0' by='{user.bare}' id='28482-98726'/><text xml:lang='en'>buy &lt;this&gt;</text>"
    block(user, report("Spammer@elsewhere.test", more=more) + "<item jid='plain@elsewhere.test'/>" +
          report("bully@elsewhere.test/x", ABUSE))
    m = guard.expect("message")
    body = text(m, "body")
    assert m.get("from") == server.domain and m.get("to") == guard.bare
    assert body.startswith(user.bare) and "plain" not in body
    assert "spammer@elsewhere.test: spam" in body and "28482-98726" in body and '"buy <this>"' in body
    assert "bully@elsewhere.test/x: abuse" in body
    assert blocklist(user) == {"spammer@elsewhere.test", "plain@elsewhere.test", "bully@elsewhere.test/x"}
    assert not guard.other.before(), "only for the other host"
    line, = (x for x in server.log().splitlines() if "abuse-report" in x)
    assert user.bare in line and "spammer@elsewhere.test" in line and "buy" not in line


def test_old_report(scene):
    server, guard, user = scene
    block(user, "<item jid='old@elsewhere.test'><report xmlns='urn:xmpp:reporting:0'><abuse/><text>Never</text></report></item>")
    body = text(guard.expect("message"), "body")
    assert "old@elsewhere.test: abuse" in body and '"Never"' in body


def test_no_report(scene):
    """A block without one, or with one that nobody understands, blocks as ever."""
    server, guard, user = scene
    block(user, "<item jid='plain@elsewhere.test'/>" + report("a@elsewhere.test", "urn:unknown") +
          f"<item jid='b@elsewhere.test'><report xmlns='{NS}'/></item>")
    assert blocklist(user) == {"plain@elsewhere.test", "a@elsewhere.test", "b@elsewhere.test"}
    assert not guard.before() and "abuse-report" not in server.log()


def test_not_many(scene):
    """Operators are not to be flooded: many addresses in one message, few messages."""
    server, guard, user = scene
    block(user, "".join(report(f"s{i}@elsewhere.test", more=f"<text>{'x' * 3000}</text>") for i in range(30)))
    body = text(guard.expect("message"), "body")
    assert "s19@" in body and "s20@" not in body and len(body) < 5000
    for i in range(5):
        block(user, report(f"t{i}@elsewhere.test"))
    assert not guard.before() and len(blocklist(user)) == 35
