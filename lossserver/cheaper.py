"""Sigmoid and softplus out of one exponential: what kernels of the CPU are made with.

As torch writes them each takes an exponential of its own, and softplus a logarithm
that costs more than all the rest of a focal loss. Here both begin with t = exp(-|x|),
which a kernel computes once:

    σ(x) = (1 or t) / (1 + t)        softplus(x) = max(x, 0) + log(1 + t)

and log(1 + t) of a t in [0, 1] is a polynomial. Beside torch's an answer differs by
an ulp or two. In float32 only: a double would need twice as many terms.

Formulas are written with both softplus(x) and softplus(-x), for neither cancels; the
exponential, and the logarithm, are those of |x| and the same for both.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

_aten: Any = torch.ops.aten

#: log(1 + t) = 2 artanh(s), s = t / (2 + t). Of 2 artanh(s) / s, for s² in [0, 1/9], the polynomial in
#: s² whose largest relative error is the smallest: 4e-9, a fifteenth of an ulp. From s⁸ down.
_ARTANH = (0.2817833441, 0.2796060287, 0.4002491027, 0.6666631468, 2.000000008)

#: From where on exp(-x) is below half an ulp of 1 in float32.
_FAR = 17.0


def log1p(t: Tensor) -> Tensor:
    """log(1 + t), for t in [0, 1]: within 2 ulp, also where t is tiny."""
    s = t / (t + 2)
    square = s * s
    first, *others = _ARTANH
    found = square * first
    for one in others[:-1]:
        found = (found + one) * square
    return s * (found + others[-1])


def sigmoid(x: Tensor) -> Any:
    """1 / (1 + exp(-x))."""
    if x.dtype != torch.float32:
        return NotImplemented  # torch's own stays
    t = x.abs().neg().exp()
    return torch.where(x >= 0, 1.0, t) / (t + 1)


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(x)), also beyond a threshold, where it is x but for less than an ulp."""
    if x.dtype != torch.float32 or beta != 1 or threshold < _FAR:
        return NotImplemented  # torch's own stays
    return x.relu() + log1p(x.abs().neg().exp())


def softplus_backward(grad: Tensor, x: Tensor, beta: float, threshold: float) -> Any:
    """The slope of that, which is σ(x)."""
    if x.dtype != torch.float32 or beta != 1 or threshold < _FAR:
        return NotImplemented  # torch's own stays
    return grad * sigmoid(x)


def without_signs(graph: GraphModule) -> GraphModule:
    """The same function, each |-x| written as |x|: then equal things are seen to be equal."""
    for node in graph.graph.find_nodes(op="call_function", target=_aten.abs.default):
        (of,) = node.args
        if of.target is _aten.neg.default:
            node.args = of.args
    graph.recompile()
    return graph


#: By torch's operation what is traced in its place.
CHEAPER: Mapping[Any, Callable[..., Any]] = {
    _aten.sigmoid.default: sigmoid,
    _aten.softplus.default: softplus,
    _aten.softplus_backward.default: softplus_backward,
}
