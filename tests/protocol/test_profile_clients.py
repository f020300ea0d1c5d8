"""XEP-0012, 0033, 0048 (as private XML), 0049, 0054, 0092 and 0115 with the plugins of slixmpp and aioxmpp."""
import json
import subprocess
import sys

import pytest

from test_clients import CLIENTS

pytestmark = pytest.mark.rookery


def run(script, server, who, other):
    done = subprocess.run([sys.executable, CLIENTS / script, who.jid, who.password, "127.0.0.1", str(server.tls_port), other.jid],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_slixmpp(server, account):
    who, other = account(), account()
    got = run("slix_profile.py", server, who, other)
    assert got.pop("uptime") >= 0
    assert got.pop("caps") == got.pop("hash")
    assert got == {"bookmarks": ["room@rooms.example.org"], "card": "Juliet Càpulet", "name": "Rookery",
                   "card of other": "service-unavailable", "last of other": "forbidden",
                   "addresses": [["to", who.jid, True], ["cc", other.jid, True]]}


def test_aioxmpp(server, account):
    got = run("aio_profile.py", server, account(), account())
    assert {"jabber:iq:last", "jabber:iq:private", "vcard-temp", "http://jabber.org/protocol/address",
            "urn:xmpp:reporting:1", "urn:xmpp:caps"} <= set(got.pop("features"))
    assert got == {"prefs": [None, "dark"], "card before": None, "card": "png", "card of other": "service-unavailable",
                   "name": "Rookery"}
