"""Facts and rules of the platform. Standard library only: no clock, no I/O, no framework."""
