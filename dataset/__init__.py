"""Data sets: on disk, into batches, and how they are made (`dataset_tool.py`).

spec.py       what a data set declares, the types of its rows
splits.py     who is in which split
codecs.py     one channel of one frame as bytes
verify.py     whether parts are what they claim
writer.py     one shard
joining.py    shards into a whole data set
frames.py     frames, read one at a time
reader.py     opens a data set of this project or of EG3D
eg3d.py       EG3D's format, both ways
samplers.py   which frames a step sees
reading.py    frames of a batch, with a neighbour for one that is broken
loader.py     batches of tensors
preparation/  raw videos into data sets
synthesis/    synthetic talking heads with ground truth
upkeep/       describe, check, merge, divide
"""
