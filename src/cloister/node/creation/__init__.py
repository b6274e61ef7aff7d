"""How sandboxes are created on a node: :mod:`cloister.node.creation.creator` has the sequence."""
