"""One door a format: every file that was not made here in this minute is opened by these functions and no others.

    files       what is a file at all: no folder, device, pipe or loop of links
    pictures    open_picture, read_picture: PNG, JPEG and their like, upright, in sRGB
    containers  open_container: videos and sound, read and written; paths, never addresses
    archives    open_zip, read_member: sizes are bounded before a byte is unpacked
    arrays      open_npy, read_npz: the header is compared with the file before memory is taken
    matlab      read_mat: plain numeric arrays of MATLAB files
    tensors     read_safetensors, read_torch, and the look for NaN and infinity
    text        read_json, parse_json

A door opens nothing but the path it is given, starts no program, unpickles nothing, bounds the memory, and turns
everything that its library raises into one sentence (`UserError`). `tests/test_doors.py` holds that nobody else opens
these formats, `tests/fuzz_readers.py` throws damaged files at the doors.
"""
