"""Tasks: problems in three splits, a prompt and a reward, one file each.

Worlds that are played in turns are in ``environments/``, what judges a completion in ``graders/``. Imports ``config``,
``storage`` and, for templates, ``models``. Read ``base.py`` first; ``registry.py`` finds tasks by name.
"""
