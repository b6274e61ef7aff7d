"""The sandbox's file system as its users see it: identities, entries, operations and watching."""
