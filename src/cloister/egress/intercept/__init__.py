"""Interception: the egress process takes part in the HTTP of hosts that have header rules, over TLS with a certificate authority of its own
for each sandbox (docs/decisions/1071-interception.md).
"""
