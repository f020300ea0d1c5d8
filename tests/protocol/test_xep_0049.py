"""XEP-0049: private XML storage."""
import pytest

from test_xep_small import info

NS = "jabber:iq:private"


def private(xml):
    return f"<query xmlns='{NS}'>{xml}</query>"


def stored(raw, name, ns, to=None):
    """The one element in the answer."""
    reply = raw.result("get", private(f"<{name} xmlns='{ns}'/>"), to)
    found, = next(e for e in reply if e.tag == f"{{{NS}}}query")
    assert found.tag == f"{{{ns}}}{name}"
    return found


def test_announced(login):
    raw = login()
    assert NS in info(raw, raw.domain)[1]


def test_set_and_get(login, account):
    who = account()
    raw = login(who)
    assert len(stored(raw, "exodus", "exodus:prefs")) == 0
    raw.result("set", private("<exodus xmlns='exodus:prefs'><nick a='&lt;&#9;'>Hämlet &amp; co</nick> </exodus>"))
    raw.result("set", private("<storage xmlns='storage:bookmarks'><url name='x' url='http://x'/></storage>"), raw.bare)
    raw.close()
    raw = login(who)
    nick = stored(raw, "exodus", "exodus:prefs", raw.bare)[0]
    assert nick.tag == "{exodus:prefs}nick" and nick.text == "Hämlet & co" and nick.get("a") == "<\t"
    assert stored(raw, "storage", "storage:bookmarks")[0].get("url") == "http://x"
    raw.result("set", private("<exodus xmlns='exodus:prefs'><new/></exodus>"))
    assert [e.tag for e in stored(raw, "exodus", "exodus:prefs")] == ["{exodus:prefs}new"]


def test_several_in_one_set(login):
    raw = login()
    raw.result("set", private("<a xmlns='x:1'>1</a><b xmlns='x:1'>2</b><a xmlns='x:2'>3</a><a xmlns='x:1'>4</a>"))
    assert [stored(raw, n, ns).text for n, ns in (("a", "x:1"), ("b", "x:1"), ("a", "x:2"))] == ["4", "2", "3"]


def test_not_waiting_for_answers(login):
    """What is sent in one go is done in order: none of the sets is lost, and a get sees what was set before it."""
    raw, n = login(), 20
    for i in range(n):
        one, none = private(f"<a xmlns='x:{i}'>{i}</a>"), private(f"<a xmlns='x:{i}'/>")
        raw.send(f"<iq type='set' id='s{i}'>{one}</iq><iq type='get' id='g{i}'>{none}</iq>")
    for i in range(n):
        reply = raw.expect("iq", id=f"g{i}")
        assert reply[0][0].text == str(i)
        assert raw.expect("iq", id=f"s{i}").get("type") == "result"


@pytest.mark.parametrize("kind,payload,error", [
    ("get", "", "not-acceptable"), ("set", "", "not-acceptable"),
    ("set", "<a xmlns=''/>", "not-acceptable"), ("set", "<a/>", "not-acceptable"),
    ("set", "<a xmlns='x:1&#10;x:2'>1</a>", "not-acceptable"),
    ("set", f"<a xmlns='{'x' * 600}'>1</a>", "not-acceptable"),
    ("get", "<a xmlns='x:1'/><b xmlns='x:2'/>", "policy-violation")])
@pytest.mark.rookery
def test_refused(login, kind, payload, error):
    assert login().refused(kind, private(payload)) == error


@pytest.mark.rookery
def test_somebody_elses(login, friends):
    """Also a friend's; and nobody learns whether there is such an account (THREATS 24)."""
    a, b = friends()
    for kind, xml in (("get", "<a xmlns='x:1'/>"), ("set", "<a xmlns='x:1'>1</a>")):
        assert a.refused(kind, private(xml), b.bare) == a.refused(kind, private(xml), f"nobody@{a.domain}") == "forbidden"
    assert stored(b, "a", "x:1").text is None


@pytest.mark.rookery
def test_limits(new_server, login):
    server = new_server(private={"max_items": 3, "max_item": "2KiB"})
    raw = login(at=server)
    large = f"<a xmlns='x:large'>{'x' * 2048}</a>"
    assert raw.refused("set", private(large)) == "policy-violation"
    assert raw.refused("set", private("".join(f"<a xmlns='x:{i}'>1</a>" for i in range(4)))) == "policy-violation"
    for i in range(3):
        raw.result("set", private(f"<a xmlns='x:{i}'>1</a>"))
    assert raw.refused("set", private("<a xmlns='x:3'>1</a>")) == "policy-violation"
    assert stored(raw, "a", "x:3").text is None
    raw.result("set", private("<a xmlns='x:1'>2</a>"))  # what is there may change
    raw.result("set", private("<a xmlns='x:0'/>"))      # an empty one makes room
    raw.result("set", private("<a xmlns='x:3'>1</a>"))
    assert raw.refused("set", private("<a xmlns='x:4'>1</a>")) == "policy-violation"
    assert [stored(raw, "a", f"x:{i}").text for i in range(4)] == [None, "2", "1", "1"]
