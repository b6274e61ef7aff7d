"""The data plane: forwards requests to sandboxes, and their responses back."""
