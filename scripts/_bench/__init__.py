"""The benchmark: jobfs and its peers on the same tree, through the same slow line, in the same run."""
