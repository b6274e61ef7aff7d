"""The steps that keep a template's code away from other teams and from the server's own processes, and the attacks on each."""

from __future__ import annotations

from framework.proved_step import NATIVE, Step

__all__ = ["ZONE_STEPS"]

CATALOG = "src/cloister/node/catalog.py"

ZONE_STEPS = (
    Step(
        "zones by whose code is in a template",
        CATALOG,
        '    return template.only_author in ("", team_id) and not template.for_copies and not template.has_memory\n',
        "    return True\n",
        "author_cannot_read_a_sandbox_of_another_team",
    ),
    Step(
        "own zones by team",
        CATALOG,
        "document = [str(agent.agent), template.only_author, python, *template.layers]",
        'document = [str(agent.agent), "", python, *template.layers]',
        "teams_of_one_image",
    ),
    Step(
        "no kernel zygote where teams are mixed",
        CATALOG,
        "runs_template_code=_has_zone(template, record.team_id),",
        "runs_template_code=True,",
        "template_built_upon_theirs",
    ),
    Step(
        "authors of what a template is built upon",
        "src/cloister/template/building/clientbuild.py",
        "authors=origin.authors_with(request.team_id),",
        "authors=(request.team_id,),",
        "template_built_upon_theirs",
    ),
    Step(
        "authors of what a snapshot is taken of",
        "src/cloister/node/snapshots.py",
        "authors=origin.authors_with(record.team_id),",
        "authors=(record.team_id,),",
        "snapshot_of_theirs",
    ),
    Step(
        "sandboxes made ahead for one team",
        "src/cloister/node/creation/steps.py",
        " and ready.zone_key == template.zone_key",
        "",
        "made_ahead_for_the_author",
    ),
    Step(
        "agent zygotes from the base template alone",
        "src/cloister/runtime/namespace/zygotes.py",
        "        return self._options.agent.interpreter",
        "        return self._options.layers",
        "code_in_the_agent_zygote",
    ),
    Step(
        "template code as a user of its own",
        "src/cloister/runtime/namespace/plan.py",
        'uid=0 if kind == "agent" else _TEMPLATE_UID,',
        "uid=0,",
        "processes_beside_it",
    ),
    Step(
        "template code sees its own processes alone",
        f"{NATIVE}/slot.c",
        'mount_proc(user ? "hidepid=2" : NULL);',
        "mount_proc(NULL);",
        "processes_beside_it",
    ),
    Step(
        "template code cannot signal other users' processes",
        f"{NATIVE}/slot.c",
        "of_template[] = {CAP_SYS_ADMIN, CAP_DAC_OVERRIDE}",
        "of_template[] = {CAP_SYS_ADMIN, CAP_DAC_OVERRIDE, CAP_KILL}",
        "processes_beside_it",
    ),
    Step(
        "template code cannot trace other users' processes",
        f"{NATIVE}/slot.c",
        "of_template[] = {CAP_SYS_ADMIN, CAP_DAC_OVERRIDE}",
        "of_template[] = {CAP_SYS_ADMIN, CAP_DAC_OVERRIDE, CAP_SYS_PTRACE}",
        "processes_beside_it",
    ),
    Step(
        "zygotes are not dumpable",
        f"{NATIVE}/join.c",
        "    call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);\n",
        "",
        "trace_what_makes_it",  # where sandboxes' user namespaces were the zone's root's, entering one would not take it back either
        also=((f"{NATIVE}/slotmaker.c", "!act_as(slot * IDS_PER_SLOT))", "!act_as(0) && !prctl(PR_SET_DUMPABLE, 1))"),),
    ),
    Step(
        "the slot maker is not dumpable",
        f"{NATIVE}/slotmaker.c",
        "prctl(PR_SET_DUMPABLE, owner ? 1 : 0)",
        "prctl(PR_SET_DUMPABLE, 1)",
        "trace_what_makes_it",
        also=((f"{NATIVE}/slotmaker.c", "    prctl(PR_SET_DUMPABLE, 0); /* see act_as */\n", ""),),
    ),
    Step(
        "the end of what a zygote leaves",
        "src/cloister/runtime/namespace/zygotes.py",
        "        zygote.close()\n        self._clear(place.kind)\n",
        "        zygote.close()\n",
        "outlive_its_zygote",
    ),
    Step(
        "the end of all in the control group of a sandbox",
        "src/cloister/runtime/groups.py",
        "            self.tree.end(name)\n        finally",
        "            raise\n        finally",
        "group_of_a_sandbox_that_ended",
    ),
    Step(
        "the end of what is in the group of one controller",
        "src/cloister/linux/cgroup.py",
        "        found: set[int] = set()\n        for directory in self.directories(name).values():",
        "        found: set[int] = set()\n        for directory in [*self.directories(name).values()][:1]:",
        "group_of_a_sandbox_that_ended",
    ),
)
