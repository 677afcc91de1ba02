"""What training minimises; every loss returns a dict of named scalars."""
