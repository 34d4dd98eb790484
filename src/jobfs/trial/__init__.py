"""Tests of a server for what jobfs needs and the API reference leaves open: `jobfs doctor --try` asks all, a mount some."""
