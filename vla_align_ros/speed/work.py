"""How much there is to compute: FLOPs and bytes of every matrix product and attention, counted while they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import addmm_flop, flop_registry

_aten = torch.ops.aten


@dataclass
class Work:
    """flops: two for each product that is added up. bytes: what matrix products and attentions read and write. Norms,
    activations and copies count nothing: a fused kernel would not pay for them."""

    flops: int = 0
    bytes: int = 0


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Scores and their product with the values."""
    batch, heads, rows, width = query.shape
    return 2 * batch * heads * rows * key.shape[2] * (width + value.shape[3])


def _attention_backward(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> int:
    """The scores again, and the gradients of values, weights, queries and keys."""
    batch, heads, rows, width = query.shape
    return 2 * batch * heads * rows * key.shape[2] * (3 * width + 2 * value.shape[3])


_FORMULAS: dict[Any, Callable[..., int]] = {  # what torch's own registry lacks
    _aten.addmm_: lambda x, a, b, *_, **__: addmm_flop(x.shape, a.shape, b.shape),
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class WorkCounter(TorchDispatchMode):
    """Within `with WorkCounter() as counter:` everything is counted into `counter.work`; also on the meta device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, packet = kwargs or {}, func._overloadpacket
        if packet not in _FORMULAS and packet not in flop_registry:
            with self:  # in inference mode matmul and attention come whole: their parts count
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        result = func(*args, **kwargs)
        if packet in _FORMULAS:
            self.work.flops += _FORMULAS[packet](*args, **kwargs)
        else:
            self.work.flops += flop_registry[packet](*args, **kwargs, out_val=result)
        self.work.bytes += sum(_bytes(leaf) for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor))
        return result


def _bytes(tensor: Tensor) -> int:
    """Of an expanded dimension there is one copy."""
    shape = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return int(torch.Size(shape).numel()) * tensor.element_size()


class _WholeAttention(TorchFunctionMode):
    """The CPU's one kernel on the meta device, too, where torch would take attention to pieces, scores and all."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention or not args[0].is_meta:
            return func(*args, **kwargs)
        query, *others = args
        groups = query.shape[1] // others[0].shape[1]
        key, value = (x[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2) for x in others)
        mask, scale = kwargs.get("attn_mask"), kwargs.get("scale")
        kernel = _aten._scaled_dot_product_flash_attention_for_cpu
        return kernel(query, key, value, 0.0, False, attn_mask=mask, scale=scale)[0]


def count(work: Callable[[], object]) -> Work:
    """Call it once."""
    counter = WorkCounter()
    with _WholeAttention(), counter:
        work()
    return counter.work
