"""What people decided, kept in a database."""
