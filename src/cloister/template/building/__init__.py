"""Client template builds, from request to layers: steps, their sandboxes, their cache and their log.

The queue of builds is the node's (node/builds/queue.py).
"""
