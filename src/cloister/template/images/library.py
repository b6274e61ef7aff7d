"""The image library: OCI images and their equivalents, as layers on which templates are built.

Build sandboxes fetch, read and unpack everything that comes from outside (I1, I2, I4); this module only decides. Layers that were fetched
with credentials belong to the team: knowing an image's digests gives no access to them (I5).

::

    image map ── a template: its layers
        └─ registry ── inspect ── existing layers, or: fetch and unpack (importer.py)
              └─ not reached ── the team's earlier pull ── an equivalent (equivalents.py) ── an error that names the available images
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
from cloister.template.images.equivalents import AVAILABLE, ImageEquivalent, find_equivalent
from cloister.template.images.imagerecords import ImageFacts, ImageRecords
from cloister.template.images.importer import ImageImporter, ImagePullError, ImportJob, RegistryCredentials
from cloister.template.images.installscript import install_script
from cloister.template.images.reference import ImageMap, ImageReference, parse_reference
from cloister.template.images.registries import RegistrySettings
from cloister.template.images.tools import ImageTools
from cloister.template.interfaces import BaseImage, BuildLog, BuildSandboxes, BuildSandboxSpec, Cancellation, ImageLibrary, ShellCommand
from cloister.template.layers import LayerStore, layer_key

__all__ = ["NodeImageLibrary"]

_BASE = "base"
_MAX_PATH = 4096


class NodeImageLibrary(ImageLibrary):
    """See :class:`ImageLibrary`."""

    def __init__(
        self,
        store: LayerStore,
        build_sandboxes: BuildSandboxes,
        tools: ImageTools,
        image_map: ImageMap,
        registries: RegistrySettings | None = None,
    ) -> None:
        self._store = store
        self._build_sandboxes = build_sandboxes
        self._tools = tools
        self._map = image_map
        self._records = ImageRecords(store.root)
        self._registries = registries or RegistrySettings()
        self._importer = ImageImporter(store, build_sandboxes, self._records, self._registries)

    def base(
        self, source: ImageSource, team_id: str, limits: Limits, log: BuildLog, cancellation: Cancellation, *, force: bool
    ) -> BaseImage:
        """See :class:`ImageLibrary`."""
        job = ImportJob(limits, log, cancellation)
        written = parse_reference(source.reference)
        found = self._map.find(written)
        if isinstance(found, str):
            job.say(f"image '{source.reference}' is mapped to the template '{found}'")
            return self._of_template(found)
        if found != written:
            job.say(f"image '{source.reference}' is mapped to {found}")
        if self._registries.is_out_of_reach(found.host):
            hint = f"if it is a registry of this very host, its operator lists it in the setting host_registries, as {found.host}"
            raise BuildError(
                f"image '{found}' cannot be fetched: builds do not reach this host", step=BASE_STEP, hint=hint + _port_note(found.host)
            )
        credentials = RegistryCredentials(source)
        try:
            return self._of_registry(found, credentials, team_id, job)
        except ImagePullError as error:
            if error.kind != "unreached":
                raise _refused(found, credentials, error, limits) from None
            return self._without_registry(found, written, team_id, error, job, force=force)

    def _of_template(self, name: str) -> BaseImage:
        try:
            template = self._store.template(name)
        except TemplateNotFoundError as error:
            raise BuildError(f"the image is mapped to a template that is not there: {error.message}", hint=error.hint) from None
        return BaseImage(
            layers=template.layers, envs=template.envs, user=template.user, workdir=template.workdir, languages=template.languages
        )

    def _of_registry(self, reference: ImageReference, credentials: RegistryCredentials, team_id: str, job: ImportJob) -> BaseImage:
        tools = self._fetching_tools(job)
        job.say(f"asking {reference.host} for {reference}")
        facts = self._importer.inspect(str(reference), credentials, tools, job)
        scope = team_id if credentials else ""
        layers = self._importer.layers(facts, scope)
        if layers is None:
            job.say(f"fetching {reference.name}@{facts.digest[:19]}, {len(facts.diff_ids)} layers")
            layers = self._importer.fetch(f"{reference.name}@{facts.digest}", facts, credentials, scope, tools, job)
        else:
            job.say(f"all {len(facts.diff_ids)} layers of {reference.name}@{facts.digest[:19]} are here already")
        made = self._provisioned(layers, facts, job)
        self._records.remember(team_id, str(reference), facts, scope)
        return made

    def _fetching_tools(self, job: ImportJob) -> tuple[str, ...]:
        """Make the tools. A failure counts as an unreachable registry. Raises: ImagePullError."""
        try:
            return self._tools.tools(job.log)
        except BuildError as error:
            raise ImagePullError("unreached", error.message) from None

    def _provisioned(self, layers: tuple[str, ...], facts: ImageFacts, job: ImportJob) -> BaseImage:
        if facts.starts:
            job.say(f"the image's own command is not started: {_short(facts.starts)}. Name it with set_start_cmd if it is to run", "warn")
        layers, result = self._importer.provision(layers, facts, job)
        user, workdir = _checked(result)
        return BaseImage(layers=layers, envs=facts.envs, user=user, workdir=workdir)

    def _without_registry(
        self, reference: ImageReference, written: ImageReference, team_id: str, error: ImagePullError, job: ImportJob, *, force: bool
    ) -> BaseImage:
        job.say(f"{reference.host} cannot be reached: {error}", "warn")
        pulled = self._records.pulled(team_id, str(reference))
        layers = self._importer.layers(pulled.facts, pulled.scope) if pulled else None
        if pulled is not None and layers is not None:
            at = dt.datetime.fromtimestamp(pulled.at, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
            job.say(f"taking {reference} as it was pulled on {at} ({pulled.facts.digest[:19]})", "warn")
            return self._provisioned(layers, pulled.facts, job)
        equivalent = find_equivalent(written)
        if equivalent is None:
            raise BuildError(
                f"image '{written}' cannot be fetched: {reference.host} cannot be reached ({error}), and nothing here can stand for it",
                step=BASE_STEP,
                hint=f"let this host reach the registry, name a mirror in the setting image_map, list a private registry's network in "
                f"allow_private, or a registry of this very host in host_registries; without a registry there are: {AVAILABLE}",
            )
        job.say(f"instead of {written}: {equivalent.told}", "warn")
        return self._of_equivalent(equivalent, job, force=force)

    def _of_equivalent(self, equivalent: ImageEquivalent, job: ImportJob, *, force: bool) -> BaseImage:
        base = self._of_template(_BASE)
        if equivalent.suite:
            layers, result = self._importer.provision(
                self._tools.release(equivalent.suite, job.log), ImageFacts(digest="", diff_ids=()), job
            )
            user, workdir = _checked(result)
            return BaseImage(layers=layers, envs={"LANG": "C.UTF-8"}, user=user, workdir=workdir)
        if not equivalent.program:
            return base
        layers = (*base.layers, self._packages(equivalent, base, job, force=force))
        return BaseImage(layers=layers, envs={**base.envs, **equivalent.envs})

    def _packages(self, equivalent: ImageEquivalent, base: BaseImage, job: ImportJob, *, force: bool) -> str:
        """The layer with a program from npm's registry."""
        script = install_script(equivalent)
        key = layer_key(base.layers[-1], {"kind": "image-packages", "script": script, "again": secrets.token_hex(8) if force else ""})
        waiting = "waiting for another build that makes the same"
        with self._store.lock(key, on_wait=lambda: job.say(waiting), check=job.cancellation.check):
            if self._store.has(key):
                return key
            job.cancellation.check()
            with self._build_sandboxes.open(base.layers, BuildSandboxSpec(limits=job.limits), job.cancellation) as sandbox:
                with job.output() as output:
                    code = sandbox.run(ShellCommand(text=script, user="root", cwd="/", timeout_s=900), output)
                if code != 0:
                    what = f"'{equivalent.package}' of version {equivalent.version} could not be installed (exit status {code})"
                    raise BuildError(what, step=BASE_STEP, hint="npm's registry, or the host's mirror of it, must be reachable and have it")
                if sandbox.publish(key, f"image/{equivalent.program}-{equivalent.version}") is None:
                    raise BuildError(f"'{equivalent.package}' installed no files")
        return key


def _refused(reference: ImageReference, credentials: RegistryCredentials, error: ImagePullError, limits: Limits) -> BuildError:
    """The failed pull, with cause and remedy for the client."""
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
    """Check user and work directory. The program that names them ran beside the image's own programs. Raises: BuildError."""
    user, workdir = result.get("user"), result.get("workdir")
    if not isinstance(user, str) or not isinstance(workdir, str):
        raise BuildError("the image could not be prepared: its user and work directory are not known")
    check_user(user)
    if not workdir.startswith("/") or "\0" in workdir or len(workdir) > _MAX_PATH:
        raise BuildError(f"the image could not be prepared: {workdir[:100]!r} is not a directory")
    return user, workdir


def _short(words: tuple[str, ...]) -> str:
    text = " ".join(words)
    return text if len(text) <= 200 else text[:200] + "…"
