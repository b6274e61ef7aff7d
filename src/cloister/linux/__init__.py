"""Raw kernel facilities, one in each file. No policy, no event loop."""
