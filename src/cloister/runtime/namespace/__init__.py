"""The namespace runtime: zones, slots and pid 1 (native/ has the C part)."""
