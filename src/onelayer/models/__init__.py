"""The frozen base and how rows go through it: loaded once, its decoder layers found by their place, many arms in one pass.

Imports ``config`` and ``storage``. Read ``base.py`` first, then ``pack.py``.

A tensor's name ends in its dimensions, here and in every chapter: B rows of a batch, N rows of a generation, R calls of the
model (rows of rollouts), E episodes, P prompts, G completions of a prompt, T tokens of a completion, L tokens of prompt and
completion, H the model's width, V its vocabulary.
"""
