"""A registration script as operators have them lying about: knows nothing but the legacy codes.

    register_script.py HOST PORT DOMAIN                    an enquiry: prints the fields
    register_script.py HOST PORT DOMAIN NAME [PASSWORD]    an attempt: prints `registered` or `CODE TEXT`
"""
import re
import socket
import ssl
import sys
from xml.sax.saxutils import escape


def until(stream, pattern):
    data = ""
    while not (found := re.search(pattern, data, re.S)):
        more = stream.recv(4096)
        if not more:
            sys.exit("connection lost: " + data)
        data += more.decode()
    return found


def opened(stream, domain):
    stream.sendall(f"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='{domain}' "
                   "version='1.0'>".encode())
    until(stream, "</stream:features>")
    return stream


host, port, domain, *account = sys.argv[1:]
stream = opened(socket.create_connection((host, int(port)), 20), domain)
stream.sendall(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
until(stream, "<proceed")
stream = opened(ssl._create_unverified_context().wrap_socket(stream, server_hostname=domain), domain)
body = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in zip(("username", "password"), account))
stream.sendall(f"<iq type='{'set' if account else 'get'}' id='reg' to='{domain}'>"
               f"<query xmlns='jabber:iq:register'>{body}</query></iq>".encode())
answer = until(stream, "<iq[^>]* id=.reg.[^>]*(/>|>.*</iq>)")[0]
if error := re.search(r"<error[^>]* code=.(\d+)", answer):
    print(error[1], re.search("<text[^>]*>(.*)</text>", answer)[1])
elif account:
    print("registered")
else:
    print("fields:", *re.findall("<(username|password|email)/>", answer))
stream.sendall(b"</stream:stream>")
