"""What every part of the project speaks (docs/conventions.md).

cameras.py    camera labels: 25 floats, their angles, projections and mirror image
spaces.py     expression spaces: what the numbers of a beta mean
gaze.py       where the eyes look, as units of an expression space
crop.py       the one aligned crop of training, test and demo
landmarks.py  landmarks by number, and the 70 that data sets store
mirror.py     the expression of the mirrored face
"""
