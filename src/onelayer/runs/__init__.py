"""A run on disk: sets of arms, the events they tell, checkpoints, the manifest, resume.

Imports ``training`` and what is below it. Read ``open_run.py`` first, then ``run.py`` and ``arm_set.py``.
"""
