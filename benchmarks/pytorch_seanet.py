"""SEANet in PyTorch, as a PyTorch user would write it: the baseline of the timings.

Parameters have the names of the 2019 release, so that its golden vectors check this network too
(tests/benchmarks/test_benchmarks.py). Shapes are NCHW, in PyTorch's terms; ``torch.channels_last`` changes only the
order in memory.
"""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  PyTorch's own name for it

from seanet_jax.models import SEANetConfig


class SqueezeExcite(nn.Module):
    """Scales the channels of ``[N, C, H, W]`` by squeeze-excitation."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        hidden = channels // reduction
        self.fc = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class ResidualBlock(nn.Module):
    """Residual block from ``[N, C, H, W]`` to ``[N, F, H / stride, W / stride]``."""

    def __init__(self, in_channels: int, channels: int, stride: int, reduction: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = SqueezeExcite(channels, reduction)
        self.downsample = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.se(self.bn2(self.conv2(y)))
        return F.relu(y + self.downsample(x))


class SEANet(nn.Module):
    """SEANet from images ``[N, 3, H, W]`` to logits ``[N, num_classes]``.

    Args:
        config: Configuration of a network with squeeze-excitation and sum aggregation after each stage.

    Raises:
        ValueError: If the configuration is that of another kind of network.
    """

    def __init__(self, config: SEANetConfig):
        super().__init__()
        kind = (config.squeeze_excite, config.aggregate_placement, config.aggregate_op, config.preactivation)
        stages = (config.aggregate_stages, config.aggregate_norm)
        if kind != (True, "stage", "sum", False) or stages != (None, False):
            raise ValueError("the PyTorch network is SEANet with sum aggregation after each stage, nothing else")
        self.aggregate_factor = config.aggregate_factor
        self.conv1 = nn.Conv2d(config.in_channels, config.stem_width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(config.stem_width)
        channels = config.stem_width
        for index, (size, width) in enumerate(zip(config.stage_sizes, config.widths, strict=True)):
            blocks = []
            for position in range(size):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(ResidualBlock(channels, width, stride, config.reduction))
                channels = width
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            channels = width // config.aggregate_factor
        self.fc = nn.Linear(channels, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for name, stage in self.named_children():
            if name.startswith("layer"):
                x = stage(x).unflatten(1, (-1, self.aggregate_factor)).sum(2)
        return self.fc(x.mean((2, 3)))
