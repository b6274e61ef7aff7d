"""Raw kernel facilities, one a file: no policy, no event loop."""
