"""``python -m onelayer``."""

from onelayer.commands.cli import main

main()
