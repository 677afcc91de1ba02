"""The critic (paper, sec. 3.5).

dual.py  final image and up-sampled raw image, conditioned by the camera
"""
