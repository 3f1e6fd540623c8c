"""Problem strings: from sizes and the arguments of a convolution to the one name that convjit has for it."""

import ctypes

from convjit import _library

ACTIVATIONS = ("relu", "leaky_relu", "silu", "gelu", "hardswish", "sigmoid", "tanh", "clamp")


def pair(value, name):
    """An int or two of them, as two."""
    if isinstance(value, int):
        return value, value
    values = tuple(int(each) for each in value)
    if len(values) == 1:
        return values * 2
    if len(values) != 2:
        raise ValueError(f"{name} is one number or two, not {value!r}")
    return values


def four_sides(padding, kernel_size, stride, dilation):
    """Padding in any of its forms (a number, a pair, "same", "valid", four sides) as top, left, bottom, right."""
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0, 0, 0
        if padding != "same":
            raise RuntimeError(f"Invalid padding string: '{padding}'")
        if any(each != 1 for each in stride):
            raise RuntimeError("padding='same' is not supported for strided convolutions")
        height, width = (d * (size - 1) for d, size in zip(dilation, kernel_size))
        return height // 2, width // 2, height - height // 2, width - width // 2
    if not isinstance(padding, int) and len(padding) == 4:
        return tuple(padding)
    return pair(padding, "padding") * 2


def split_activation(activation):
    """(name or None, alpha, beta) of None, a name, or a name with its numbers: ("leaky_relu", slope), ("clamp", low, high)."""
    if activation is None or activation == "identity":
        return None, 0.0, 0.0
    name, *numbers = (activation,) if isinstance(activation, str) else activation
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known are {', '.join(ACTIVATIONS)}")
    if name == "leaky_relu" and not numbers:
        numbers = [0.01]
    wanted = {"leaky_relu": 1, "clamp": 2}.get(name, 0)
    if len(numbers) != wanted:
        raise ValueError(f"activation {name} takes {wanted} numbers, not {len(numbers)}")
    alpha, beta = (*map(float, numbers), 0.0, 0.0)[:2]
    return name, alpha, beta


def problem_string(
    input_size,
    weight_size,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    *,
    math="f32",
    layout="nchw",
    weights_layout="kcrs",
    bias=False,
    activation=None,
    residual=False,
):
    """The canonical problem string of a convolution of (N, C, H, W) with weights (K, C/groups, R, S).

    padding may also be "same", "valid", or (top, left, bottom, right); activation as in convjit.conv2d; weights_layout
    "krsc" is that of weights in channels_last. Raises convjit.Error if the library finds the problem invalid.
    """
    (n, c, h, w), (k, filter_channels, r, s) = input_size, weight_size
    if groups > 0 and filter_channels * groups != c:
        raise ValueError(
            f"weights of {filter_channels} channels in {groups} groups need an input of {filter_channels * groups} "
            f"channels, not {c}"
        )
    stride, dilation = pair(stride, "stride"), pair(dilation, "dilation")
    sides = four_sides(padding, (r, s), stride, dilation)
    name, alpha, beta = split_activation(activation)
    numbers = {"leaky_relu": f"{alpha:.9g}", "clamp": f"{alpha:.9g}x{beta:.9g}"}.get(name, "")
    words = [
        f"n{n}c{c}h{h}w{w}k{k}r{r}s{s}",
        "stride{}x{}".format(*stride),
        "pad{}x{}x{}x{}".format(*sides),
        "dil{}x{}".format(*dilation),
        f"g{groups}",
        math,
        layout,
        weights_layout,
        *(["bias"] if bias else []),
        *([name + numbers] if name else []),
        *(["residual"] if residual else []),
    ]
    return canonical("_".join(words))


def canonical(problem):
    """The canonical form of a problem string. benchdnn's descriptors are read, too."""
    parsed, text = _library.parse(problem), ctypes.create_string_buffer(512)
    _library.load().convjit_problem_format(ctypes.byref(parsed), text, len(text))
    return text.value.decode()
