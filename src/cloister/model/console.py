"""Names of the console's cookie, for the API that sets it and for the ingress that keeps it from sandboxes. Plain data."""

from __future__ import annotations

__all__ = ["COOKIE", "COOKIES", "SECURE_COOKIE"]

COOKIE = "cloister-console"
SECURE_COOKIE = f"__Host-{COOKIE}"
"""Under TLS. Browsers accept the prefix only from the host itself, so a page of a sandbox on a subdomain cannot set it (RFC 6265bis)."""
COOKIES = (SECURE_COOKIE, COOKIE)
