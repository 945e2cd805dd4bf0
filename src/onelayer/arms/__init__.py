"""What trains: plans, and the deltas that arms own.

Imports ``models``, ``judging`` (a plan may name a profile's best layers) and what these import. Read ``plan.py`` first,
then ``arm.py``.
"""
