"""The test bench: a two-joint arm over a table, drawn by OpenCV, with a language-conditioned reaching task.

`embodiment` says what differs between two arms, `arm` moves them, `camera` draws them, `task` sets targets and shows
how to reach them, `bench` runs whole batches of episodes. All of it works on n arms at once, as numpy arrays.
"""
