"""How a model directory is loaded and measured. Not a stage: several stages read models."""
