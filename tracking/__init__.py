"""Real photos and videos in; aligned crops, camera labels and expression parameters out.

media.py       photos, streaming video in and out
encoders.py    how moving pictures are encoded, by suffix
sound.py       a file's sound beside the video that is written, at its own times
pictures.py    pictures in order, from a folder or a video
timeline.py    sequences of different rates beside each other
landmarker.py  faces, 478 landmarks and 52 blendshapes (MediaPipe's models, run without MediaPipe)
litert.py      one of their networks: arrays in, arrays out
differentiable.py  the same scores in torch, for a loss on what an output shows
pose.py        camera label from landmarks
smoothing.py   jitter out, no lag in
deep3d.py      the paper's 64 expression coefficients, weights given by path
basel.py       the Basel face model, given by path
expression.py  what measures expression and camera: built in, Deep3DFaceRecon, or the user's plugin
plugins.py     trackers of the user's own, by name
matte.py       which pixels show a person
following.py   the face of a video: the same one to the end
tracker.py     all of it behind one class
"""
