"""A plan and its settings for verl, with the hook that freezes its workers. Read ``export.py`` first."""
