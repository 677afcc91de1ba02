"""What `visualizer.py` calls: a head in the browser, for several visitors at once.

options.py   command-line options
examples.py  what is offered before anybody sends something
server.py    viser's server, and what each visitor gets
gate.py      who may come in
inbox.py     files that a visitor sends
session.py   what one visitor looks at, without a browser
words.py     the command line that makes the same
renderer.py  one thread that renders for all in turn
canvas.py    a picture in a browser's window
panel.py     one visitor's sliders and buttons
"""
