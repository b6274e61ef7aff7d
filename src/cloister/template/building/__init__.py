"""A client's template, from its request to layers: steps, their sandboxes, their cache and their log. Owns no queue (node/builds.py)."""
