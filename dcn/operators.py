"""Registers a deformable convolution kernel with PyTorch: autograd, autocast, fake tensors."""

import torch
from torch import Tensor

from dcn.reference import output_size


def is_channels_last(tensor: Tensor) -> bool:
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def dense(tensor: Tensor) -> Tensor:
    """The tensor, contiguous in one of the two memory formats."""
    return tensor if is_channels_last(tensor) else tensor.contiguous()


def empty_output(input: Tensor, weight: Tensor, stride, padding, dilation) -> Tensor:
    """The output (B, O, H', W'), not filled in, in the memory format of the input."""
    size = output_size(input.shape[2:], weight.shape[2:], stride, padding, dilation)
    memory_format = torch.channels_last if is_channels_last(input) else torch.contiguous_format
    return torch.empty(
        (input.shape[0], weight.shape[0], *size),
        dtype=input.dtype,
        device=input.device,
        memory_format=memory_format,
    )


def register(name: str, forward, backward, device_type: str | None):
    """Make an operator `mstt::<name>`, compiled, exported and differentiated like any other.

    Registering the same name again replaces the operator.

    Arguments:
        name: of the operator; its backward is called <name>_backward.
        forward: (input, offset, mask, weight, bias, stride, padding, dilation) -> output, with
            annotations. All tensors are float32 or all float64. The output has the memory
            format of the input and is made by `empty_output` from a `dense` input.
        backward: (grad_output, input, offset, mask, weight, stride, padding, dilation) -> the
            gradients of input, offset, mask and weight, the first three in the memory format
            of the `dense` tensors, the last contiguous.
        device_type: the device the kernels run on; None for any.

    Returns:
        The operator, called like `forward`.
    """
    operator = torch.library.custom_op(
        f"mstt::{name}", forward, mutates_args=(), device_types=device_type
    )
    backward_operator = torch.library.custom_op(
        f"mstt::{name}_backward", backward, mutates_args=(), device_types=device_type
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
    return operator
