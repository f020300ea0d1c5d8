"""slixmpp's plugins for what an account keeps and tells: arguments are JID, password, host, TLS port and the JID of
somebody else; prints what it got as one line of JSON."""
import asyncio
import json
import ssl
import sys

import slixmpp
from slixmpp.exceptions import IqError
from slixmpp.plugins.xep_0048 import Bookmarks

jid, password, host, port, other = sys.argv[1:]


async def main():
    c = slixmpp.ClientXMPP(jid, password)
    for plugin in ("xep_0012", "xep_0030", "xep_0033", "xep_0048", "xep_0049", "xep_0054", "xep_0092", "xep_0115", "xep_0191"):
        c.register_plugin(plugin)
    c.ssl_context.check_hostname, c.ssl_context.verify_mode = False, ssl.CERT_NONE
    c.connect((host, int(port)), use_ssl=True, disable_starttls=True, force_starttls=False)
    await c.wait_until("session_start", 30)
    got = {}

    marks = Bookmarks()
    marks.add_conference(slixmpp.JID("room@rooms.example.org"), "me", name="A room")
    await c["xep_0049"].store(marks)
    got["bookmarks"] = [str(m["jid"]) for m in (await c["xep_0049"].retrieve("bookmarks"))["private"]["bookmarks"]["conferences"]]

    card = c["xep_0054"].make_vcard()
    card["FN"], card["NICKNAME"] = "Juliet Càpulet", "Jule"
    await c["xep_0054"].publish_vcard(card)
    got["card"] = (await c["xep_0054"].get_vcard(c.boundjid.bare, local=False))["vcard_temp"]["FN"]
    try:
        await c["xep_0054"].get_vcard(slixmpp.JID(other))
    except IqError as e:
        got["card of other"] = e.condition

    got["uptime"] = int((await c["xep_0012"].get_last_activity(c.boundjid.domain))["last_activity"]["seconds"])
    try:
        await c["xep_0012"].get_last_activity(slixmpp.JID(other))
    except IqError as e:
        got["last of other"] = e.condition
    got["name"] = (await c["xep_0092"].get_version(c.boundjid.domain))["software_version"]["name"]

    got["caps"] = await c["xep_0115"].get_verstring(c.boundjid.domain)  # from the stream features, checked by the plugin
    info = await c["xep_0030"].get_info(c.boundjid.domain)
    got["hash"] = c["xep_0115"].generate_verstring(info["disco_info"], "sha-1")

    c.send_presence()
    m = c.make_message(c.boundjid.domain, "to all", mtype="chat")
    m["addresses"].add_address("to", jid=c.boundjid.bare)
    m["addresses"].add_address("cc", jid=other)
    received = c.wait_until("message", 30)
    m.send()
    m = await received
    got["addresses"] = [[a["type"], str(a["jid"]), a["delivered"]] for a in m["addresses"]]
    await c.disconnect(wait=1)
    print(json.dumps(got))


loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
loop.run_until_complete(main())
