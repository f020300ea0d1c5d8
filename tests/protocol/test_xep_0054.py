"""XEP-0054: vcard-temp."""
import pytest

from raw import get, text
from test_xep_small import block, info

NS = "vcard-temp"
NONE = f"<vCard xmlns='{NS}'/>"
CARD = f"<vCard xmlns='{NS}'><FN>Juliet Càpulet</FN><N><GIVEN>Juliet</GIVEN></N><PHOTO><BINVAL>QUJD</BINVAL></PHOTO></vCard>"


def card(reply):
    found, = reply
    assert found.tag == f"{{{NS}}}vCard"
    return {e.tag.split("}")[1]: "".join(e.itertext()) for e in found}


FULL = {"FN": "Juliet Càpulet", "N": "Juliet", "PHOTO": "QUJD"}


def test_announced(login):
    raw = login()
    assert NS in info(raw, raw.domain)[1] and NS in info(raw, raw.bare)[1]


def test_own(login, account):
    who = account()
    raw = login(who)
    assert card(raw.result("get", NONE)) == card(raw.result("get", NONE, raw.bare)) == {}
    raw.result("set", CARD)
    assert card(raw.result("get", NONE)) == FULL
    raw.close()
    raw = login(who)
    assert card(raw.result("get", NONE, raw.bare)) == FULL
    raw.result("set", f"<vCard xmlns='{NS}'><FN>J</FN></vCard>", raw.bare)
    assert card(raw.result("get", NONE)) == {"FN": "J"}
    raw.result("set", NONE)
    assert card(raw.result("get", NONE)) == {}


def test_of_others(login):
    """World-readable, and whether they are online or not."""
    a, b = login(), login()
    b.result("set", CARD)
    reply = a.result("get", NONE, b.bare)
    assert card(reply) == FULL and reply.get("from") == b.bare
    b.close()
    assert card(a.result("get", NONE, b.bare)) == FULL


@pytest.mark.rookery
def test_none_of_others(login):
    """THREATS 24: an account without one looks like no account; and nobody else sets it."""
    a, b = login(), login()
    for to in (b.bare, f"nobody@{a.domain}"):
        assert a.refused("get", NONE, to) == "service-unavailable"
        assert a.refused("set", CARD, to) == "forbidden"
    assert card(b.result("get", NONE)) == {}


@pytest.mark.rookery
def test_blocked(login):
    a, b = login(), login()
    b.result("set", CARD)
    block(b, a.bare)
    assert a.refused("get", NONE, b.bare) == "service-unavailable"


@pytest.mark.rookery
def test_size(new_server, login):
    raw = login(at=new_server(vcard={"max_size": "2KiB"}))
    raw.result("set", CARD)
    large = f"<vCard xmlns='{NS}'><DESC>{'x' * 2048}</DESC></vCard>"
    reply = raw.request("set", large)
    assert get(reply, "error/e:policy-violation") is not None and text(reply, "error/e:text")
    assert card(raw.result("get", NONE)) == FULL
