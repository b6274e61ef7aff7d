"""The gvisor runtime: a kernel of its own for each sandbox, gVisor's ``runsc``. Runs in: supervisor and builds. Needs: root."""
