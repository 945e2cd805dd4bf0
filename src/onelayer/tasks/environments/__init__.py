"""Worlds an agent acts in over many turns, with text in and text out."""
