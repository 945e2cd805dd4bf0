"""One arm at a time by TRL's trainer, in as many processes as accelerate starts.

Read ``engine.py`` first, then ``trainer.py``.
"""
