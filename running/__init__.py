"""What a run is, of whatever is trained: its folder, its states, its processes, its end. Knows no data and no faces.

launch.py         what the scripts that train share: options, processes, how a run ends
agreement.py      all processes are about to do the same
checks.py         what is asked before the first step: a batch that divides, space on the disk
keys.py           what may change in a run that exists
records.py        the run directory
provenance.py     command line, versions and git of a start; the starts of a run
progress.py       how far a run is, in a terminal or in lines
states.py         state and network files of a run
keeping.py        which networks and states stay
saving.py         files written beside the steps
heartbeat.py      what a process does, and the end of one that hangs
exchange.py       what processes tell each other at every step
guard.py          steps that are left out, and the end of a run of them
statistics.py     lines of numbers, and what is shown beside the progress
timing.py         where the time of the steps went
flops.py          floating point operations of what runs, and the peak of a device
profiling.py      --profile: where the time of a few steps goes
parameters.py     how large networks are, part by part
history.py        what a run remembers: skipped steps, the best score, leaps of the loss
precision.py      half precision and its loss scale
anchor.py         weights drawn back to where they started
ema.py            the running average of the weights
steps.py          small verbs of a step
report.py         a run as one page: python -m running.report
"""
