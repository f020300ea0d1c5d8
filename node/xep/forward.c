#include "forward.h"

#include "xml.h"

#include <string.h>

#define HEAD "<message"
enum { HEAD_LEN = sizeof HEAD - 1 };

void forward_write(struct buf *out, const char *message, size_t n, const char *stamp)
{
    CHECK(n > HEAD_LEN && !memcmp(message, HEAD, HEAD_LEN), "no message");
    buf_str(out, "<forwarded xmlns=\"urn:xmpp:forward:0\">");
    if (stamp)
        buf_printf(out, "<delay xmlns=\"urn:xmpp:delay\" stamp=\"%s\"/>", stamp);
    buf_str(out, HEAD " xmlns=\"jabber:client\""); /* canonical bytes leave it out: it is a stream's default */
    buf_add(out, message + HEAD_LEN, n - HEAD_LEN);
    buf_str(out, "</forwarded>");
}

static void attribute(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, " %s=\"", name);
    xml_escape(out, value, strlen(value), true);
    buf_str(out, "\"");
}

void forward_open(struct buf *out, const struct jid *from, const struct jid *to, const char *type)
{
    buf_str(out, HEAD);
    attribute(out, "from", from->s);
    attribute(out, "to", to->s);
    if (type)
        attribute(out, "type", type);
    buf_str(out, ">");
}
