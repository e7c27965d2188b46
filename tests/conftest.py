"""Settings for every test: repeatable examples, one thread, and the helpers of `conformance` on the path."""

import torch
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50, print_blob=False)
settings.load_profile("repeatable")
torch.set_num_threads(1)
