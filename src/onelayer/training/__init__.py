"""The loop: prompts, rollouts, rewards, advantages, updates.

Imports ``arms``, ``tasks``, ``models`` and what these import. Read ``loop.py`` first: it is the whole of a step.
What a tensor's suffix means is in ``models/__init__.py``.
"""
