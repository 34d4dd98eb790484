"""Between libfuse and the Vfs: the driver, the loop threads that serve a session, and interruption."""
