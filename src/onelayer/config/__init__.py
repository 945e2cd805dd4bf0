"""What can be asked for: one typed configuration per command, and where its values come from.

Imports ``errors`` and ``version`` alone. Read ``configs.py`` first: every field's description is its ``--help``.
"""
