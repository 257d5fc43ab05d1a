"""Names of the records of a training, which stay in the folder of every model made from it."""

RECORD_FILE = "training.json"
"""In a model's folder: objective, method, every effective choice of the training, and the licence of its base."""
PARITY_FILE = ".parity.npz"
"""Predictions of the weights as training held them (tasks/models/parity.py). It has tokens of held-out rows: hidden
files are neither published nor read as part of a base model."""
