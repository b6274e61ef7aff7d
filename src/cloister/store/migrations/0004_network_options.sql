-- What a client asked of its sandbox's network, as JSON (src/cloister/model/network.py).
ALTER TABLE sandboxes ADD COLUMN network TEXT NOT NULL DEFAULT '{}';
