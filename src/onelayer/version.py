"""The version of this package: packaging, the commands and every file that a run writes read it here."""

__version__ = "0.1.0"
