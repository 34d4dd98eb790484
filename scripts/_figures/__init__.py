"""The figures of the core: how much a reader has to hold, counted from the tree; see `scripts/figures`."""
