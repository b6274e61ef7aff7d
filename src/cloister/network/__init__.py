"""The network of sandboxes: slots, egress policy and resolver (docs/network.md)."""
