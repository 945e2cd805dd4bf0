"""Scoring of models and deltas on benchmarks, with estimates and their errors.

Imports ``training`` for rollouts, ``report`` for tables. Read ``evaluate_model.py`` first.
"""
