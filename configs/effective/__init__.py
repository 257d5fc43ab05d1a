"""What a config comes to on a device, decided once: the plan counts by it, and training trains by it.

`device` says what the decisions depend on, `batches` how rows are shared, `lengths` how long they may be, `numbers` in
which number formats a model is held and computed, `kernels` which fused operations run, and `training` everything else.
Pure functions without torch: training describes its device by torch, the plan by its table of GPUs or by this machine.
"""
