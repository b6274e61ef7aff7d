"""The interface of runtimes, and the runtimes. Runs in: supervisor and builds. Needs: see the modules."""
