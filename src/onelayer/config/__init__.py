"""What can be asked for: one typed configuration per command, and where its values come from.

Imports ``storage``, for the files that values come from. Read ``configs.py`` first: every field's description is its
``--help``.
"""
