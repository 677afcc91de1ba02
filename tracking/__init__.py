"""Real photos and videos in; aligned crops, camera labels and expression parameters out.

media.py       photos, streaming video in and out
landmarker.py  faces, 478 landmarks and 52 blendshapes (MediaPipe's models, run without MediaPipe)
crop.py        the one aligned crop of training, test and demo
pose.py        camera label from landmarks
smoothing.py   jitter out, no lag in
deep3d.py      the paper's 64 expression coefficients, weights given by path
tracker.py     all of it behind one class
"""
