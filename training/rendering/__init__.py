"""Rays through tri-planes (paper, sec. 3.4).

rays.py        rays of a camera label
triplane.py    features of 3D points, and their decoder
volume.py      volume rendering in plain torch: the specification
fused.py       the operator or plain torch, whichever fits
background.py  a still background behind the volume   [ours]
texture.py     the source's own pixels on the head   [ours]
"""
