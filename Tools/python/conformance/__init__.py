"""Cases that hold any implementation of a Sluice broker to its specification, from outside."""
