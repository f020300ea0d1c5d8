// xmpp.js behind the line protocol of ../PROTOCOL.md
import { client, xml, jid } from "@xmpp/client";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import readline from "node:readline";

const [address, password, host, port, mode] = process.argv.slice(2);
const { local, domain } = jid(address);
const say = (...fields) => console.log(fields.join("\t"));
const file = process.env.TOKENS;
const kept = file && existsSync(file) ? JSON.parse(readFileSync(file)) : { id: crypto.randomUUID() };
const xmpp = client({
  service: `${mode === "tls" ? "xmpps" : "xmpp"}://${host}:${port}`, domain, username: local, password,
  userAgent: xml("user-agent", { id: kept.id }),
});
xmpp.reconnect.delay = 50;
xmpp.timeout = 15_000; // for machines that are busy with other tests

if (file) {
  xmpp.fast.fetchToken = async () => kept.token;
  xmpp.fast.deleteToken = async () => { delete kept.token; };
  xmpp.fast.saveToken = async (token) => {
    kept.token = token;
    writeFileSync(file, JSON.stringify(kept));
  };
}

// What it sends to log in, from the stream's features on; a resumed stream may ask for an acknowledgement at once.
let sent = [];
xmpp.on("open", () => { sent = []; });
xmpp.on("send", (e) => {
  if (!["a", "r"].includes(e.name)) sent.push(e.attrs.mechanism ? `${e.name}:${e.attrs.mechanism}` : e.name);
});
const login = () => say("login", sent.join(","));

function onMessage(stanza) {
  const from = stanza.attrs.from;
  const bodyOf = (m) => m?.getChildText("body");
  const forwarded = (e) => e?.getChild("forwarded", "urn:xmpp:forward:0")?.getChild("message");
  const state = stanza.getChildElements().find((e) => e.attrs.xmlns === "http://jabber.org/protocol/chatstates");
  const carbon = ["sent", "received"].map((n) => stanza.getChild(n, "urn:xmpp:carbons:2")).find(Boolean);
  const result = stanza.getChild("result", "urn:xmpp:mam:2");
  if (carbon) say("carbon", bodyOf(forwarded(carbon)));
  else if (result) say("archived", bodyOf(forwarded(result)));
  else if (bodyOf(stanza) && stanza.attrs.type !== "error")
    say(stanza.getChild("delay", "urn:xmpp:delay") ? "delayed" : "message", from, bodyOf(stanza));
  else if (state) say("state", from, state.name);
}

xmpp.on("error", (e) => say("error", e.stack.replaceAll("\n", " ")));
xmpp.on("stanza", (stanza) => {
  if (stanza.is("message")) onMessage(stanza);
  else if (stanza.is("presence")) say("presence", stanza.attrs.from, stanza.attrs.type ?? "available", stanza.getChildText("show") ?? "");
});
xmpp.on("online", (full) => { login(); say("online", full); });
xmpp.streamManagement.on("resumed", () => { login(); say("resumed", xmpp.jid); });

const presence = (to, type) => xmpp.send(xml("presence", { to, type }));
const ask = async (type, child, to) => {
  const answer = await xmpp.iqCaller.request(xml("iq", { type, to }, child), 10_000);
  xmpp.streamManagement.inbound++; // 0.14.0 does not count what its iqCaller has taken, and gets the rest twice
  return answer;
};
const commands = {
  presence: () => xmpp.send(xml("presence")),
  active: () => xmpp.send(xml("active", "urn:xmpp:csi:0")),
  inactive: () => xmpp.send(xml("inactive", "urn:xmpp:csi:0")),
  away() {
    xmpp.reconnect.stop();
    return xmpp.send(xml("a", { xmlns: "urn:xmpp:sm:3", h: xmpp.streamManagement.inbound }));
  },
  back() {
    xmpp.reconnect.start();
    return xmpp.reconnect.reconnect();
  },
  async push(service, node) {
    await ask("set", xml("enable", { xmlns: "urn:xmpp:push:0", jid: service, node }));
    say("push");
  },
  subscribe: (to) => presence(to, "subscribe"),
  subscribed: (to) => presence(to, "subscribed"),
  chat: (to, body) => xmpp.send(xml("message", { to, type: "chat" }, xml("body", {}, body))),
  async roster() {
    const answer = await ask("get", xml("query", "jabber:iq:roster"));
    say("roster", answer.getChild("query").getChildren("item").map((i) => i.attrs.jid).join(","));
  },
  async carbons() {
    await ask("set", xml("enable", "urn:xmpp:carbons:2"));
    say("carbons");
  },
  async archive() {
    const set = xml("set", "http://jabber.org/protocol/rsm", xml("max", {}, "20"), xml("before"));
    await ask("set", xml("query", "urn:xmpp:mam:2", set));
    say("fin");
  },
  cut: () => (xmpp.socket.socket ?? xmpp.socket).destroy(),
  async quit() {
    await xmpp.stop();
    process.exit(0);
  },
};

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const [name, ...rest] = line.split("\t");
  Promise.resolve(commands[name](...rest)).catch((e) => say("error", name, e.message));
});
await xmpp.start().catch((e) => {
  console.error(e);
  process.exit(1);
});
