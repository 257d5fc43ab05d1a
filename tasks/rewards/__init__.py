"""What an answer is worth: functions that verify it, and models that score it.

Not a stage: training and evaluation give the same rewards.
"""
