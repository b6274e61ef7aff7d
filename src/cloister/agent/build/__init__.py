"""Programs of template builds: they run inside a build sandbox, as its root, on the agent's own interpreter."""
