"""Plain data with units: frozen dataclasses, no I/O, no clock."""
