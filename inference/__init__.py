"""What `gen_videos.py` calls: a trained network, a motion and a layout become a video."""
