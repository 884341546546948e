"""A CONNECT proxy: connect_proxy.py PORT LOG [USER:PASSWORD]

Every host leads to 127.0.0.1:8443. Each request is one line "STATUS HOST:PORT" in LOG.
"""

import asyncio
import base64
import sys

port, log = int(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
wanted = "Basic " + base64.b64encode(sys.argv[3].encode()).decode() if len(sys.argv) > 3 else None


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except (OSError, RuntimeError):
        writer.close()


async def serve(reader, writer):
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except (asyncio.IncompleteReadError, OSError):
        return writer.close()
    method, target, _ = (head[0] + "  ").split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    status = "200 Connection established"
    if method != "CONNECT":
        status = "405 Method Not Allowed"
    elif wanted and headers.get("proxy-authorization") != wanted:
        status = '407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="proxy"\r\nContent-Length: 0'
    print(status[:3], target, file=log)
    writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
    if not status.startswith("200"):
        return writer.close()
    other_reader, other_writer = await asyncio.open_connection("127.0.0.1", 8443)
    await asyncio.gather(copy(reader, other_writer), copy(other_reader, writer))
    other_writer.close()
    writer.close()


async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", port) as server:
        await server.serve_forever()


asyncio.run(main())
