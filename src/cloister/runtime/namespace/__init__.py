"""The namespace runtime: sandboxes of Linux namespaces, control groups and seccomp. Runs in: supervisor and builds. Needs: root."""
