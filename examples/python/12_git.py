"""Git in a sandbox: commit on a branch, push to a server (here a directory), clone from it."""

from e2b import Sandbox

with Sandbox.create() as sandbox:
    git = sandbox.git
    git.init("server.git", bare=True, initial_branch="main")
    git.init("project", initial_branch="main")
    git.configure_user("Ada Lovelace", "ada@example.com")

    sandbox.commands.run("echo hello > project/readme.txt")
    print("changed:", *[one.name for one in git.status("project").file_status])
    git.add("project")
    git.commit("project", "Say hello")

    git.create_branch("project", "feature")
    git.commit("project", "Nothing yet", allow_empty=True)
    print("branches:", *git.branches("project").branches)
    git.checkout_branch("project", "main")

    git.remote_add("project", "origin", "/home/user/server.git")
    git.push("project", remote="origin", branch="main")  # username= and password= for a server that wants them
    git.clone("/home/user/server.git", "copy")
    print("cloned:", sandbox.commands.run("cat copy/readme.txt").stdout.strip())
