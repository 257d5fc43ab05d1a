"""How a model directory is loaded and measured, and how long work shows its progress. A shared room of all stages."""
