"""What the robot lived through: `builder` (messages and chunks -> experiences), `buffer` (the newest ones), `bag` (the
same from a recording), `folder` (from all recordings in a folder), `later` (several as one), `recorder` and `playback`
(make one, play one).
"""
