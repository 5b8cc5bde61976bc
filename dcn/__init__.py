"""Modulated deformable convolution (DCNv2): the operator, its backends and the layer."""

from dcn.deform_conv import BACKENDS, DCNv2, backend, deform_conv2d

__all__ = ["BACKENDS", "DCNv2", "backend", "deform_conv2d"]
