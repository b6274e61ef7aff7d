"""The egress process: passes on the connections of sandboxes whose policy the kernel cannot enforce alone (names, headers, a proxy)."""
