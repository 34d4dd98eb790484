"""pjdfstest and fsx on a real mount; see `scripts/posix`."""
