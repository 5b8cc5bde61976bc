"""Registers a deformable convolution kernel with PyTorch: autograd, autocast, fake tensors."""

from collections.abc import Callable

import torch
from torch import Tensor

from dcn.reference import output_size

GEOMETRY = "SymInt[] stride, SymInt[] padding, SymInt[] dilation"
FORWARD = f"(Tensor input, Tensor offset, Tensor mask, Tensor weight, Tensor? bias, {GEOMETRY})"
BACKWARD = f"(Tensor grad, Tensor input, Tensor offset, Tensor mask, Tensor weight, {GEOMETRY})"


def is_channels_last(tensor: Tensor) -> bool:
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def dense(tensor: Tensor) -> Tensor:
    """The tensor, contiguous in one of the two memory formats."""
    return tensor if is_channels_last(tensor) else tensor.contiguous()


def empty_output(input: Tensor, weight: Tensor, stride, padding, dilation) -> Tensor:
    """The output (B, O, H', W'), not filled in, in the memory format of the input."""
    size = output_size(input.shape[2:], weight.shape[2:], stride, padding, dilation)
    layout = torch.channels_last if is_channels_last(input) else torch.contiguous_format
    shape = (input.shape[0], weight.shape[0], *size)
    kind = {"dtype": input.dtype, "device": input.device}
    return torch.empty(shape, memory_format=layout, **kind)


def register(name: str, forward: Callable, backward: Callable, device_type: str | None) -> Callable:
    """Make an operator `mstt::<name>`, compiled, exported and differentiated like any other.

    Registering the same name again replaces the operator.

    Arguments:
        name: of the operator; its backward is called <name>_backward.
        forward: (input, offset, mask, weight, bias, stride, padding, dilation) -> output. All
            tensors are float32 or all float64. The output has the memory format of the input and
            is made by `empty_output` from a `dense` input.
        backward: (grad_output, input, offset, mask, weight, stride, padding, dilation) -> the
            gradients of input, offset, mask and weight, the first three in the memory format
            of the `dense` tensors, the last contiguous.
        device_type: the device the kernels run on; None for any.

    Returns: the operator by the signature of `dcn.deform_conv2d`, its arguments checked already.
    """
    options = {"mutates_args": (), "device_types": device_type}
    operator = torch.library.custom_op(
        f"mstt::{name}", forward, schema=f"{FORWARD} -> Tensor", **options
    )
    backward_operator = torch.library.custom_op(
        f"mstt::{name}_backward",
        backward,
        schema=f"{BACKWARD} -> (Tensor, Tensor, Tensor, Tensor)",
        **options,
    )

    @operator.register_fake
    def _(input, offset, mask, weight, bias, stride, padding, dilation):
        return empty_output(dense(input), weight, stride, padding, dilation)

    @backward_operator.register_fake
    def _(grad_output, input, offset, mask, weight, stride, padding, dilation):
        images = [torch.empty_like(dense(tensor)) for tensor in (input, offset, mask)]
        return (*images, torch.empty_like(weight.contiguous()))

    def setup_context(ctx, inputs, output) -> None:
        input, offset, mask, weight, _, *ctx.geometry = inputs
        ctx.save_for_backward(input, offset, mask, weight)

    def differentiate(ctx, grad_output):
        grads = backward_operator(grad_output, *ctx.saved_tensors, *ctx.geometry)
        grad_bias = grad_output.sum((0, 2, 3)) if ctx.needs_input_grad[4] else None
        return (*grads, grad_bias, None, None, None)

    operator.register_autograd(differentiate, setup_context=setup_context)
    for autocast_device in (device_type,) if device_type else ("cpu", "cuda"):
        operator.register_autocast(autocast_device, torch.float32)

    def deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask) -> Tensor:
        if mask is None:
            mask = torch.ones_like(offset[:, ::2])
        # By its name: one that another import of dcn has replaced crashes when it is called.
        operator = getattr(torch.ops.mstt, name)
        return operator(input, offset, mask, weight, bias, stride, padding, dilation)

    return deform_conv2d
