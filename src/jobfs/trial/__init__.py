"""What jobfs relies on and the API reference leaves open, asked of a server: all by `jobfs doctor --try`, some by a mount."""
