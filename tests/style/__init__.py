"""Tests of the repository itself: structure, sizes, documents."""
