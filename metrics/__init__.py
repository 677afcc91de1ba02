"""What `calc_metrics.py` calls: scores with a definition, a range and a protocol.

registry.py           the metrics by name
image.py              PSNR, SSIM, MS-SSIM, L1
perceptual.py         ST-LPIPS, LPIPS
face.py               AKD, CSIM, AED, APD, gaze
temporal.py           jitter, flicker, steadiness of identity
sets.py               Fréchet distances, KID
networks.py           the networks that metrics look through
head_pose.py          the head pose that APD compares
clips.py              clips on disk and their pairs of frames
pairs.py              a batch of pairs and what networks see in them
cache.py              what networks saw in references, kept on disk
calc.py               scores of predictions against references
intervals.py          intervals and tests that resample clips
result.py             scores with what has to be said beside them
protocols.py          which frame is animated by which frames
footage.py            the frames that a protocol animates
generate.py           a method's frames for a protocol
table.py              several methods on one protocol
table_inputs.py       the folders that a table compares
table_files.py        a table as Markdown, LaTeX, CSV, JSON and a picture
units.py              the units of an expression, in twelve groups
follow.py             how well results follow their driver
watch.py              scores of a protocol while a network trains
heads.py              `calc_metrics.py heads`
consistency.py        3D consistency over an orbit
tsne.py               t-SNE
expression_figure.py  the paper's figure of beta and beta'
commands.py           options that commands share
follow_commands.py    `follow`
table_commands.py     `protocol`, `gen`, `table`
model_commands.py     `views`, `probes`
"""
