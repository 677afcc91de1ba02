"""What every part of the project speaks: camera labels, expression spaces, the aligned crop, the mirror."""
