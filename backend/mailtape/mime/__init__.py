"""From the bytes of a mail to what a person may see of it: pure, bounded, never raising.

Every function here takes bytes or text that a stranger wrote, and limits; none of them reads a
clock, a file or the environment. What is wrong with a mail becomes a defect in the result.
"""
