"""Sends random values through a deployment and looks for them where they must not be."""
