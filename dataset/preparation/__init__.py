"""Raw videos into training data: `dataset_tool.py video`.

options.py   every option, once
sources.py   what is to be prepared: folders, lists, archives, and whose face a file shows
lists.py     clip lists with times and boxes, in the forms in which the public data sets bring them
frames.py    pictures of a video file, an image sequence or an archive's member, one at a time
shots.py     where one shot ends and the next begins
people.py    which face is followed, who it is, where it looks, what belongs to the person
judge.py     which frames are kept, and the reasons of those that are not
video.py     one video: all of the above, into one shard and one record
engines.py   many videos: worker processes that may die, or a Ray cluster
run.py       a whole data set: what is done already, what is left, joining, the report
report.py    report.json and report.html
"""
