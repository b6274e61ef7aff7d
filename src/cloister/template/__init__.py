"""Root trees of sandboxes: layers, stock templates, clients' builds, the host layer and the agent tree.

::

    layers.py              the layer store                       templaterecords.py   records of templates in it
    garbage.py             removes unused trees and records
    stock.py, stock/       definitions of the stock templates    stockbuilder.py      builds them; progress.py prints it
    bootstrap.py, apt.py   the Debian packages of a first layer
    hostlayer.py           the host's settings for sandboxes
    agenttree.py           the agent and its libraries
    interfaces.py          interfaces of clients' builds         building/            the steps of clients' builds
    bundle/                built templates in one file
    images/                OCI images as bases of templates

Imports runtime and below, never node.
"""
