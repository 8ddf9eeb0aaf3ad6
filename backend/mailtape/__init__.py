"""Mailtape records every e-mail that software sends."""

__version__ = "0.1.0"
