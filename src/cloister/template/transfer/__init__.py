"""Templates go from one store to another, tree by tree, by the digests of their archives."""
