"""What is claimed about failure, tested by failing: kills, full disks, torn files, clocks, hanging workers.

``python -m tests.faults --kills 200`` runs all of it and prints the table; ``tests/test_faults.py`` runs a short version.
"""
