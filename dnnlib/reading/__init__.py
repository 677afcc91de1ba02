"""One door a format: every file that was not made here in this minute is opened by these functions and no others.

files.py       open_file, read_bytes, read_head: what is a file at all: no folder, device, pipe or loop of links
pictures.py    open_picture, read_picture: PNG, JPEG and their like, upright, in sRGB
containers.py  open_container: videos and sound, read and written; paths, never addresses
shown.py       shown_picture: a video's frame as it is meant to be seen
archives.py    open_zip, read_member: sizes are bounded before a byte is unpacked
arrays.py      open_npy, read_npz: the header is compared with the file before memory is taken
matlab.py      read_mat: plain numeric arrays of MATLAB files
tensors.py     read_safetensors, read_torch, and the look for NaN and infinity
text.py        read_json, parse_json, read_yaml, parse_yaml, read_text

A door opens nothing but the path it is given, starts no program, unpickles nothing, bounds the memory, and turns
everything that its library raises into one sentence (`UserError`). `tests/test_doors.py` holds that nobody else opens
these formats, `tests/fuzz_readers.py` throws damaged files at the doors.
"""
