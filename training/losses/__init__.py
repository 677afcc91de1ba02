"""What training minimises. Every loss returns a dict of named scalars; weighting and summing is the caller's.

reconstruction.py  pixels, gradients, opacity, depth, density
expression.py      what the tracker reads from the output against beta
adversarial.py     non-saturating, with R1
"""
