"""What a process can be: one module a role, made from settings and open stores.

`serve` is all of them at once, `fleet` one at a time. A role starts when its context is entered and
has stopped when it is left; which stores stand behind it is decided by the program, not in here.
"""
