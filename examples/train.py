"""The smallest training with a remote loss: python -m examples.train [HOST:PORT]."""

import sys

import torch

import lossclient
from lossclient.torch import RemoteLoss

model = torch.nn.Linear(16, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
features, labels = torch.randn(64, 16), torch.randint(0, 10, (64,))
with lossclient.connect(sys.argv[1] if len(sys.argv) > 1 else "localhost:50051") as client:
    criterion = RemoteLoss(dict(type="CrossEntropyLoss"), client)
    for step in range(20):
        loss = criterion(model(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step:2}  loss {loss.item():.4f}")
