"""``GET /metrics``: numbers of the whole server for Prometheus."""
