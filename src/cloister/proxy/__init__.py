"""The data plane: requests to sandboxes, carried there and back."""
