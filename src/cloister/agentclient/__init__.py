"""Calls from the host to the agent in a sandbox. An agent's answer is a sandbox's word: this package bounds it and checks its form."""
