"""An agent inside a training program: its own tensors and its own model take part in a federation.

python embed_agent.py https://server:8443 FOLDER, where FOLDER is what `headway identity issue` or `enrol` made.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import headway as hw
from headway.federation import Agent, NodeIdentity

inputs, labels = torch.randn(200, 8), torch.randint(0, 2, (200,))  # the tensors that the program has
data = hw.FederatedData.from_clients({"mine": (inputs[:160], labels[:160], inputs[160:], labels[160:])})
layers = (nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))  # the server has: mlp, hidden = [16]
task = hw.Task(model=lambda: nn.Sequential(*layers), metrics=("accuracy",))

url, folder = sys.argv[1], Path(sys.argv[2])
agent = Agent(url, data, task=task, state=folder / "state", identity=NodeIdentity.load(folder))
print(agent.run())  # "finished": until then it trains when the server asks, and keeps what it computed
