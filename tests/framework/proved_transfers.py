"""The hardening steps of templates that go between stores, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["TRANSFER_STEPS"]

_OFFER = "src/cloister/template/transfer/offer.py"
_RECEIVING = "src/cloister/template/transfer/receiving.py"
_PACKING = "src/cloister/template/bundle/packing.py"

TRANSFER_STEPS = (
    Step("transfers: digest of an offer", _OFFER, "if digest_of(document) != expected:", "if False:", "another_template_than_expected"),
    Step("transfers: length of an offer", _OFFER, "if len(document) > MAX_OFFER_BYTES:", "if False:", "another_template_than_expected"),
    Step("transfers: name of a template", _OFFER, "if offer.name != name:", "if False:", "lie_about_a_template"),
    Step(
        "transfers: ids of builds",
        _OFFER,
        "if not (_ID if offer.is_build else _STOCK_NAME).fullmatch(name):",
        "if False:",
        "pass_off_a_build",
    ),
    Step("transfers: authors of builds", _OFFER, "if offer.is_build and template.authors == ():", "if False:", "pass_off_a_build"),
    Step("transfers: layers of a template", _OFFER, "!= set(template.layers):", "== set():", "lie_about_a_template"),
    Step("transfers: agents", _OFFER, "and (offer.is_build or name != _BASE):", "and False:", "an_agent_or_a_program"),
    Step("transfers: programs", _OFFER, "or not {part.kind for part in offer.parts} <= set(_KINDS):", ":", "an_agent_or_a_program"),
    Step("transfers: digests of archives", _RECEIVING, "if _digest(file) != part.sha256:", "if False:", "replace_an_archive"),
    Step("transfers: room", _RECEIVING, "check_room([one.part for one in missing], store, more_bytes)", "pass", "sender_cannot_fill"),
    Step(
        "transfers: sizes of archives",
        _RECEIVING,
        "stream.read(min(_CHUNK_BYTES, part.size_bytes - offset))",
        "stream.read(_CHUNK_BYTES)",
        "sender_cannot_fill",
    ),
    Step("transfers: progress", _RECEIVING, "if came < _LEAST_PROGRESS_BYTES:", "if False:", "keep_a_receiver_busy"),
    Step(
        "transfers: power of tar",
        _PACKING,
        '_POWER = "-all,+dac_read_search"',
        '_POWER = "-all,+dac_read_search,+dac_override"',
        "tar_cannot_change",
    ),
)
