"""Watching what a PyTorch Lightning trainer trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import tracer  # noqa: E402
from tests import torchvision_ops  # noqa: E402


def test_a_trainers_steps_are_recorded(trace_path: Path, tmp_path: Path) -> None:
    torchvision_ops.register()  # which torchmetrics imports
    lightning = pytest.importorskip("pytorch_lightning")  # takes seconds: not for who only collects the tests

    class Net(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))

        def training_step(self, batch: Any, index: int) -> Any:
            return self.model(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    data = torch.utils.data.TensorDataset(torch.randn(12, 3))
    callback = tracer.LightningCallback("model", to=trace_path, every=2, gradients=True)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback], default_root_dir=tmp_path,
    )  # fmt: skip
    net = Net()
    trainer.fit(net, torch.utils.data.DataLoader(data, batch_size=2))
    recording = tracer.open(trace_path).recording("pt")
    assert (recording.steps, recording.state) == ((0, 2, 4), "complete")
    assert recording.at(2).weight_gradients.keys() == {("0", "weight"), ("0", "bias"), ("2", "weight"), ("2", "bias")}
    assert not net.model._forward_hooks
