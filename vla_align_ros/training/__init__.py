"""Trains a zoo model from nothing, from any source: vision, features, policy with token bank, statistics.

`recipe` is the configuration, `eyes` pretrains both eyes, `dataset` makes tensors of samples, `train` runs the stages
and `bank` holds a token for every training robot.
"""
