"""The ports over a technology, one file each, named `technology_port.py`.

The only code besides `rows` that knows a driver; only the programs' composition roots choose
among them.
"""
