"""Real servers for a sandbox: put in, started, and waited for."""
