"""Who else can train the arms of a run: a Ray cluster, TRL with accelerate, and what is exported for verl.

Imports ``runs``. Read ``choose.py`` first.
"""
