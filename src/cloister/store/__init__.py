"""The control plane's state on disk: a database, logs, uploads."""
