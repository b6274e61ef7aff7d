"""Checkpoints of sandboxes with their memory, made and restored by CRIU. Optional: off unless the operator turns it on."""
