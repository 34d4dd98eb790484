"""The figures of the core: how much a reader must keep in mind, counted from the tree; see `scripts/figures`."""
