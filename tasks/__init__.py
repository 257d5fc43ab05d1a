"""The stages; importing one sets the level of libraries that log, while imported, what no user can act on."""

import logging

# a missing optional kernel, the choice of the CPU, the cast before each matrix product
for _name in ("bitsandbytes", "DeepSpeed", "torch.distributed", "accelerate"):
    logging.getLogger(_name).setLevel(logging.ERROR)
