"""Backups of a server, and their restoration."""
