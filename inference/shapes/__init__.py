"""A head as geometry: its density as a closed, coloured mesh, and its depth.

surface.py  density on a grid, and the closed surface of one level of it
colours.py  colours of surface points, from rendered views
files.py    meshes, grids and depth maps, written
export.py   a photo's head as files, over a clip too
command.py  the command line of `gen_videos.py export-shape`
"""
