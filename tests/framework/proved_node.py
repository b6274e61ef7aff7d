"""The bounds of what an api process can ask of the supervisor, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["NODE_STEPS"]

_SERVER, _PEERS = (f"src/cloister/node/{name}.py" for name in ("server", "peers"))
_REQUESTS, _CODEC = (f"src/cloister/nodewire/{name}.py" for name in ("requests", "codec"))
_BOUNDS, _SANDBOX, _LIMITS = (f"src/cloister/model/{name}.py" for name in ("bounds", "sandbox", "resources"))
_ADMISSION = "src/cloister/node/creation/admission.py"

NODE_STEPS = (
    Step(
        "node: number of connections",
        _SERVER,
        "sum(one.uid == peer.uid for one in self._peers) >= MAX_CONNECTIONS",
        "False",
        "open_connections",
    ),
    Step("node: uid of the peer", _SERVER, "peer.uid not in self._allowed or", "", "heard_on_an_open"),
    Step("node: calls of the operator", _SERVER, "if method.terms.is_operators and uid != 0:", "if False:", "cannot_drain"),
    Step("node: mode of the socket", _SERVER, "self._path.chmod(0o600)", "self._path.chmod(0o666)", "cannot_connect_to_the_supervisor"),
    Step("node: size of a request", _PEERS, "most_bytes=MAX_REQUEST_BYTES", "most_bytes=1 << 40", "half_a_message"),
    Step("node: no descriptors from peers", _PEERS, "takes_fds=False", "takes_fds=True", "pass_descriptors"),
    Step("node: events that wait", _PEERS, "asyncio.Queue(MAX_EVENTS)", "asyncio.Queue()", "hold_up_events"),
    Step("node: answers that wait", _PEERS, "stall_s=_STALL_S", "stall_s=None", "keep_answers"),
    Step("node: requests in flight", _PEERS, "slots = [self._in_flight]", "slots: list[asyncio.Semaphore] = []", "in_flight and get"),
    Step(
        "node: long answers in flight", _PEERS, "            slots.append(self._large)", "            pass", "in_flight and report_build"
    ),
    Step(
        "node: sockets to be sent",
        _SERVER,
        "peer.descriptors if method is not None and method.sockets else contextlib.nullcontext()",
        "contextlib.nullcontext()",
        "in_flight and dial",
    ),
    Step("node: pages of a list", _REQUESTS, "if size > _PAGE_BYTES:", "if False:", "unlistable"),
    Step(
        "node: finite numbers",
        _BOUNDS,
        "if not least <= value <= most:  # written",
        "if False:  # written",
        "no_bound and deadline",
    ),
    Step(
        "node: text of a template",
        _BOUNDS,
        "TemplateName = Annotated[str, text(512)]",
        "TemplateName = Annotated[str, text(10_000)]",
        "no_bound and template",
    ),
    Step(
        "node: text of a token",
        _SANDBOX,
        "access_token: Annotated[Secret, text(512)] | None",
        "access_token: Annotated[Secret, text(10_000)] | None",
        "no_bound and token",
    ),
    Step(
        "node: variables",
        _SANDBOX,
        "Annotated[dict[str, str], variables]",
        "Annotated[dict[str, str], lambda _value, _where: None]",
        "no_bound and variable",
    ),
    Step(
        "node: client data",
        _SANDBOX,
        "Annotated[ClientData, json_tree(MAX_CLIENT_DATA_BYTES, depth=12)]",
        "ClientData",
        "no_bound and client",
        also=(
            (
                "src/cloister/model/client_data.py",
                "Annotated[dict[str, str], json_tree(_MAX_METADATA_BYTES)]",
                "Annotated[dict[str, str], lambda _value, _where: None]",
            ),
        ),
    ),
    Step("node: limits", _BOUNDS, "if not 0 < value <= MAX_NUMBER:", "if False:", "no_bound and limit and digits"),
    Step("node: types of numbers", _CODEC, "if not isinstance(value, kinds) or (", "if False and (", "no_bound and whole"),
    Step("node: inodes of a disk", _LIMITS, "if self.inodes > self.disk_mib * _INODES_PER_MIB:", "if False:", "no_bound and inodes"),
    Step("node: unknown fields", _CODEC, "if strict and (unknown := ", "if False and (unknown := ", "no_bound and field"),
    Step(
        "node: ids of requests",
        _SERVER,
        "or not 0 <= request_id <= _MAX_ID:",
        "or False:",
        "ids_repeated",
        also=((_SERVER, "isinstance(request_id, bool) or not isinstance(request_id, int)", "False"),),
    ),
    Step(
        "node: what is repeated of a request", _SERVER, "isinstance(request_id, int) and abs(request_id) <= _MAX_ID", "True", "ids_repeated"
    ),
    Step(
        "node: lifetime of a creation",
        _ADMISSION,
        "        limits.check_deadline(request.end_at, time.time())\n",
        "",
        "outlive and created",
    ),
    Step(
        "node: lifetime that is changed",
        "src/cloister/node/live.py",
        "        self._limits.check_deadline(end_at, time.time())\n",
        "",
        "outlive and prolonged",
    ),
    Step(
        "node: number of sandboxes",
        _ADMISSION,
        "        self._check_count(request.team_id)\n",
        "",
        "more_sandboxes",
    ),
    Step(
        "node: sandboxes of a team",
        "src/cloister/node/limits.py",
        "if team_has >= with_slack(self.team_sandboxes):",
        "if False:",
        "more_sandboxes",
    ),
    Step(
        "node: lifetime of a resume",
        _ADMISSION,
        "        self._limits.check_deadline(end_at, time.time())\n        self._reserve.check(image_bytes)\n",
        "        self._reserve.check(image_bytes)\n",
        "outlive and resumed",
    ),
    Step(
        "node: sandboxes of a team by resumes",
        _ADMISSION,
        "        self._check_count(record.team_id, holds_slot=record.is_frozen)\n",
        "",
        "get_places_by_pausing",
    ),
    Step(
        "node: paused sandboxes of a team",
        "src/cloister/node/limits.py",
        "if team_has >= with_slack(self.team_paused):",
        "if False:",
        "more_paused",
    ),
    Step("node: paused sandboxes", "src/cloister/node/limits.py", "if all_have >= self.paused:", "if False:", "more_paused"),
    Step(
        "node: the longest time of a pause",
        "src/cloister/node/live.py",
        "            delay_s = pause.at + self._limits.paused_s - time.time()\n",
        "            delay_s = 1e9\n",
        "outlive and paused",
    ),
    Step("node: builds of a team", "src/cloister/node/builds/queue.py", ">= self._limits.of_team:", ">= 10_000:", "more_builds"),
    Step(
        "node: snapshots that wait",
        "src/cloister/node/snapshot_queue.py",
        "if len(teams) >= _MAX_QUEUED:",
        "if False:",
        "more_snapshots_wait",
    ),
    Step(
        "node: snapshots of a team that wait",
        "src/cloister/node/snapshot_queue.py",
        "if teams.count(live.record.team_id) >= _MAX_QUEUED_OF_TEAM:",
        "if False:",
        "more_snapshots_wait",
    ),
    Step(
        "node: snapshots of a team at a time",
        "src/cloister/node/snapshot_queue.py",
        "asyncio.Semaphore(_AT_A_TIME_OF_TEAM)",
        "asyncio.Semaphore(_AT_A_TIME)",
        "team_cannot_hold_up_the_snapshots",
    ),
    Step(
        "node: resolver's sockets once",
        "src/cloister/node/resolver_sockets.py",
        "async with self._lock:",
        "async with asyncio.Lock():",
        "resolver_twice",
    ),
)
