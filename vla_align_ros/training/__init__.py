"""Trains a zoo model from nothing, on the bench: vision, features, policy with token bank, statistics.

`recipe` is the configuration, `vision` pretrains both eyes, `dataset` makes samples, `train` runs the stages and `bank`
holds a token for every training arm.
"""
