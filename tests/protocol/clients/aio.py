"""aioxmpp behind the line protocol of PROTOCOL.md. The library has no archive: that query is built here with its XSO classes."""
import asyncio
import socket
import sys
from datetime import timedelta

import aioxmpp
import aioxmpp.chatstates
import aioxmpp.connector
import aioxmpp.forms
import aioxmpp.misc
import aioxmpp.rsm.xso
import aioxmpp.xso as xso

from common import commands, say

MAM = "urn:xmpp:mam:2"


class Result(xso.XSO):
    TAG = (MAM, "result")
    forwarded = xso.Child([aioxmpp.misc.Forwarded])


aioxmpp.Message.xep0313_result = xso.Child([Result])


@aioxmpp.IQ.as_payload_class
class Query(xso.XSO):
    TAG = (MAM, "query")
    rsm = xso.Child([aioxmpp.rsm.xso.ResultSetMetadata])


@aioxmpp.IQ.as_payload_class
class Fin(xso.XSO):
    TAG = (MAM, "fin")
    rsm = xso.Child([aioxmpp.rsm.xso.ResultSetMetadata])
    UNKNOWN_ATTR_POLICY = xso.UnknownAttrPolicy.DROP


def body(message):
    return message.body.any() if message.body else None


def on_message(m):
    carbon = m.xep0280_sent or m.xep0280_received
    if carbon:
        say("carbon", body(carbon.stanza))
    elif m.xep0313_result:
        say("archived", body(m.xep0313_result.forwarded.stanza))
    elif m.body and m.type_ != aioxmpp.MessageType.ERROR:
        say("delayed" if m.xep0203_delay else "message", m.from_, body(m))


async def run(jid, password, host, port, mode):
    connector = aioxmpp.connector.XMPPOverTLSConnector() if mode == "tls" else aioxmpp.connector.STARTTLSConnector()
    client = aioxmpp.Client(aioxmpp.JID.fromstr(jid), aioxmpp.make_security_layer(password, no_verify=True),
                            override_peer=[(host, port, connector)])
    client.backoff_start = client.backoff_cap = timedelta(milliseconds=50)
    presence = client.summon(aioxmpp.dispatcher.SimplePresenceDispatcher)
    for kind in aioxmpp.PresenceType:
        presence.register_callback(kind, None, lambda p: say("presence", p.from_, p.type_.value or "available"))
    client.summon(aioxmpp.dispatcher.SimpleMessageDispatcher).register_callback(None, None, on_message)
    carbons = client.summon(aioxmpp.CarbonsClient)
    client.on_stream_resumed.connect(lambda: say("resumed", client.local_jid))
    client.on_failure.connect(lambda e: say("error", e))
    online = asyncio.Event()
    client.on_stream_established.connect(online.set)
    client.start()
    await asyncio.wait_for(online.wait(), 20)
    say("online", client.local_jid)
    async for name, *rest in commands():
        if name == "roster":
            answer = await client.send(aioxmpp.IQ(aioxmpp.IQType.GET, payload=aioxmpp.roster.xso.Query()))
            say("roster", ",".join(str(i.jid) for i in answer.items))
        elif name == "presence":
            await client.send(aioxmpp.Presence(type_=aioxmpp.PresenceType.AVAILABLE))
        elif name == "show":
            await client.send(aioxmpp.Presence(type_=aioxmpp.PresenceType.AVAILABLE, show=aioxmpp.PresenceShow(rest[0])))
        elif name == "state":
            m = aioxmpp.Message(aioxmpp.MessageType.CHAT, to=aioxmpp.JID.fromstr(rest[0]))
            m.xep0085_chatstate = aioxmpp.chatstates.ChatState[rest[1].upper()]
            client.enqueue(m)
        elif name in ("subscribe", "subscribed"):
            await client.send(aioxmpp.Presence(type_=aioxmpp.PresenceType(name), to=aioxmpp.JID.fromstr(rest[0])))
        elif name == "chat":
            m = aioxmpp.Message(aioxmpp.MessageType.CHAT, to=aioxmpp.JID.fromstr(rest[0]))
            m.body[None] = rest[1]
            client.enqueue(m)
        elif name == "carbons":
            await carbons.enable()
            say("carbons")
        elif name == "archive":
            query = Query()
            query.rsm = aioxmpp.rsm.xso.ResultSetMetadata.last_page(20)
            await client.send(aioxmpp.IQ(aioxmpp.IQType.SET, payload=query))
            await asyncio.sleep(0)
            say("fin")
        elif name == "cut":
            client.stream._xmlstream.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        elif name == "quit":
            stopped = asyncio.Event()
            client.on_stopped.connect(stopped.set)
            client.stop()
            await stopped.wait()
            return


jid, password, host, port, mode = sys.argv[1:]
asyncio.run(run(jid, password, host, int(port), mode))
