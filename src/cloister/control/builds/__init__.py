"""Clients' template builds in the control plane. The rows of builds are here; the node runs the builds.

::

    builds.py        all use cases, put together
    requests.py      the client's requests and the server's limits, as plain data
    registering.py   a client registers a build, or a snapshot makes one
    starting.py      a client starts it: archives are read, and the node gets the build
    following.py     status and log for the client
    ending.py        stores how a build ended, and cancels builds
    deleting.py      a client deletes a template or a tag
    garbage.py       builds that no client can reach, and old uploads
    reconciling.py   repairs rows after a (re)connection to the node
    background.py    tasks whose end is awaited at the close
"""
