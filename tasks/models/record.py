"""The record of a training, which stays in the folder of every model made from it."""

RECORD_FILE = "training.json"
"""In a model's folder: objective, method, every effective choice of the training, and the licence of its base."""
