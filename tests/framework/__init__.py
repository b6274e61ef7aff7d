"""Harness that several test groups share."""
