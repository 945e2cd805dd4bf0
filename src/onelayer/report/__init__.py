"""What people look at: one HTML page, pictures and a CSV for papers, tables for the terminal, all from stored files.

Imports ``judging``, ``storage`` and what ``runs`` writes. Read ``judge_scan.py`` first, then ``page.py``.
"""
