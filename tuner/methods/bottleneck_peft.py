"""The earlier name of `bottleneck_layers`, which programs that load an adapter may import."""

from tuner.methods.bottleneck_layers import *  # noqa: F403
