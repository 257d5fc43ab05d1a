"""How a model directory is loaded and measured. Not a stage: train, evaluate and quantize all read model directories."""
