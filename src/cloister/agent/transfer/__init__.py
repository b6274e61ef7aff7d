"""File transfer over HTTP: uploads, downloads, composing, signed URLs."""
