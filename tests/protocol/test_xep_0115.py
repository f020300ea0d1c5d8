"""XEP-0115 and XEP-0390: capabilities of the server itself, in its stream features. What they are hashes of is left to
aioxmpp, which makes them from what disco#info says."""
import base64
import hashlib
import io
import xml.etree.ElementTree as ET

import aioxmpp.xml
import pytest
from aioxmpp.disco.xso import InfoQuery
from aioxmpp.entitycaps import caps115, caps390

import rig
from raw import get
from test_xep_small import INFO, info

pytestmark = pytest.mark.rookery
NS, NS2, HASH = "http://jabber.org/protocol/caps", "urn:xmpp:caps", "{urn:xmpp:hashes:2}hash"
ALGORITHMS = {"sha-256": hashlib.sha256, "sha3-256": hashlib.sha3_256}


def announced(raw):
    """The nodes that its stream features speak of, XEP-0115's first, and what is hashed into them."""
    old, new = raw.features.find(f"{{{NS}}}c"), raw.features.find(f"{{{NS2}}}c")
    assert old.get("hash") == "sha-1"
    hashes = {h.get("algo"): h.text for h in new.iter(HASH)}
    return (old.get("ver"), hashes), [f"{old.get('node')}#{old.get('ver')}", *(f"{NS2}#{a}.{h}" for a, h in hashes.items())]


def answered(raw, node=None):
    payload = INFO.replace("/>", f" node='{node}'/>") if node else INFO
    return get(raw.result("get", payload, raw.domain), "info:query")


def hashed(query):
    q = aioxmpp.xml.read_single_xso(io.BytesIO(ET.tostring(query)), InfoQuery)
    new = caps390._get_hash_input(q)
    return caps115.hash_query(q, "sha1"), {a: base64.b64encode(h(new).digest()).decode() for a, h in ALGORITHMS.items()}


def test_announced(login):
    raw = login()
    assert {NS, NS2} <= set(info(raw, raw.domain)[1])


def test_hashes(login):
    raw = login()
    assert announced(raw)[0] == hashed(answered(raw))


def test_nodes(login):
    raw = login()
    plain = [ET.tostring(e) for e in answered(raw)]
    for node in announced(raw)[1]:
        query = answered(raw, node)
        assert query.get("node") == node and [ET.tostring(e) for e in query] == plain
        assert raw.refused("get", INFO.replace("/>", f" node='{node}x'/>"), raw.domain) == "item-not-found"


def test_forms_and_hosts(new_server, login, account):
    """Each host has its own; forms count, whatever the order of their fields and values."""
    contacts = [("support", f"xmpp:help@{rig.DOMAINS[0]}", rig.DOMAINS[0]), ("abuse", "mailto:abuse@example.org", None),
                ("abuse", "xmpp:abuse@example.org", None), ("abuse", "xmpp:abuse@example.org/a", None)]
    server = new_server(contacts=[{"role": r, "address": a, **({"host": h} if h else {})} for r, a, h in contacts])
    one, two = (login(account(domain=d, at=server), at=server) for d in rig.DOMAINS[:2])
    for raw in (one, two):
        assert announced(raw)[0] == hashed(answered(raw))
    assert announced(one)[0] != announced(two)[0]
