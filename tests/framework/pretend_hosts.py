"""The hosts of the pretend internet, one process in its namespace: many names, some of them on one address.

::

    198.51.100.54       a foreign resolver: UDP, TCP, TLS (853), HTTPS (/dns-query)
    198.51.100.81, .82  web servers (80, 443, 8080, 8443; HTTP/1.1, h2, h2c, HTTP/3) and an echo (7777, TCP and UDP)
    198.51.100.83       a web server whose certificate is of another CA
    198.51.100.90       SOCKS5: 1080 without credentials, 1081 with them, 1082 with them and by TLS

Its orders are those of :class:`~framework.pretend_internet.Hosts`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import socket
import ssl
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

from dnslib.server import DNSHandler, DNSRecord
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import Framework

sys.path.insert(0, str(Path(__file__).parents[1]))  # started by path and with -P

from framework.pretend_app import App
from framework.pretend_control import obey
from framework.pretend_names import Zone, serve_names
from framework.pretend_socks import SocksProxy

ECHO_PORT = 7777


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto(data, addr)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def _web_config(addresses: list[str], certificate: str, *, doh: str | None = None) -> Config:
    config = Config()
    secure = [f"{address}:{port}" for address in addresses for port in (443, 8443)]
    config.bind = [*secure, f"{doh}:443"] if doh else secure
    config.quic_bind = [f"{address}:443" for address in addresses]
    config.insecure_bind = [f"{address}:{port}" for address in addresses for port in (80, 8080)]
    config.certfile = config.keyfile = certificate
    config.errorlog = logging.getLogger("hypercorn")
    config.keep_alive_timeout = config.graceful_timeout = 60
    config.h2_max_concurrent_streams = 256
    return config


class _Hosts:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._names = dict(pair.split("=", 1) for pair in options.name)
        self.zone = Zone(self._names)
        self.app = App(self._answer_dns)
        self.proxy = SocksProxy(self._names.get)

    def _answer_dns(self, question: bytes) -> bytes:
        handler = DNSHandler.__new__(DNSHandler)  # it has no client's address
        packed: bytes = self.zone.resolve(DNSRecord.parse(question), handler).pack()
        return packed

    async def _dns_by_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                answer = self._answer_dns(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        writer.close()

    async def serve(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        """Serve until the process ends."""
        options, loop = self._options, asyncio.get_running_loop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate)
        serve_names(self.zone, options.resolver)
        await asyncio.start_server(self._dns_by_tls, options.resolver, 853, ssl=context)
        for address in options.web:
            await asyncio.start_server(_echo, address, ECHO_PORT)
            await loop.create_datagram_endpoint(_Echo, (address, ECHO_PORT))
        await asyncio.start_server(self.proxy.without_credentials, options.proxy, 1080)
        await asyncio.start_server(self.proxy.with_credentials, options.proxy, 1081)
        await asyncio.start_server(self.proxy.with_credentials, options.proxy, 1082, ssl=context)
        configs = [
            _web_config(options.web, options.certificate, doh=options.resolver),
            _web_config([options.untrusted], options.other_certificate),
        ]
        app = cast("Framework", self.app)
        webs = [asyncio.create_task(serve(app, config, shutdown_trigger=asyncio.Event().wait)) for config in configs]
        for address in (*options.web, options.untrusted):
            await _answers(address, 8080)
        ready.set_result(loop)
        await asyncio.gather(*webs)


async def _answers(address: str, port: int) -> None:
    """Wait until a port is open."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(address, port)
            writer.close()
            return
        await asyncio.sleep(0.01)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--web", action="append", required=True, help="address of a web server")
    for option in ("--resolver", "--untrusted", "--proxy", "--certificate", "--other-certificate"):
        parser.add_argument(option, required=True)
    parser.add_argument("--name", action="append", default=[], help="name=address")
    socket.getfqdn = lambda name="": name
    ready: Future[asyncio.AbstractEventLoop] = Future()
    made: Future[_Hosts] = Future()

    async def body() -> None:
        made.set_result(hosts := _Hosts(parser.parse_args()))
        await hosts.serve(ready)

    def run() -> None:
        try:
            asyncio.run(body())
        except BaseException as error:
            ready.set_exception(error)
            raise

    threading.Thread(target=run, daemon=True).start()
    loop, hosts = ready.result(), made.result()
    obey(
        {
            "name": hosts.zone.put,
            "questions": hosts.zone.questions,
            "requests": hosts.app.requests,
            "allow": lambda pieces: loop.call_soon_threadsafe(hosts.app.allow, pieces) and None,
            "proxied": lambda: hosts.proxy.connections,
            "refuse": hosts.proxy.refuse,
        }
    )


if __name__ == "__main__":
    main()
