"""Raw videos into training data: `dataset_tool.py video`.

cli.py       the command
options.py   every option, once
finding.py   what is to be prepared: folders, lists, archives
sources.py   one source, and whose face it shows
lists.py     clip lists with times and boxes, in the forms in which the public data sets bring them
tracks.py    VoxCeleb's files of boxes
frames.py    pictures of a video file, an image sequence or an archive's member, one at a time
numbering.py which frame of its file a frame is
shots.py     where one shot ends and the next begins
people.py    which face is followed, who it is, where it looks, what belongs to the person
results.py   results of an earlier run in place of a tracker
judge.py     which frames are kept, and the reasons of those that are not
rows.py      what is stored of a frame
tools.py     what a worker loads once
video.py     one video: all of the above, into one shard and one record
engines.py   many videos: worker processes that may die, or a Ray cluster
records.py   the record of a finished video, read again
run.py       a whole data set: what is done already, what is left, joining, the report
summary.py   what the report says of a clip
report.py    report.json and report.html
"""
