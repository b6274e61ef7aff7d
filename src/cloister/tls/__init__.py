"""Certificates of the TLS listener: the operator's, or of a local authority; and how the unprivileged process gets them."""
