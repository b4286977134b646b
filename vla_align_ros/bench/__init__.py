"""Simulated robots to train and to measure on: a folder each."""
