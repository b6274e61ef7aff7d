"""Clients' template builds on this node.

::

    async_queue.py    the node protocol's side, on the event loop
    queue.py          the waiting and running builds, and how each one ends
    runner.py         runs one build through its stages
    stages.py         the interface of the stages: layers, trial, record, preparation
    node_stages.py    the stages on this node, and the construction of the queue
    trial.py          runs the start and ready commands, and finds the languages
    preparation.py    makes the first sandboxes of a new template ahead
    cancellation.py   tells a running build to end
    records.py        requests and states on disk
    log.py            the log of one build on disk
"""
