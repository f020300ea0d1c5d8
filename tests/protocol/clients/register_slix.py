"""slixmpp's XEP-0077: `JID PASSWORD NEWPASSWORD HOST PORT`. Registers, logs in, changes the password, removes the account;
says each step, and the condition of an error."""
import asyncio
import ssl
import sys

import slixmpp
from slixmpp.exceptions import IqError

from common import say


class Client(slixmpp.ClientXMPP):
    def __init__(self, jid, password, new):
        super().__init__(jid, password)
        self.new, self.over = new, asyncio.get_event_loop().create_future()
        self.register_plugin("xep_0030")
        self.register_plugin("xep_0004")
        self.register_plugin("xep_0066")
        self.register_plugin("xep_0077")
        self["xep_0077"].force_registration = True
        self._always_send_everything = True  # 1.8.3 would keep the iq until after the login
        self.ssl_context.check_hostname = False
        self.ssl_context.verify_mode = ssl.CERT_NONE
        self.add_event_handler("register", self.on_register)
        self.add_event_handler("session_start", self.on_session)
        self.add_event_handler("disconnected", lambda _: self.over.done() or self.over.set_result(None))

    async def on_register(self, form):
        say("fields", ",".join(sorted(form["register"]["fields"])))
        iq = self.Iq()
        iq["type"] = "set"
        iq["register"]["username"] = self.boundjid.user
        iq["register"]["password"] = self.password
        try:
            await iq.send()
            say("registered")
        except IqError as e:
            say("error", e.iq["error"]["condition"], e.iq["error"]["code"])
            self.disconnect()

    async def on_session(self, _):
        say("online", self.boundjid.bare)
        try:
            info = await self["xep_0077"].get_registration()
            say("known", info["register"]["registered"], info["register"]["username"])
            await self["xep_0077"].change_password(self.new)
            say("changed")
            await self["xep_0077"].cancel_registration()
            say("removed")
        except IqError as e:
            say("error", e.iq["error"]["condition"], e.iq["error"]["code"])


jid, password, new, host, port = sys.argv[1:]
client = Client(jid, password, new)
client.connect((host, int(port)), force_starttls=True)
client.loop.run_until_complete(asyncio.wait_for(client.over, 30))
