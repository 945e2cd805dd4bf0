"""One file a command: parse, call, print.

Imports everything below. Read ``cli.py`` first, then ``scan.py``, the script of a scan.
"""
