"""Attacks by webhooks: on services that only the host reaches, on other teams, on the receiver's trust, and on the database."""

from __future__ import annotations

import sqlite3
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest

from cloister.errors import InvalidRequestError, UnavailableError
from cloister.processes.api_proxies import AddressLookup
from cloister.processes.api_receivers import WebhookReceivers
from framework.control_plane import ControlPlane, running_control_plane
from framework.dns_front_lab import PretendResolver, dns_front_lab
from framework.http import Answer, call
from framework.requests import ask, create
from framework.waiting import eventually
from framework.webhook_receiver import receiver

pytestmark = pytest.mark.root
SECRET = "a-secret-that-signs"
FORBIDDEN = ("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane whose operator allows no private network."""
    with running_control_plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


def webhook(url: str, **more: Any) -> dict[str, Any]:
    """The body of a creation."""
    return {"name": "n", "url": url, "events": ["sandbox.lifecycle.created"], "signatureSecret": SECRET, **more}


@asynccontextmanager
async def receivers(*allowed: str) -> AsyncIterator[tuple[WebhookReceivers, PretendResolver]]:
    """The sender of deliveries, and the resolver that it asks."""
    async with dns_front_lab() as lab:
        lookup = AddressLookup((f"127.0.0.1:{lab.resolver_port}",))
        yield WebhookReceivers(lookup, allowed, ssl.create_default_context()), lab.resolver


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_a_webhook_cannot_reach_private_addresses(address: str, plane: ControlPlane) -> None:
    """Neither by the address itself, which is refused at once, nor by a name that means it, alone or beside a public address."""
    refused = ask(plane, "POST", "/events/webhooks", webhook(f"http://{address}:8080/x"))
    assert (refused.status, b"may not reach" in refused.body) == (400, True), refused.body
    async with receivers() as (sender, resolver):
        resolver.addresses = {"one.example": (address,), "two.example": ("93.184.216.34", address)}
        for host in (address, "one.example", "two.example"):
            with pytest.raises((UnavailableError, InvalidRequestError), match=r"does not resolve to public|may not reach"):
                await sender.post(f"http://{host}:1/x", {}, b"{}")


async def test_a_webhook_cannot_reach_the_host_by_its_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address of the host is none that a webhook reaches, though it is public."""
    monkeypatch.setattr("cloister.processes.api_receivers.egress_networks", lambda networks, _: networks)
    async with receivers() as (sender, _):
        with pytest.raises(UnavailableError, match="does not resolve to public"):
            await sender.post("http://127.0.0.1:1/x", {}, b"{}")


async def test_a_webhook_cannot_follow_a_redirect_to_a_private_address() -> None:
    """A redirect is a failed attempt: what it names is not asked for."""
    async with receivers("127.0.0.0/8") as (sender, _):
        with receiver() as inner, receiver() as outer:
            outer.status, outer.location = 307, inner.url
            assert await sender.post(outer.url, {}, b"{}") == 307
            assert (len(outer.received), inner.received) == (1, [])


async def test_a_webhook_cannot_change_its_address_after_the_check() -> None:
    """The connection goes to the address that was checked: the name is asked for once, and not by the host's resolver."""
    async with receivers("127.0.0.7/32") as (sender, resolver):
        with receiver() as local:
            resolver.addresses = {"rebinding.example": ("127.0.0.7",), "localhost": ("127.0.0.7",)}
            for host in ("rebinding.example", "localhost"):
                with pytest.raises(UnavailableError, match="could not be reached"):  # nothing listens on 127.0.0.7
                    await sender.post(f"http://{host}:{local.port}/x", {}, b"{}")
            assert [name for name, *_ in resolver.asked] == ["rebinding.example", "localhost"]
            assert local.received == []


async def test_a_webhook_cannot_use_a_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's proxy, which may reach everything, has no part in deliveries."""
    async with receivers("127.0.0.0/8") as (sender, _):
        with receiver() as proxy, receiver() as local:
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            assert await sender.post(local.url, {}, b"{}") == 200
            assert proxy.received == []


ODD = ("http://2130706433/", "http://0x7f.1/", "http://127.1/", "http://017700000001/", "http://[::1]/", "http://[::ffff:127.0.0.1]/")


@pytest.mark.parametrize("url", [*ODD, "http://localhost@127.0.0.1/", "http://a.example/\r\nHost: b", "file:///etc/shadow"])
def test_a_webhook_cannot_have_an_odd_url(plane: ControlPlane, url: str) -> None:
    """Other forms of addresses, users, schemes and line breaks are refused at the creation and at a change."""
    assert ask(plane, "POST", "/events/webhooks", webhook(url)).status == 400
    made = ask(plane, "POST", "/events/webhooks", webhook("https://a.example/")).json()
    assert ask(plane, "PATCH", f"/events/webhooks/{made['id']}", {"url": url}).status == 400
    assert ask(plane, "GET", f"/events/webhooks/{made['id']}").json()["url"] == "https://a.example/"
    assert ask(plane, "DELETE", f"/events/webhooks/{made['id']}").status == 200


def test_a_team_cannot_use_the_webhooks_and_events_of_another(plane: ControlPlane) -> None:
    """Every call says of another team's webhook what it says of none, and another team's events are not there."""
    sandbox_id = create(plane)["sandboxID"]
    made = ask(plane, "POST", "/events/webhooks", webhook("https://a.example/")).json()
    _, other = plane.with_keys(lambda keys: keys.create("other", "k"))

    def theirs(method: str, path: str, body: Any = None) -> Answer:
        return call(plane.url, method, path, body=body, headers={"X-API-KEY": other})

    path = f"/events/webhooks/{made['id']}"
    for method, below, body in (
        ("GET", "", None),
        ("PATCH", "", {"enabled": False}),
        ("DELETE", "", None),
        ("GET", "/deliveries", None),
        ("POST", "/deliveries/1", None),
    ):
        none = theirs(method, f"/events/webhooks/00000000-0000-0000-0000-000000000000{below}", body)
        assert (theirs(method, path + below, body).body, none.status) == (none.body, 404), method
    assert theirs("GET", "/events/webhooks").json() == []
    assert theirs("GET", "/events/sandboxes").json() == []
    assert theirs("GET", f"/events/sandboxes/{sandbox_id}").json() == []
    assert len(ask(plane, "GET", f"/events/sandboxes/{sandbox_id}").json()) == 1
    assert ask(plane, "GET", path).json() == made
    ask(plane, "DELETE", path)


def test_a_webhook_of_a_team_cannot_get_the_events_of_another(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Deliveries are made to the webhooks of the sandbox's own team."""
    with running_control_plane(tmp_path_factory.mktemp("plane"), webhook_allow_private=("127.0.0.0/8",)) as plane, receiver() as one:
        _, other = plane.with_keys(lambda keys: keys.create("other", "k"))
        call(plane.url, "POST", "/events/webhooks", body=webhook(one.url), headers={"X-API-KEY": other})
        create(plane)
        theirs = call(plane.url, "POST", "/v2/sandboxes", body={"templateID": "base"}, headers={"X-API-KEY": other}).json()
        eventually(lambda: one.received)
        assert [got.event["sandbox_id"] for got in one.received] == [theirs["sandboxID"]]


def test_the_database_alone_does_not_have_the_signing_secret(plane: ControlPlane) -> None:
    """The secret is encrypted, no answer has it, and it opens only in its own row."""
    made = [ask(plane, "POST", "/events/webhooks", webhook("https://a.example/", signatureSecret=SECRET + end)) for end in "ab"]
    assert all(SECRET.encode() not in answer.body for answer in (*made, ask(plane, "GET", "/events/webhooks")))
    directory = plane.settings.data_dir / "api"
    assert all(SECRET.encode() not in path.read_bytes() for path in directory.rglob("*") if path.is_file())
    first, second = (answer.json()["id"] for answer in made)
    with closing(sqlite3.connect(directory / "cloister.db")) as database, database:
        database.execute(
            "UPDATE webhooks SET sealed = (SELECT sealed FROM webhooks WHERE webhook_id = ?) WHERE webhook_id = ?", (first, second)
        )
    changed = ask(plane, "PATCH", f"/events/webhooks/{second}", {"enabled": False})
    assert (changed.status, SECRET.encode() in changed.body) == (500, False)
    for webhook_id in (first, second):
        assert ask(plane, "DELETE", f"/events/webhooks/{webhook_id}").status == 200
