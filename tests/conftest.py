"""Settings of the whole test session."""

import torch

# the models are tiny: more threads than cores cost 100 times more than they bring
torch.set_num_threads(1)
