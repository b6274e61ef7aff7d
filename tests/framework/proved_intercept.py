"""The hardening steps of the interceptor, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["INTERCEPT_STEPS"]

_PACKAGE = "src/cloister/egress/intercept"
_REQUESTS, _HTTP1, _HTTP2, _FRAMES = (f"{_PACKAGE}/{name}.py" for name in ("requests", "http1", "http2", "http2_frames"))
_RULES, _CONTEXTS = f"{_PACKAGE}/header_rules.py", "src/cloister/tls/context.py"
_AUTHORITY = "src/cloister/tls/sandbox_authority.py"
_MISREAD = "intercepted_requests and read_differently"
_STREAMS = "intercepted_streams and (coalesce or read_differently)"

INTERCEPT_STEPS = (
    Step(
        "intercept: all TLS of a sandbox with names",
        "src/cloister/egress/gateway.py",
        "or self._is_inspected(admitted, connection):",
        "or False:",
        "front_a_domain",
    ),
    Step("intercept: host of a request", _REQUESTS, "if not is_same:", "if False:", "name_another_host or coalesce"),
    Step("intercept: port of a request", _REQUESTS, 'int(match["port"] or destination.port) == destination.port', "True", _MISREAD),
    Step(
        "intercept: form of a host",
        _REQUESTS,
        "    if match is None:\n        raise RefusedRequestError(400, \"the request's host",
        "    if match is None:\n        return\n        raise RefusedRequestError(400, \"the request's host",
        _MISREAD,
    ),
    Step("intercept: scheme of a target", _REQUESTS, "!= destination.scheme:", "== '':", _MISREAD),
    Step("intercept: host of an absolute target", _REQUESTS, 'check_host(match["authority"], destination)', "pass", _MISREAD),
    Step("intercept: CONNECT and TRACE", _REQUESTS, 'if method in (b"CONNECT", b"TRACE"):', "if False:", _MISREAD),
    Step("intercept: line ends of a head", _HTTP1, "if _MISREAD.search(", "if False and _MISREAD.search(", _MISREAD),
    Step(
        "intercept: length beside a coding",
        _HTTP1,
        'if b"content-length" in names and b"transfer-encoding" in names:',
        "if False:",
        _MISREAD,
    ),
    Step("intercept: length of a head", _HTTP1, "if len(raw) > _MAX_HEAD_BYTES:", "if False:", _MISREAD),
    Step("intercept: other upgrades", _HTTP1, 'if wishes in ([], [b"websocket"]):', "if True:", "upgrade_to_a_protocol"),
    Step(
        "intercept: trailers",
        _HTTP1,
        "without_names(event.headers.raw_items(), self._replaced)",
        "event.headers.raw_items()",
        "by_a_trailer",
    ),
    Step("intercept: a host in each stream", _HTTP2, "        check_host(authority, destination)", "        pass", _STREAMS),
    Step("intercept: scheme of a stream", _HTTP2, 'if pseudo.get(b":scheme") != destination.scheme.encode():', "if False:", _STREAMS),
    Step("intercept: path of a stream", _HTTP2, "if origin_form(path, destination) != path:", "if False:", _STREAMS),
    Step("intercept: floods of frames", _FRAMES, "if self._allowance < 0:", "if False:", "flood_the_interceptor"),
    Step(
        "intercept: floods of continuations",
        _FRAMES,
        "if self._continuations > _MAX_CONTINUATIONS:",
        "if False:",
        "flood_the_interceptor",
    ),
    Step("intercept: room only for what was passed on", _HTTP2, "kept = len(event.data)\n", "kept = 0\n", "fill_the_interceptor"),
    Step("intercept: characters of a value", _RULES, "if (value and not _VALUE.match(value))", "if False", "secret_cannot_add"),
    Step(
        "intercept: names of headers",
        _RULES,
        "if not is_header_name(name) or name.lower() in FRAMING_HEADERS:",
        "if False:",
        "frames_or_routes",
    ),
    Step(
        "intercept: certificate of an upstream",
        _CONTEXTS,
        "    context.load_verify_locations(",
        "    context.check_hostname = False\n    context.verify_mode = ssl.CERT_NONE\n    context.load_verify_locations(",
        "without_a_valid_certificate",
    ),
    Step(
        "intercept: name in an upstream's certificate",
        _CONTEXTS,
        "    context.load_verify_locations(",
        "    context.check_hostname = False\n    context.load_verify_locations(",
        "without_a_valid_certificate",
    ),
    Step(
        "intercept: an authority for each sandbox",
        _AUTHORITY,
        "info=_PURPOSE + sandbox_id.encode()",
        "info=_PURPOSE",
        "authority_of_its_original",
        ((_AUTHORITY, 'f"Cloister sandbox {self.sandbox_id}"', '"Cloister sandbox"'),),
    ),
)
