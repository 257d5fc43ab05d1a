"""The settings in effect on a device, decided in one place: the plan and training both ask here.

`device` says what the decisions depend on, `batches` how rows are shared, `lengths` how long they may be, `numbers`
which number formats a model uses, `kernels` which fused operations run, and `training` everything else.
Pure functions without torch: training describes its device by torch, the plan by its table of GPUs or by this machine.
"""
