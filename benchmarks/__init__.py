"""Measurements of this project, and their JSON under results/: `python -m benchmarks.NAME`.

options.py       options that commands share
measure.py       seconds and bytes, measured the same way by all
render.py        the fused renderer against plain torch
ops.py           bias_act and upfirdn2d against plain torch
frame.py         where the time of a frame goes
animate.py       gen_videos.py animate on a long clip
viewer.py        pictures a second of the viewer
waiting.py       threads that sleep while they wait against threads that spin
train_step.py    a training step with our operators and with plain torch
kills.py         trainings that are killed against one that is not
endurance.py     saves, data, memory and a second process beside the steps
costs.py         days and memory of the presets, computed
presets.py       what the presets weigh and cost
shapes.py        what narrower layers cost in quality
synth.py         the synthetic head generator
mouths.py        mouths that open and close, against true frames
language.py      what the tracker reads from synthetic heads, and from real clips
data.py          large indices, random frames, prepared videos
metrics.py       the metrics: speed, memory, processes
metrics_many.py  ten thousand pairs
metrics_pose.py  APD against the true angle
gallery.py       the pictures of README.md and docs/videos.md
report.py        docs/performance.md and its picture
reference.py     docs/configuration.md
"""
