"""Floods: one core of hostile traffic against a real broker, with neighbours beside it."""
