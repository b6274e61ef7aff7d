"""The REST API: HTTP in, the control plane's use cases behind it."""
