"""``infusion bench``: the same work by this package and by its peers, measured."""
