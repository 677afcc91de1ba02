"""What `gen_videos.py` calls: a trained network, a motion and a choice of panels become a video.

options.py  command-line options that commands share: network, sources, drivers
view_options.py the same: expression, background, view
network.py  a trained network behind three verbs that speak numpy
drivers.py  whatever drives
template.py motion without pictures
template_command.py  gen_videos.py track
batch.py    several sources or drivers
tracked.py  photos and videos as a network wants them
photo.py    a source portrait and its whole picture
stored.py   clips of data sets, whose labels are there
motion.py   expression over time
steering.py how much of a driver's motion, and where
cameras.py  where the camera stands
animate.py  one photo or video, one driving video
whole.py    the animated head back in its photo
background.py what stands behind the head
showing.py  how a generated head is shown before it
directions.py motion along the basis
views.py    the other videos
looks.py    one head: expression, view, and what of it is shown
show.py     a still or a video of it
show_command.py  gen_videos.py show
demo.py     the demo that ships with the project
panels.py   panels, depth in colours, contact sheets
output.py   videos and pictures, written
shapes/     a head as mesh, density and depth
"""
