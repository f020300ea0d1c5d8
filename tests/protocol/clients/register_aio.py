"""aioxmpp's ibr: `JID PASSWORD NEWPASSWORD HOST PORT`, as register_slix.py."""
import asyncio
import sys

import aioxmpp
import aioxmpp.connector
import aioxmpp.ibr
import aioxmpp.node

from common import say


async def run(jid, password, new, host, port):
    jid, peer = aioxmpp.JID.fromstr(jid), [(host, int(port), aioxmpp.connector.STARTTLSConnector())]
    metadata = aioxmpp.make_security_layer(None, no_verify=True)
    _, stream, features = await aioxmpp.node.connect_xmlstream(jid, metadata, override_peer=peer)
    info = await aioxmpp.ibr.get_registration_fields(stream)
    say("fields", ",".join(sorted(f.split("}")[-1] if isinstance(f, str) else f[1]
                                  for f in aioxmpp.ibr.get_used_fields(info) if f[1] in ("username", "password"))))
    await aioxmpp.ibr.register(stream, aioxmpp.ibr.Query(jid.localpart, password))  # hears no error
    say("registered")
    stream.close()
    client = aioxmpp.Client(jid, aioxmpp.make_security_layer(password, no_verify=True), override_peer=peer)
    service, online, over = client.summon(aioxmpp.ibr.RegistrationService), asyncio.Event(), asyncio.Event()
    client.on_stream_established.connect(online.set)
    client.on_failure.connect(lambda e: over.set())
    client.start()
    await asyncio.wait_for(online.wait(), 20)
    say("online", client.local_jid.bare())
    known = await service.get_client_info()
    say("known", known.registered is not None, known.username)
    await service.change_pass(new)
    say("changed")
    try:
        await service.cancel_registration()
    except ConnectionError:
        pass  # the library drops the result when the stream ends with it, as it says itself
    say("removed")
    client.stop()


asyncio.run(run(*sys.argv[1:]))
