"""Simulated robots to train and to measure on, a folder each, behind one port (`port`).

reach2, so101       what is a bench's own: arm, task, expert, shifts, pictures; `bench.py` in it puts them together
collect             experience of many arms at work, and buffers of it
evaluate            episodes by a policy or by the expert: who succeeds, how far a policy's actions are off
robot               one arm as a robot: serialised messages in and out, without ROS
"""
