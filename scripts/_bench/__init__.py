"""The benchmark: jobfs and its peers on the same tree, through the same slow network, in the same run."""
