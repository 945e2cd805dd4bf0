"""onelayer: find out which layers of a language model are worth training with RL, and train them."""

__version__ = "0.1.0.dev0"
