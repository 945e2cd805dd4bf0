"""Arms over a Ray cluster: sets of arms go to workers and their events come back. Read ``engine.py`` first."""
