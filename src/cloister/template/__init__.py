"""Template roots: layers, stock definitions, builds, the host layer and the agent tree. Imports runtime and below, never node."""
