"""The frozen base and how rows go through it: loaded once, its decoder layers found by their place, many arms in one pass.

Imports ``config`` and ``storage``. Read ``base.py`` first, then ``pack.py``.
"""
