"""slixmpp behind the line protocol of PROTOCOL.md."""
import asyncio
import ssl
import sys

import slixmpp

from common import commands, say


class Client(slixmpp.ClientXMPP):
    def __init__(self, jid, password):
        super().__init__(jid, password)
        for plugin in ("xep_0030", "xep_0059", "xep_0085", "xep_0198", "xep_0203", "xep_0280", "xep_0313"):
            self.register_plugin(plugin)
        self.ssl_context.check_hostname = False
        self.ssl_context.verify_mode = ssl.CERT_NONE
        self.auto_authorize = None
        self.add_event_handler("session_start", lambda _: say("online", self.boundjid.full))
        self.add_event_handler("session_resumed", lambda _: say("resumed", self.boundjid.full))
        self.add_event_handler("message", self.on_message)
        for kind in ("sent", "received"):
            self.add_event_handler(f"carbon_{kind}", lambda m, kind=kind: say("carbon", m[f"carbon_{kind}"]["body"]))
        for kind in ("available", "unavailable", "subscribe", "subscribed", "unsubscribe", "unsubscribed"):
            self.add_event_handler(f"presence_{kind}", lambda p, kind=kind: say("presence", p["from"], kind))
        self.add_event_handler("failed_auth", lambda _: say("error", "auth"))

    def on_message(self, m):
        if m["body"] and m["type"] != "error":
            say("delayed" if m.get_plugin("delay", check=True) else "message", m["from"], m["body"])

    async def archive(self):
        async for page in self["xep_0313"].retrieve(iterator=True, reverse=True, rsm={"max": 20}):
            for m in page["mam"]["results"]:
                say("archived", m["mam_result"]["forwarded"]["stanza"]["body"])
            break
        say("fin")


async def run(client, mode, host, port):
    client.connect((host, port), use_ssl=mode == "tls", force_starttls=mode != "tls", disable_starttls=mode == "tls")
    async for name, *rest in commands():
        if name == "roster":
            await client.get_roster()  # an empty answer says that the copy is right (XEP-0237)
            known = [j for j in client.client_roster.keys() if client.client_roster[j]["subscription"] != "none"]
            say("roster", ",".join(j for j in known if j != client.boundjid.bare))
        elif name == "presence":
            client.send_presence()
        elif name == "show":
            client.send_presence(pshow=rest[0])
        elif name == "state":
            m = client.make_message(rest[0], mtype="chat")
            m["chat_state"] = rest[1]
            m.send()
        elif name in ("subscribe", "subscribed"):
            client.send_presence(pto=rest[0], ptype=name)
        elif name == "chat":
            client.send_message(rest[0], rest[1], mtype="chat")
        elif name == "carbons":
            await client["xep_0280"].enable()
            say("carbons")
        elif name == "archive":
            await client.archive()
        elif name == "cut":
            client.transport.abort()
            await client.wait_until("disconnected", 10)
            client.connect((host, port), use_ssl=mode == "tls", force_starttls=mode != "tls", disable_starttls=mode == "tls")
        elif name == "quit":
            await client.disconnect(wait=1)
            return


jid, password, host, port, mode = sys.argv[1:]
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
loop.run_until_complete(run(Client(jid, password), mode, host, int(port)))
