"""The same with aioxmpp's services, see slix_profile.py."""
import asyncio
import json
import sys

import aioxmpp
import aioxmpp.bookmarks
import aioxmpp.connector
import aioxmpp.private_xml
import aioxmpp.vcard
import aioxmpp.version
import aioxmpp.xso as xso

jid, password, host, port, other = sys.argv[1:]


@aioxmpp.private_xml.Query.as_payload_class
class Prefs(xso.XSO):
    TAG = ("urn:example:prefs", "prefs")
    text = xso.Text(default=None)


async def main():
    client = aioxmpp.Client(aioxmpp.JID.fromstr(jid), aioxmpp.make_security_layer(password, no_verify=True),
                            override_peer=[(host, int(port), aioxmpp.connector.XMPPOverTLSConnector())])
    private, vcard, disco = (client.summon(s) for s in (aioxmpp.private_xml.PrivateXMLService, aioxmpp.vcard.VCardService,
                                                        aioxmpp.DiscoClient))
    got = {}
    async with client.connected():
        empty = await private.get_private_xml(Prefs())
        prefs = Prefs()
        prefs.text = "dark"
        await private.set_private_xml(prefs)
        answer = await private.get_private_xml(Prefs())
        got["prefs"] = [[p.text for p in q.registered_payload] if isinstance(q.registered_payload, list)
                        else q.registered_payload.text for q in (empty, answer)]
        got["card before"] = (await vcard.get_vcard()).get_photo_data()
        card = await vcard.get_vcard()
        card.set_photo_data("image/png", b"png")
        await vcard.set_vcard(card)
        got["card"] = (await vcard.get_vcard(client.local_jid.bare())).get_photo_data().decode()
        try:
            await vcard.get_vcard(aioxmpp.JID.fromstr(other))
        except aioxmpp.XMPPCancelError as e:
            got["card of other"] = e.condition.name.lower().replace("_", "-")
        got["name"] = (await aioxmpp.version.query_version(client.stream, client.local_jid.replace(localpart=None, resource=None))).name
        info = await disco.query_info(client.local_jid.replace(localpart=None, resource=None))
        got["features"] = sorted(info.features)
    print(json.dumps(got))


asyncio.run(main())
