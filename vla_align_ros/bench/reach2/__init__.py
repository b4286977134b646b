"""The test bench: a two-joint arm over a table, drawn by OpenCV, with a language-conditioned reaching task.

`embodiment` says what differs between two arms, `arm` moves them, `camera` draws them, `task` sets targets and shows
how to reach them; these work on n arms at once, as numpy arrays, and `bench` runs whole batches of episodes with them.
`robot` is one arm as a robot: serialised messages in and out (`actuator` executes what it is sent); `clocked` closes
the loop around it without ROS.
"""
