"""The supervisor of one machine, owner of every kernel object."""
