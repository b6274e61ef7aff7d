"""Attacks by a program in a sandbox, one function each. The package is uploaded, so it needs the standard library alone.

    python3 -m attacks FAMILY      attempts every attack of a module, each in a child, and prints {name: outcome} as JSON

``tests/security/test_attacks.py`` runs them on every runtime; the declarations also say what holds each one off (docs/attacks.md).
"""
