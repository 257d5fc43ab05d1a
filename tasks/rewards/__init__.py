"""Rewards of generated answers: by functions that verify them, and by models that score them.

A shared room: training and evaluation give the same rewards.
"""
