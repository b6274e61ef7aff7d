"""URLs of webhooks: usual ones are taken, and none that reads differently to different programs."""

from __future__ import annotations

import pytest

from cloister.errors import InvalidRequestError
from cloister.model.webhook_url import parse_webhook_url


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.com/hook?a=b", "example.com"),
        ("http://Example.COM:8080", "example.com"),
        ("https://192.0.2.1/x", "192.0.2.1"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example"),
    ],
)
def test_usual_urls_are_taken(url: str, host: str) -> None:
    """The host is a name in lower case, or an address."""
    assert parse_webhook_url(url) == host


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/hook",
        "ftp://example.com",
        "file:///etc/passwd",
        "gopher://example.com:70/_x",
        "https://",
        "https://:443/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://user:secret@example.com/",
        "https://example.com#fragment",
        "https://example.com\\@127.0.0.1/",
        "https://example.com/a b",
        "https://example.com/\r\nX-Injected: 1",
        "https://example.com/\tx",
        "https://exämple.com/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001.0/",
        "http://0177.0.0.1/",
        "http://127.0.0.1.:80/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[fe80::1%25eth0]/",
        "http://127.0.0.1%2f@example.com/",
        "https://example.com/" + "x" * 3000,
    ],
)
def test_others_are_refused(url: str) -> None:
    """Odd forms of addresses, other schemes, users, control characters and what is too long."""
    with pytest.raises(InvalidRequestError):
        parse_webhook_url(url)
