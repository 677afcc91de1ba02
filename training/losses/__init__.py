"""What training minimises. Every loss returns a dict of named scalars; weighting and summing is the caller's."""
