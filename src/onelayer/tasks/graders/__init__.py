"""Graders: from a completion and its reference (an answer, or tests) to a reward and the reason for it."""
