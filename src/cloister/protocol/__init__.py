"""Wire formats that cross a trust boundary: bytes in, messages out."""
