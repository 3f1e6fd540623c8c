"""Conv2d, a torch.nn.Conv2d that computes with convjit, and replace(), which puts it in the place of a model's own."""

import collections

from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized

from convjit.problem import split_activation
from convjit.torch_op import conv2d, forget_weights

fx.wrap("conv2d")  # torch.fx.symbolic_trace takes a call as it is, as it does F.conv2d


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d, with an activation and, in forward, a residual that cost no extra pass.

    Takes the arguments of nn.Conv2d, then `activation` and `fallback` as convjit.conv2d has them. Parameters,
    initialisation and state_dict are nn.Conv2d's.
    """

    activation = None
    fallback = False

    def __init__(self, *args, activation=None, fallback=False, **kwargs):
        super().__init__(*args, **kwargs)
        split_activation(activation)  # raises if there is no such
        self.activation = activation
        self.fallback = fallback

    def forward(self, x, residual=None):
        padding = self.padding
        if self.padding_mode != "zeros":
            x = nn.functional.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return conv2d(
            x,
            self.weight,
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            activation=self.activation,
            residual=residual,
            fallback=self.fallback,
        )

    def train(self, mode=True):
        forget_weights()  # between training and evaluation, weights are written in ways that PyTorch does not count
        return super().train(mode)

    def extra_repr(self):
        parts = [super().extra_repr()]
        if self.activation:
            parts.append(f"activation={self.activation!r}")
        if self.fallback:
            parts.append("fallback=True")
        return ", ".join(parts)


# ---- Replacing ----

Replaced = collections.namedtuple("Replaced", "name module activation")
Replaced.__doc__ = (
    "A convolution that was replaced: its name in the model, the module, and the activation folded into it."
)

Skipped = collections.namedtuple("Skipped", "name why")
Skipped.__doc__ = "A convolution that was not, and why."


class Report(collections.namedtuple("Report", "replaced skipped")):
    """What replace() did to a model; as a string, for people."""

    __slots__ = ()

    def __str__(self):
        folded = [each for each in self.replaced if each.activation]
        lines = [f"{len(self.replaced)} convolutions replaced, {len(folded)} of them with their activation"]
        lines += [f"    {each.name}: now with {each.activation}" for each in folded]
        lines += [f"    {each.name}: left as it is: {each.why}" for each in self.skipped]
        return "\n".join(lines)


def _activation_of(module):
    """The activation of ours that a module is, or None."""
    if type(module) is nn.LeakyReLU:
        return ("leaky_relu", module.negative_slope)
    if type(module) in (nn.ReLU6, nn.Hardtanh):
        return ("clamp", module.min_val, module.max_val)
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else None
    names = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Hardswish: "hardswish", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}
    return names.get(type(module))


def _has_hooks(module):
    return any(getattr(module, name, None) for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"))


def _uses(model):
    """How often each module occurs in a model, by id."""
    return collections.Counter(
        id(child) for parent in model.modules() for child in parent._modules.values() if child is not None
    )


def _fold_activations(model):
    """{name of a convolution: its activation} of those that one directly follows in an nn.Sequential: it becomes nn.Identity."""
    uses, folded = _uses(model), {}
    for name, parent in model.named_modules():
        if type(parent).forward is not nn.Sequential.forward:
            continue
        names = list(parent._modules)
        for first, second in zip(names, names[1:]):
            conv, follower = parent._modules[first], parent._modules[second]
            activation = _activation_of(follower)
            alone = uses[id(conv)] == 1 and not _has_hooks(conv) and not _has_hooks(follower)
            if type(conv) is nn.Conv2d and activation and alone:
                folded[f"{name}.{first}" if name else first] = activation
                parent._modules[second] = nn.Identity()
    return folded


def _why_not(module):
    """Why a convolution of another class than nn.Conv2d's own is left alone."""
    name = type(module).__name__
    if isinstance(module, nn.LazyConv2d):
        return "its sizes are not known before its first call"
    if is_parametrized(module):
        return "it is parametrized; replace it before that"
    if (type(module).forward, type(module)._conv_forward) != (nn.Conv2d.forward, nn.Conv2d._conv_forward):
        return f"{name} is a subclass of nn.Conv2d with a forward of its own"
    return f"{name} is a subclass of nn.Conv2d, which may do more than that"


def replace(model, *, fold_activations=False, fallback=False):
    """Turns every nn.Conv2d of a model into a convjit.Conv2d, in place, and returns a report of what was done.

    The modules stay the objects they are, with their parameters, hooks and names. Subclasses of nn.Conv2d are left alone:
    the report says why. fold_activations: an activation that directly follows a convolution in an
    nn.Sequential is computed by it. fallback: as in convjit.conv2d.
    """
    activations = _fold_activations(model) if fold_activations else {}
    replaced, skipped = [], []
    for name, module in model.named_modules():
        if type(module) is nn.Conv2d:
            module.__class__ = Conv2d
            module.activation, module.fallback = activations.get(name), fallback
            replaced.append(Replaced(name, module, module.activation))
        elif isinstance(module, nn.Conv2d) and not isinstance(module, Conv2d):
            skipped.append(Skipped(name, _why_not(module)))
    return Report(replaced, skipped)
