"""The image library: OCI images, and what stands for them, as layers that templates are built upon.

Everything that comes from outside is fetched, read and unpacked in build sandboxes (I1, I2, I4); here are only decisions. Layers that were
fetched with credentials are the team's own: who merely knows an image's digests gets nothing by them (I5).

::

    image map ── a template: its layers
        └─ registry ── inspect ── layers that are there, or: fetch and unpack (importer.py)
              └─ not reached ── what this team pulled before ── an equivalent (equivalents.py) ── an error that says what there is
    provision: account, directories, commands (agent/build/provision.py)
"""

from __future__ import annotations

import datetime as dt
import re
import secrets
from typing import Any

from cloister.errors import BuildError, TemplateNotFoundError
from cloister.model.build import BASE_STEP, ImageSource
from cloister.model.resources import Limits
from cloister.template.building.stepcheck import check_user
from cloister.template.images.equivalents import AVAILABLE, Equivalent, find_equivalent
from cloister.template.images.importer import Credentials, Importer, PullFailedError, Work
from cloister.template.images.records import ImageFacts, ImageRecords
from cloister.template.images.reference import ImageMap, Reference, parse_reference
from cloister.template.images.registries import Registries
from cloister.template.images.tools import ImageTools
from cloister.template.interfaces import BaseImage, BoxSpec, BuildLog, Cancellation, Command, Workbench
from cloister.template.layers import LayerStore, layer_key
from cloister.template.scripts import install_script

__all__ = ["Images"]

_BASE = "base"
_MAX_PATH = 4096


class Images:
    """See :class:`cloister.template.interfaces.ImageLibrary`."""

    def __init__(
        self, store: LayerStore, workbench: Workbench, tools: ImageTools, image_map: ImageMap, registries: Registries | None = None
    ) -> None:
        self._store = store
        self._workbench = workbench
        self._tools = tools
        self._map = image_map
        self._records = ImageRecords(store.root)
        self._registries = registries or Registries()
        self._importer = Importer(store, workbench, self._records, self._registries)

    def base(
        self, source: ImageSource, team_id: str, limits: Limits, log: BuildLog, cancellation: Cancellation, *, force: bool
    ) -> BaseImage:
        """See :class:`ImageLibrary`."""
        work = Work(limits, log, cancellation)
        written = parse_reference(source.reference)
        found = self._map.find(written)
        if isinstance(found, str):
            work.say(f"image '{source.reference}' is mapped to the template '{found}'")
            return self._of_template(found)
        if found != written:
            work.say(f"image '{source.reference}' is mapped to {found}")
        if self._registries.is_out_of_reach(found.host):
            hint = f"if it is a registry of this very host, its operator lists it in the setting host_registries, as {found.host}"
            raise BuildError(
                f"image '{found}' cannot be fetched: builds do not reach this host", step=BASE_STEP, hint=hint + _port_note(found.host)
            )
        credentials = Credentials(source)
        try:
            return self._of_registry(found, credentials, team_id, work)
        except PullFailedError as error:
            if error.kind != "unreached":
                raise _refused(found, credentials, error, limits) from None
            return self._without_registry(found, written, team_id, error, work, force=force)

    def _of_template(self, name: str) -> BaseImage:
        try:
            template = self._store.template(name)
        except TemplateNotFoundError as error:
            raise BuildError(f"the image is mapped to a template that is not there: {error.message}", hint=error.hint) from None
        return BaseImage(
            layers=template.layers, envs=template.envs, user=template.user, workdir=template.workdir, languages=template.languages
        )

    def _of_registry(self, reference: Reference, credentials: Credentials, team_id: str, work: Work) -> BaseImage:
        tools = self._fetching_tools(work)
        work.say(f"asking {reference.host} for {reference}")
        facts = self._importer.inspect(str(reference), credentials, tools, work)
        scope = team_id if credentials else ""
        layers = self._importer.layers(facts, scope)
        if layers is None:
            work.say(f"fetching {reference.name}@{facts.digest[:19]}, {len(facts.diff_ids)} layers")
            layers = self._importer.fetch(f"{reference.name}@{facts.digest}", facts, credentials, scope, tools, work)
        else:
            work.say(f"all {len(facts.diff_ids)} layers of {reference.name}@{facts.digest[:19]} are here already")
        made = self._provisioned(layers, facts, work)
        self._records.remember(team_id, str(reference), facts, scope)
        return made

    def _fetching_tools(self, work: Work) -> tuple[str, ...]:
        """Where they cannot be made, no registry can be asked: the same as one that is not reached. Raises: PullFailedError."""
        try:
            return self._tools.tools(work.log)
        except BuildError as error:
            raise PullFailedError("unreached", error.message) from None

    def _provisioned(self, layers: tuple[str, ...], facts: ImageFacts, work: Work) -> BaseImage:
        if facts.starts:
            work.say(f"the image's own command is not started: {_short(facts.starts)}. Name it with set_start_cmd if it is to run", "warn")
        layers, result = self._importer.provision(layers, facts, work)
        user, workdir = _checked(result)
        return BaseImage(layers=layers, envs=facts.envs, user=user, workdir=workdir)

    def _without_registry(
        self, reference: Reference, written: Reference, team_id: str, error: PullFailedError, work: Work, *, force: bool
    ) -> BaseImage:
        work.say(f"{reference.host} cannot be reached: {error}", "warn")
        pulled = self._records.pulled(team_id, str(reference))
        layers = self._importer.layers(pulled.facts, pulled.scope) if pulled else None
        if pulled is not None and layers is not None:
            at = dt.datetime.fromtimestamp(pulled.at, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
            work.say(f"taking {reference} as it was pulled on {at} ({pulled.facts.digest[:19]})", "warn")
            return self._provisioned(layers, pulled.facts, work)
        equivalent = find_equivalent(written)
        if equivalent is None:
            raise BuildError(
                f"image '{written}' cannot be fetched: {reference.host} cannot be reached ({error}), and nothing here can stand for it",
                step=BASE_STEP,
                hint=f"let this host reach the registry, name a mirror in the setting image_map, list a private registry's network in "
                f"allow_private, or a registry of this very host in host_registries; without a registry there are: {AVAILABLE}",
            )
        work.say(f"instead of {written}: {equivalent.told}", "warn")
        return self._of_equivalent(equivalent, work, force=force)

    def _of_equivalent(self, equivalent: Equivalent, work: Work, *, force: bool) -> BaseImage:
        base = self._of_template(_BASE)
        if equivalent.suite:
            layers, result = self._importer.provision(
                self._tools.release(equivalent.suite, work.log), ImageFacts(digest="", diff_ids=()), work
            )
            user, workdir = _checked(result)
            return BaseImage(layers=layers, envs={"LANG": "C.UTF-8"}, user=user, workdir=workdir)
        if not equivalent.program:
            return base
        layers = (*base.layers, self._packages(equivalent, base, work, force=force))
        return BaseImage(layers=layers, envs={**base.envs, **equivalent.envs})

    def _packages(self, equivalent: Equivalent, base: BaseImage, work: Work, *, force: bool) -> str:
        """The layer with a program out of npm's registry."""
        script = install_script(equivalent)
        key = layer_key(base.layers[-1], {"kind": "image-packages", "script": script, "again": secrets.token_hex(8) if force else ""})
        waiting = "waiting for another build that makes the same"
        with self._store.lock(key, on_wait=lambda: work.say(waiting), check=work.cancellation.check):
            if self._store.has(key):
                return key
            work.cancellation.check()
            with self._workbench.open(base.layers, BoxSpec(limits=work.limits), work.cancellation) as box:
                with work.output() as output:
                    code = box.run(Command(text=script, user="root", cwd="/", timeout_s=900), output)
                if code != 0:
                    what = f"'{equivalent.package}' of version {equivalent.version} could not be installed (exit status {code})"
                    raise BuildError(what, step=BASE_STEP, hint="npm's registry, or the host's mirror of it, must be reachable and have it")
                if box.publish(key, f"image/{equivalent.program}-{equivalent.version}") is None:
                    raise BuildError(f"'{equivalent.package}' left nothing behind")
        return key


def _refused(reference: Reference, credentials: Credentials, error: PullFailedError, limits: Limits) -> BuildError:
    """In a person's words."""
    host = reference.host
    denied = (
        (
            f"{host} refused the credentials for '{reference}': {error}",
            f"check the {'access key' if credentials.is_aws_key else 'user name and password of the registry'}, and what they may read",
        )
        if credentials
        else (
            f"{host} does not hand out '{reference}': {error}",
            "check its name; give a private image's credentials with from_image(image, username, password)",
        )
    )
    words = {
        "missing": (f"image '{reference}' does not exist: {error}", "check its name and tag"),
        "denied": denied,
        "plain": (
            f"{host} speaks plain HTTP, without TLS: '{reference}' is not fetched from it",
            f"give the registry a certificate, or list {host} in the setting insecure_registries",
        ),
        "untrusted": (
            f"the certificate of {host} is not trusted: {error}",
            "give its authority by the setting extra_ca_file, and name the registry as its certificate does",
        ),
        "full": (
            f"image '{reference}' does not fit in the disk of {limits.disk_mib} MiB",
            "give the build a larger disk (setting default_disk_mib)",
        ),
    }
    message, hint = words.get(error.kind, (f"image '{reference}' cannot be used: {error}", None))
    return BuildError(message, step=BASE_STEP, hint=hint)


def _port_note(host: str) -> str:
    return "" if re.search(r":[0-9]+\Z", host) else ", with its port"


def _checked(result: dict[str, Any]) -> tuple[str, str]:
    """User and work directory, as the program said that ran beside the image's own. Raises: BuildError: they cannot be."""
    user, workdir = result.get("user"), result.get("workdir")
    if not isinstance(user, str) or not isinstance(workdir, str):
        raise BuildError("the image could not be prepared: its user and work directory are not known")
    check_user(user)
    if not workdir.startswith("/") or "\0" in workdir or len(workdir) > _MAX_PATH:
        raise BuildError(f"the image could not be prepared: {workdir[:100]!r} is no directory")
    return user, workdir


def _short(words: tuple[str, ...]) -> str:
    text = " ".join(words)
    return text if len(text) <= 200 else text[:200] + "…"
