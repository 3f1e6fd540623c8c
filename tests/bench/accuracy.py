"""Whether an output is right: float64 at sampled positions, NaN and gross errors everywhere. On any PyTorch device."""

import torch

from layers import largest_error, rms_error, shrink_limit

MOST_POSITIONS = 4096
PATCH_ELEMENTS = 2**25  # of all sampled patches together: 256 MiB in float64
OUTLIER = 8  # an unsampled error may be this many times the sampled ones: of normal errors, one in 2^31 is
# 1.5 times the largest of 4096


def positions(layer, seed=1):
    """n, p, q of outputs to look at: every corner of the first and last image, and random ones."""
    count = max(64, min(MOST_POSITIONS, PATCH_ELEMENTS // (layer.c * layer.r * layer.s)))
    generator = torch.Generator().manual_seed(seed)
    sizes = (layer.n, layer.p, layer.q)
    corners = torch.cartesian_prod(*(torch.tensor([0, size - 1]) for size in sizes))
    drawn = torch.stack([torch.randint(size, (count,), generator=generator) for size in sizes], dim=1)
    return torch.cat([corners, drawn])


def reference(layer, x, w, where):
    """Outputs of all filters at the positions, in float64, and the sums of |x*w| behind them: two tensors of
    (positions, K)."""
    n, p, q = where.to(x.device).unbind(1)
    rows = p[:, None] * layer.stride_h - layer.pad_h + torch.arange(layer.r, device=x.device) * layer.dil_h
    columns = q[:, None] * layer.stride_w - layer.pad_w + torch.arange(layer.s, device=x.device) * layer.dil_w
    inside = ((rows >= 0) & (rows < layer.h))[:, :, None] & ((columns >= 0) & (columns < layer.w))[:, None, :]
    patches = x[n[:, None, None], :, rows.clamp(0, layer.h - 1)[:, :, None], columns.clamp(0, layer.w - 1)[:, None, :]]
    patches = patches.double() * inside[..., None]  # positions, R, S, C
    patches = patches.reshape(len(n), layer.r * layer.s, layer.groups, layer.c // layer.groups)
    patches = patches.permute(2, 0, 3, 1).reshape(layer.groups, len(n), layer.terms)
    filters = w.double().reshape(layer.groups, layer.k // layer.groups, layer.terms).transpose(1, 2)

    def product(a, b):
        return torch.bmm(a, b).permute(1, 0, 2).reshape(len(n), layer.k)

    return product(patches, filters), product(patches.abs(), filters.abs())


def errors(layer, mode, y, where, exact, magnitude):
    """{"max", "rms", "bound", "wrong", "of", "rms_limit", "shrink"} of y at the positions. bound: the largest of the
    bounds; shrink: by how much y is nearer to zero than the exact outputs, on average and relative to them."""
    n, p, q = where.to(y.device).unbind(1)
    signed = y[n, :, p, q].double() - exact
    difference = signed.abs()
    bound = largest_error(mode, layer.terms, magnitude, exact.abs())
    return {
        "max": difference.max().item(),
        "rms": difference.square().mean().sqrt().item(),
        "bound": bound.max().item(),
        "rms_limit": rms_error(mode, layer.terms, exact.square().mean().sqrt().item()),
        "shrink": -((signed * exact).sum() / exact.square().sum().clamp_min(1e-300)).item(),
        "wrong": int((~(difference <= bound)).sum()),  # so that NaN is wrong
        "of": difference.numel(),
    }


def gross(y, other):
    """The largest difference of two outputs over all elements; NaN if any is."""
    worst = torch.zeros((), device=y.device)
    for mine, theirs in zip(y, other):  # image by image: an output may have 2^31 elements
        worst = torch.maximum(worst, (mine.float() - theirs.float()).abs().max())
    return worst.item()


def verdict(layer, mode, y, peer, where, exact, magnitude):
    """({"ours": errors, "torch": errors}, what is wrong with y or "")"""
    found = {
        "ours": errors(layer, mode, y, where, exact, magnitude),
        "torch": errors(layer, mode, peer, where, exact, magnitude),
    }
    ours = found["ours"]
    if ours["wrong"]:
        return (
            found,
            f"{ours['wrong']} of {ours['of']} sampled outputs are off by more than their bounds, "
            f"{ours['max']:.3g} at most",
        )
    if not ours["rms"] <= ours["rms_limit"]:
        return found, f"rms error {ours['rms']:.3g}; {mode} allows {ours['rms_limit']:.3g}"
    if not ours["shrink"] <= shrink_limit(mode):
        return found, f"on average {ours['shrink']:.3g} too near to zero; {mode} allows {shrink_limit(mode):.3g}"
    most = OUTLIER * (ours["max"] + found["torch"]["max"]) + 1e-6 * exact.abs().max().item()
    apart = gross(y, peer)
    if not apart <= most:
        return found, f"an output that was not sampled differs from PyTorch's by {apart:.3g}; {most:.3g} allowed"
    return found, ""
