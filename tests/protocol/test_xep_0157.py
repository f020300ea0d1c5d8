"""XEP-0157: contact addresses in disco#info."""
import pytest

import rig
from raw import every, get
from test_xep_small import INFO

pytestmark = pytest.mark.rookery


def forms(raw, to):
    query = get(raw.result("get", INFO, to), "info:query")
    return [[(f.get("var"), f.get("type"), [v.text for v in f]) for f in x]
            for x in query if x.tag == "{jabber:x:data}x" and x.get("type") == "result"]


def test_none(login):
    raw = login()
    assert forms(raw, raw.domain) == []


def test_addresses(new_server, login, account):
    one, two = rig.DOMAINS[:2]
    server = new_server(contacts=[
        {"role": "support", "address": f"xmpp:help@{one}?message", "host": one},
        {"role": "abuse", "address": "mailto:abuse@example.org"},
        {"role": "support", "address": "https://example.org/?a=1&b=2"},
    ])
    raw = login(account(at=server), at=server)
    head = ("FORM_TYPE", "hidden", ["http://jabber.org/network/serverinfo"])
    abuse = ("abuse-addresses", None, ["mailto:abuse@example.org"])
    assert forms(raw, one) == [[head, abuse, ("support-addresses", None, [f"xmpp:help@{one}?message",
                                                                         "https://example.org/?a=1&b=2"])]]
    assert forms(raw, two) == [[head, abuse, ("support-addresses", None, ["https://example.org/?a=1&b=2"])]]
    assert forms(raw, raw.bare) == []  # of the server, not of accounts
