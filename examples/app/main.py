#!/usr/bin/env python3
"""What the template examples copy."""

print("hello from the app")
