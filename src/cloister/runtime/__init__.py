"""How one sandbox is isolated, whatever the mechanism."""
