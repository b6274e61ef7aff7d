"""Every method of the template builder that needs no other server."""

import json
from pathlib import Path

from e2b import CopyItem, Sandbox, Template

CONTEXT = Path(__file__).parent.parent / "app"

template = (
    Template(file_context_path=CONTEXT, file_ignore_patterns=["**/*.tmp"])
    .from_template("base")
    # files from beside this program, with ignore rules, owners and modes
    .copy("main.py", "/opt/app/", user="root", mode=0o755)
    .copy(["static", "config.json"], "/opt/app/static/")
    .copy_items([CopyItem(src="config.json", dest="settings/config.json"), CopyItem(src="*.txt", dest="texts/")])
    .make_dir("/home/user/data", mode=0o700)
    .make_dir(["/home/user/a", "/home/user/b/c"])
    .make_symlink("/opt/app/main.py", "/home/user/main.py")
    .run_cmd("echo draft > draft.txt")
    .rename("draft.txt", "final.txt")
    .run_cmd(["touch old.log", "touch older.log"])
    .remove(["old.log", "older.log"])
    .remove("/home/user/b", recursive=True, force=True)
    # packages
    .apt_install(["tree"], no_install_recommends=True)
    .pip_install(["tinydb"])
    .npm_install("left-pad", g=True)
    # variables, user, directory
    .set_envs({"APP_MODE": 'it\'s "live"', "APP_HOME": "$HOME/data"})
    .set_user("worker")
    .set_workdir("/srv/work")
    .run_cmd("whoami > who && pwd >> who")
    .run_cmd("whoami > /srv/work/root-was-here", user="root")
    # a repository
    .run_cmd("git init -q -b main /tmp/origin && cd /tmp/origin && git -c user.name=w -c user.email=w@x commit -q --allow-empty -m first")
    .git_clone("file:///tmp/origin", "/srv/work/clone", branch="main", depth=1)
    # from here on always anew, whatever is in the cache
    .skip_cache()
    .run_cmd("date +%s > built-at")
)

print("steps:", len(json.loads(Template.to_json(template))["steps"]))
Template.build(template, "example-steps", cpu_count=2, memory_mb=1024)

CHECKS = (
    "stat -c '%U %a %n' /opt/app/main.py && /home/user/main.py",
    "cd /opt/app/static && find . -type f | sort | paste -sd ' '",
    "cat /home/user/settings/config.json && ls /home/user/texts | paste -sd ' '",
    "stat -c '%a %n' /home/user/data && readlink /home/user/main.py",
    "cat /home/user/final.txt; ls -d /home/user/*.log /home/user/b 2> /dev/null || echo removed",
    "tree --version | cut -d ' ' -f 1 && python3 -c 'import tinydb; print(\"tinydb\")' && ls $(npm root -g) | grep left-pad",
    'echo "$APP_MODE in $APP_HOME"',
    "paste -sd ' ' who && stat -c %U root-was-here && whoami && pwd",
    "git -C clone log --format=%s && test -s built-at && echo built",
)
with Sandbox.create("example-steps", timeout=120) as sandbox:
    for check in CHECKS:
        print(sandbox.commands.run(check).stdout.strip())
