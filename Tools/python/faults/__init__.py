"""Faults with real processes: the cases of `Tools/faults`."""
