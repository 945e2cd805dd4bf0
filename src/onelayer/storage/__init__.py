"""How bytes reach the disk and come back whole: files written at once or not at all, locks, records and scores.

Imports ``errors`` and ``version`` alone. Read ``files.py`` first.
"""
