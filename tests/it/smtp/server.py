"""A mail server of aiosmtpd's for tests/it/smtp.rs: prints its port, and writes one JSON object a line for each message.

What becomes of a message is decided by the recipient: unknown@ does not exist, later@ is greylisted once, refuse@ is
refused after its body, drop@ loses the connection after its body. Everybody else gets it.
"""

import asyncio
import email
import email.policy
import json
import sys

from aiosmtpd.smtp import SMTP


class Handler:
    def __init__(self, path):
        self.path = path
        self.greylisted = set()

    async def handle_RCPT(self, server, session, envelope, address, options):
        local = address.split("@")[0]
        if local == "unknown":
            return "550 5.1.1 <%s>: no such user here" % address
        if local == "later" and address not in self.greylisted:
            self.greylisted.add(address)
            return "451 4.7.1 <%s>: come back later" % address
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        parts = {part.get_content_type(): part.get_content() for part in message.walk() if not part.is_multipart()}
        line = {
            "to": envelope.rcpt_tos,
            "from": envelope.mail_from,
            "headers": {name.lower(): str(value) for name, value in message.items()},
            "parts": parts,
            "ascii": all(byte < 128 for byte in envelope.content),
        }
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        local = envelope.rcpt_tos[0].split("@")[0]
        if local == "refuse":
            return "554 5.7.1 <%s>: refused" % envelope.rcpt_tos[0]
        if local == "drop":
            server.transport.abort()
            await asyncio.Event().wait()
        return "250 2.0.0 OK"


async def main(path):
    loop = asyncio.get_running_loop()
    handler = Handler(path)
    server = await loop.create_server(lambda: SMTP(handler, hostname="localhost"), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Until whoever holds the other end of standard input is gone.
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main(sys.argv[1]))
