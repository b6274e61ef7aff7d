"""OCI images as the base of templates: references, registries, what fetches them, what they become, and what stands for a few of them."""
