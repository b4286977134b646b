"""A two-joint arm over a table, drawn by OpenCV, with a language-conditioned reaching task.

`embodiment` says what differs between two arms, `arm` moves them, `camera` draws them, `task` sets targets and shows
how to reach them; these work on n arms at once, as numpy arrays, and `episodes` runs whole batches with them.
`body` is one arm on a clock (`actuator` executes what it is sent). `bench` is all of it behind the port.
"""
