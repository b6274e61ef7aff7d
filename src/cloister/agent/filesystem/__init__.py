"""The sandbox's file system for its users: identities, entries, operations and watches. File transfer over HTTP is in ``transfer/``."""
