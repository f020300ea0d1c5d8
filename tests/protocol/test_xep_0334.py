"""What is archived at both ends and kept for those who are offline: XEP-0334's hints, and what today's clients expect of
receipts, markers, corrections, reactions, retractions, encrypted messages and chat states (XEP-0313 5.1)."""
import pytest

from raw import qname
from test_xep_0313 import Page

HINTS = "urn:xmpp:hints"
COMPOSING = "<composing xmlns='http://jabber.org/protocol/chatstates'/>"
STORED = {
    "receipt": "<received xmlns='urn:xmpp:receipts' id='x'/>",
    "marker": "<displayed xmlns='urn:xmpp:chat-markers:0' id='x'/>",
    "correction": "<body>y</body><replace xmlns='urn:xmpp:message-correct:0' id='x'/>",
    "reaction": "<reactions xmlns='urn:xmpp:reactions:0' id='x'><reaction>&#x1F44B;</reaction></reactions>",
    "retraction": "<retract xmlns='urn:xmpp:message-retract:1' id='x'/>",
    "old retraction": "<apply-to xmlns='urn:xmpp:fasten:0' id='x'><retract xmlns='urn:xmpp:message-retract:0'/></apply-to>",
    "omemo 0.3": "<encrypted xmlns='eu.siacs.conversations.axolotl'><header sid='1'/></encrypted>",
    "omemo": "<encrypted xmlns='urn:xmpp:omemo:2'><header sid='1'/></encrypted>",
    "openpgp": "<openpgp xmlns='urn:xmpp:openpgp:0'>x</openpgp>",
    "call": "<propose xmlns='urn:xmpp:jingle-message:0' id='x'/>",
    "invitation": "<x xmlns='jabber:x:conference' jid='room@rooms.example.org'/>",
    "invitation by a room": "<x xmlns='http://jabber.org/protocol/muc#user'><invite from='x@rookery.test'/></x>",
    "file": "<file-sharing xmlns='urn:xmpp:sfs:0'/>",
    "hint": f"<x xmlns='urn:x'/><store xmlns='{HINTS}'/>",
    "chat state with a hint": f"{COMPOSING}<store xmlns='{HINTS}'/>",
    "body and chat state": "<body>x</body><active xmlns='http://jabber.org/protocol/chatstates'/>",
}
NOT_STORED = {
    "chat state": COMPOSING,
    "chat state for a thread": f"<thread>x</thread>{COMPOSING}",
    "nothing known": "<x xmlns='urn:x'/>",
    "no-store": f"<body>x</body><no-store xmlns='{HINTS}'/>",
    "no-store wins": f"<encrypted xmlns='urn:xmpp:omemo:2'/><store xmlns='{HINTS}'/><no-store xmlns='{HINTS}'/>",
}


def send_to_offline(login, account, payload):
    """How often it is delivered when the recipient comes, and is in the recipient's and in the sender's archive."""
    a, who = login(presence=True), account()
    a.message(who.jid, None, extra=payload, id="m")
    a.message(who.jid, "kept", id="end")  # behind it, in order
    b = login(who)
    b.send("<presence/>")
    came = []
    while "end" not in came:
        e = b.next()
        came += [e.get("id")] if e.tag == qname("message") else []
    ids = [[m.get("id") for m in Page(raw).messages].count("m") for raw in (b, a)]
    return [came.count("m"), *ids]


@pytest.mark.rookery
@pytest.mark.parametrize("what", STORED)
def test_stored(login, account, what):
    assert send_to_offline(login, account, STORED[what]) == [1, 1, 1]


@pytest.mark.rookery
@pytest.mark.parametrize("what", NOT_STORED)
def test_not_stored(login, account, what):
    assert send_to_offline(login, account, NOT_STORED[what]) == [0, 0, 0]


@pytest.mark.rookery
def test_no_permanent_store(login, account):
    """Kept until it is delivered, never archived."""
    assert send_to_offline(login, account, f"<body>x</body><no-permanent-store xmlns='{HINTS}'/>") == [1, 0, 0]
