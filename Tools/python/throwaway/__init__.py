"""Servers that a test starts for itself and leaves nothing of."""
