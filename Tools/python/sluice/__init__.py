"""Sluice in Python: a codec, a client and a supplier, written from ``Protocol/`` alone.

Nothing but the standard library is used.
"""
