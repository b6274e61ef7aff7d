"""The hardening steps around disks that outlive their sandboxes, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import NATIVE, Step

__all__ = ["DISK_STEPS"]

_CHECK = "src/cloister/runtime/namespace/diskcheck.py"
_KEPT = "src/cloister/disks/kept.py"

DISK_STEPS = (
    Step(
        "nothing is written to a kept disk",
        "src/cloister/runtime/namespace/plan.py",
        "files={} if has_disk else own_files(hostname)",
        "files=own_files(hostname)",
        "links_followed",
    ),
    Step(
        "files on a kept disk",
        f"{NATIVE}/slot.c",
        'if (value("kept")) find_upper();\n    else check(',
        "(void)find_upper; check(",
        "for_a_new_sandbox",
    ),
    Step("checker: makes no files", _CHECK, "    os.chown(place, _NO_ID, _NO_ID)\n", "", "checker_cannot"),
    Step("checker: size of the image", _CHECK, '"/bin/prlimit", limit, "/bin/e2fsck"', '"/bin/e2fsck"', "checker_cannot"),
    Step("check of a torn disk", _KEPT, "    if not is_whole(image):\n", "    if False:\n", "torn_disk"),
    Step("mark of a closed disk", _KEPT, "return _mark_of(image).exists() and is_clean(image)", "return is_clean(image)", "torn_disk"),
)
