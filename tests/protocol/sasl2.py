"""The client's side of XEP-0388, for the tests of what is built on it."""
import base64
import hashlib
import hmac
import json
import os
import socket
import uuid
from xml.sax.saxutils import quoteattr

from raw import NS, get, qname, text
from scram import Scram


def b64(data):
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def agent(id=None):
    """A <user-agent/>; id: the client's installation."""
    return f"<user-agent id='{id or uuid.uuid4()}'><software>test</software><device>desk</device></user-agent>"


def authenticate(mechanism, initial, inline=""):
    first = "" if initial is None else f"<initial-response>{b64(initial)}</initial-response>"
    return f"<authenticate xmlns='{NS['sasl2']}' mechanism={quoteattr(mechanism)}>{first}{inline}</authenticate>"


def response(data):
    return f"<response xmlns='{NS['sasl2']}'>{b64(data)}</response>"


def failure(reply):
    assert reply.tag == qname("sasl2:failure"), reply.tag
    return next(c.tag.split("}")[1] for c in reply if c.tag.startswith("{%s}" % NS["sasl"]))


def login2(raw, who, inline="", mechanism="SCRAM-SHA-256", password=None, binding=None):
    """Logs in as who; the <success/>, <failure/> or <continue/>. raw.jid becomes the identity of a success."""
    s = Scram(mechanism, who.local, password or who.password, raw.binding(binding) if binding else None)
    reply = raw.sasl(authenticate(mechanism, s.first(), inline))
    if reply.tag == qname("sasl2:challenge"):
        reply = raw.sasl(response(s.challenge(base64.b64decode(reply.text))))
    if reply.tag in (qname("sasl2:success"), qname("sasl2:continue")):
        s.verify(base64.b64decode(text(reply, "sasl2:additional-data")))
    note(raw, reply)
    return reply


def note(raw, reply):
    """A session that begins or goes on."""
    if reply.tag != qname("sasl2:success"):
        return
    raw.jid = text(reply, "sasl2:authorization-identifier")
    if get(reply, "bind2:bound/sm:enabled") is not None:
        raw.handled = 0


def add_with_keys(server, who, *hashes):
    """An account as an import makes it: with SCRAM keys of these hashes only. By the control socket, which takes keys."""
    keys = {}
    for name in hashes:
        algorithm, salt = name.replace("-", "").lower(), os.urandom(16)
        salted = hashlib.pbkdf2_hmac(algorithm, who.password.encode(), salt, 4096)
        key = [hmac.new(salted, part, algorithm).digest() for part in (b"Client Key", b"Server Key")]
        keys[name] = {"iterations": 4096, "salt": b64(salt), "stored": b64(hashlib.new(algorithm, key[0]).digest()),
                      "server": b64(key[1])}
    path = server.dir / "rookeryctl.sock"
    if not path.exists():
        path = next(server.dir.glob("*/rookeryctl.sock"))  # a cluster's first node
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(path))
        s.sendall(json.dumps({"command": ["user", "add", who.jid], "args": {"keys": keys}}).encode() + b"\n")
        answer = json.loads(s.makefile().readline())
    assert answer.get("ok") or "error" not in answer, answer
