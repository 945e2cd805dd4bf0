"""The paper in small: what is run, what came of it, and what that says of each of its claims."""
