"""Nodes as the control plane sees them."""
