"""The REST API: translates HTTP requests to calls of the control plane."""
