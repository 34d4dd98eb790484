"""The layer between libfuse and the Vfs: driver, loop threads, replies, inotify events, and interruption."""
