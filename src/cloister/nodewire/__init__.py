"""The wire between the API process and the node supervisor of one server; it never ships into sandboxes."""
