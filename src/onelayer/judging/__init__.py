"""Scores in, verdicts out: C(k) with its intervals, rankings compared, layers recommended. Pure functions on arrays.

Imports ``config``, ``storage``, and ``tasks`` for the graders' reasons. Read ``measured.py`` first, then
``contribution.py``.
"""
