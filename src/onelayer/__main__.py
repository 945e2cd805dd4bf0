"""``python -m onelayer``."""

from onelayer.cli import main

main()
