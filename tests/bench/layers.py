"""Layers of the benchmark: reading them, their sizes, the floors of their times, and the bounds of their errors."""

import math
from dataclasses import dataclass

MODES = ("f32", "tf32", "f16", "bf16")
LAYOUTS = ("nchw", "nhwc")

COLUMNS = (
    "name",
    "n",
    "c",
    "h",
    "w",
    "k",
    "r",
    "s",
    "stride_h",
    "stride_w",
    "pad_h",
    "pad_w",
    "dil_h",
    "dil_w",
    "groups",
)

# What an H200 was measured to do: products of two 8192 x 8192 matrices through cuBLAS, on random data, in TFLOP/s, and
# a copy from device to device, in TB/s read and written. Strict f32 is held to three TF32 products, which reach the
# accuracy of FP32.
CEILINGS = {"f32": 360.0 / 3, "tf32": 360.0, "f16": 660.0, "bf16": 672.0, "copy": 4.29}


class BadLayers(Exception):
    """A layer file that cannot be used: "file:line:column: what is wrong"."""


@dataclass(frozen=True)
class Layer:
    """A convolution; letters as in problem strings: N C H W input, K filters of R x S, P x Q output."""

    name: str
    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dil_h: int
    dil_w: int
    groups: int

    @property
    def p(self):
        return (self.h + 2 * self.pad_h - self.dil_h * (self.r - 1) - 1) // self.stride_h + 1

    @property
    def q(self):
        return (self.w + 2 * self.pad_w - self.dil_w * (self.s - 1) - 1) // self.stride_w + 1

    @property
    def terms(self):
        """products summed for one output"""
        return self.c // self.groups * self.r * self.s

    @property
    def flop(self):
        return 2 * self.n * self.k * self.p * self.q * self.terms

    @property
    def elements(self):
        """of input, weights and output together"""
        return self.n * self.c * self.h * self.w + self.k * self.terms + self.n * self.k * self.p * self.q

    def problem(self, mode, layout):
        """the problem string; weights lie as those of models in that layout do"""
        text = "n{n}c{c}h{h}w{w}k{k}r{r}s{s}".format(**vars(self))
        for field, a, b, default in (
            ("stride", self.stride_h, self.stride_w, 1),
            ("pad", self.pad_h, self.pad_w, 0),
            ("dil", self.dil_h, self.dil_w, 1),
        ):
            if (a, b) != (default, default):
                text += f"_{field}{a}x{b}"
        if self.groups != 1:
            text += f"_g{self.groups}"
        return f"{text}_{mode}_{layout}" + ("_krsc" if layout == "nhwc" else "")


def element_size(mode):
    return 4 if mode in ("f32", "tf32") else 2


def floor_us(layer, mode, ceilings=CEILINGS):
    """No kernel is faster than its arithmetic at the matrix rate, or than moving each element of its tensors once."""
    arithmetic = layer.flop / (ceilings[mode] * 1e6)
    traffic = layer.elements * element_size(mode) / (ceilings["copy"] * 1e6)
    return max(arithmetic, traffic)


def read_layers(path):
    """The layers of a CSV file with the columns COLUMNS. Blank lines and lines that begin with '#' are skipped."""
    layers, lines_of = [], {}
    header = None
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            line = line.rstrip("\r\n")
            if not line.strip() or line.startswith("#"):
                continue
            if header is None:
                header = _read_header(path, number, line)
                continue
            layer = _read_layer(path, number, line)
            if layer.name in lines_of:
                raise BadLayers(f"{path}:{number}:1: name: '{layer.name}' is on line {lines_of[layer.name]} already")
            lines_of[layer.name] = number
            layers.append(layer)
    if header is None:
        raise BadLayers(f"{path}:1:1: the file is empty; its first line must be {','.join(COLUMNS)}")
    if not layers:
        raise BadLayers(f"{path}:{header + 1}:1: no layer behind the header")
    return layers


def _fields(line):
    """(column of the text, text) of each comma-separated field"""
    column = 1
    for text in line.split(","):
        yield column + len(text) - len(text.lstrip()), text.strip()
        column += len(text) + 1


def _read_header(path, number, line):
    fields = list(_fields(line))
    for (column, text), wanted in zip(fields, COLUMNS):
        if text != wanted:
            raise BadLayers(
                f"{path}:{number}:{column}: column '{text}', expected '{wanted}'; "
                f"the first line must be {','.join(COLUMNS)}"
            )
    if len(fields) != len(COLUMNS):
        raise BadLayers(
            f"{path}:{number}:{len(line) + 1}: {len(fields)} columns, expected {len(COLUMNS)}: " f"{','.join(COLUMNS)}"
        )
    return number


def _read_layer(path, number, line):
    fields = list(_fields(line))
    if len(fields) != len(COLUMNS):
        raise BadLayers(f"{path}:{number}:{len(line) + 1}: {len(fields)} fields, expected {len(COLUMNS)}")
    columns = dict(zip(COLUMNS, (column for column, _ in fields)))

    def refuse(field, why):
        raise BadLayers(f"{path}:{number}:{columns[field]}: {field}: {why}")

    values = {"name": fields[0][1]}
    if not values["name"]:
        refuse("name", "missing")
    for field, (_, text) in list(zip(COLUMNS, fields))[1:]:
        if not (text.isascii() and text.isdigit()):
            refuse(field, f"'{text}' is not a whole number")
        least = 0 if field.startswith("pad_") else 1
        if not least <= int(text) < 2**31:
            refuse(field, f"{text} is outside {least} to {2**31 - 1}")
        values[field] = int(text)
    layer = Layer(**values)
    for field in ("c", "k"):
        if values[field] % layer.groups:
            refuse("groups", f"{layer.groups} does not divide {field} {values[field]}")
    for field, taps, dilation, size, padding, output in (
        ("r", layer.r, layer.dil_h, layer.h, layer.pad_h, layer.p),
        ("s", layer.s, layer.dil_w, layer.w, layer.pad_w, layer.q),
    ):
        if output < 1:
            refuse(
                field, f"{taps} taps, {dilation} apart, do not fit an input of {size} padded by {padding} at both ends"
            )
    return layer


# Bounds of the error of y = sum of `terms` products, against the exact sum of the stored numbers' products.
#
# Unit roundoffs: FP32 2^-24; TF32 keeps 10 fraction bits: 2^-11; FP16 2^-11 with a least spacing of 2^-24 (half of it 2^-25); BF16 2^-8.
#
#   accumulation  At most `terms` additions, each of which rounds a partial sum that is no larger than M = sum of |x*w|.
#                 Matrix units truncate, which doubles the error of a rounding: 2 * terms * 2^-24 * M. Three TF32 products
#                 in place of an FP32 one leave out small*small and the tails of both small parts, less than
#                 2^-20 * M together. This 16 * 2^-24 * M also covers the FP32 products' own rounding (2^-24 * M).
#   input         f16, bf16, f32: none, the products are those of the stored numbers (in FP32, products of two 16-bit
#                 floats are exact). tf32: both factors are rounded, (1 + 2^-11)^2 - 1 = 2^-10 + 2^-22, of M.
#   output        Rounding y to storage: half a unit in the last place of what was computed, |y| plus the error so far.

_FP32 = 2.0**-24
_INPUT = {"f32": 0.0, "tf32": 2.0**-10 + 2.0**-22, "f16": 0.0, "bf16": 0.0}
_OUTPUT = {"f32": 0.0, "tf32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8}


def largest_error(mode, terms, magnitude, value):
    """The bound for one output. magnitude: its sum of |x*w|; value: |y|. Numbers, or tensors of them."""
    summed = (_INPUT[mode] + (2 * terms + 16) * _FP32) * magnitude
    output = _OUTPUT[mode]
    return summed + output * (value + summed) + (2.0**-25 if mode == "f16" else 0.0)


def rms_error(mode, terms, rms):
    """A limit of the root mean square of the errors of many outputs whose own is `rms`.

    The bound for each output assumes that all roundings agree, and is so wide for many terms that TF32 products would
    pass as FP32. On random data roundings are independent: the partial sum behind i products is about
    rms * sqrt(i / terms), so that the errors of an FP32 loop add up to 2^-24 * rms * sqrt(terms / 6). Allowed is twice
    that, and four roundings of the result. Rounding to TF32 changes a factor by 0.21 * 2^-10 of itself in the root mean
    square, and a product, by two of these, by 0.29 * 2^-10. Allowed is 0.37 * 2^-10, so that matrix units that truncate one
    factor (0.35 * 2^-10 on average, always toward zero, and the rest at random: 0.45 * 2^-10) do not pass. Rounding the
    output stays below its unit roundoff.
    """
    accumulation = 2 * _FP32 * (math.sqrt(terms / 6) + 4)
    inputs = 0.37 * 2.0**-10 if mode == "tf32" else 0.0
    return rms * (accumulation + inputs + _OUTPUT[mode]) + (2.0**-25 if mode == "f16" else 0.0)


def shrink_limit(mode):
    """How much nearer to zero than exact ones outputs may be on average, relative.

    Roundings have no direction, but matrix units truncate. In the error of one output that is hardly seen, over the
    layers of a network it adds up: 50 layers that are short by 3 * 2^-24 each are off by several times what FP32 is. Only
    FP32 is held to a limit, of 2.5 * 2^-24; in the other modes, what inputs or outputs are rounded by hides more.
    """
    return 2.5 * _FP32 if mode == "f32" else math.inf
