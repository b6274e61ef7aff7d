"""Bundles: built templates in one file, for hosts that shall not build them or have no network.

``manifest`` describes the file, ``reading`` checks it, ``trees`` unpacks its archives, ``exporting`` and ``importing`` are the two ends.
"""
