"""Native kernel drivers, one a language; README.md has their protocol. Nothing here is imported by the agent: drivers are programs."""
