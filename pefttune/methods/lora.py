"""LoRA (arXiv:2106.09685), attached in place; the base keeps its class.

Names, initial values, file keys and configuration are PEFT's, and so is what is computed; how is ours. PEFT's layer
casts its input to float32, keeps that copy for the backward pass, and computes adapters in float32 beside a base in
bfloat16, which costs as much as a quarter of a step (docs/LOG.md). Here adapters are float32 masters, computed in the
dtype of the base, and several may act in one pass, each on its own rows.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn, no_grad

from pefttune.errors import BaseError
from pefttune.methods.initial import INITIAL, Beginning, default
from pefttune.methods.lora_layer import Acting, LoraLinear
from pefttune.methods.places import (
    FILE_PREFIX,
    POOLER,
    check_rank,
    layer_of,
    layers_of,
    linear_modules,
    path_in_class,
    targets_of,
)
from pefttune.methods.protocol import Adapter
from pefttune.methods.settings import settings_of
from pefttune.recipe.adapters import Fusion, Lora, LowRank

T = TypeVar("T", bound=Tensor)

_slots = itertools.count()
_acting: WeakKeyDictionary[nn.Module, list[Acting]] = WeakKeyDictionary()


class LoraAdapter(Adapter):
    """One LoRA adapter on a model, frozen until `train(True)`; its weights are float32 masters.

    Initial values that change what the model computes are taken back by a frozen half (`LoraLinear.add`), where PEFT
    changes the base; what is saved is a LoRA of twice the rank, the one that PEFT converts such an adapter to. Those
    that ask for more than the layers are given by `begin`. One that is `lent` never acts itself: others read it.
    """

    mixes = True

    def __init__(self, model: Any, config: Lora, *, lent: bool = False) -> None:
        self._slot = f"slot{next(_slots)}"
        self._model = model
        self._lr_ratio = config.loraplus_lr_ratio
        linears, stored = lora_targets(model, config), config.stored()
        times = config.times
        ranks = _ranks(linears, config, times)
        whole = {name: times * r for name, r in ranks.items()}
        self._config = _peft_config(model, stored, whole, {name: _alpha(stored, name, r) for name, r in whole.items()})
        acting, initial = _acting.setdefault(model, []), INITIAL.get(config.init_lora_weights, default)
        self._layers: dict[str, LoraLinear] = {}
        for name, r in ranks.items():
            if r:
                scale = scale_of(stored, name, times * r)
                a_rI, b_Or = initial(linears[name], r, scale, model.dtype)
                self._layers[name] = layer = _wrapped(model, name, linears[name], acting)
                layer.add(self._slot, a_rI, b_Or, scale, config.lora_dropout, taken_back=times > 1, lent=lent)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Its parameters by file key."""
        return self._by_key(lambda layer: (layer.lora_A[self._slot], layer.lora_B[self._slot]))

    def state(self) -> dict[str, Tensor]:
        """Its parameters with the frozen half of each, if there is one, by file key."""
        return self._by_key(lambda layer: layer.low_rank(self._slot))

    def _by_key(self, low_rank: Callable[[LoraLinear], tuple[T, T]]) -> dict[str, T]:
        prefix = FILE_PREFIX + path_in_class(self._model)
        return {
            f"{prefix}{name}.lora_{half}.weight": weight
            for name, layer in self._layers.items()
            for half, weight in zip("AB", low_rank(layer), strict=True)
        }

    @property
    def rates(self) -> dict[str, float]:
        """B learns so many times as fast as A (LoRA+)."""
        return {key: self._lr_ratio for key in self.parameters if key.endswith(".lora_B.weight")}

    @property
    def updates(self) -> dict[str, tuple[Tensor, Tensor, float]]:
        """A, B and the factor of their product, by the layer they are added to, as its file keys begin."""
        prefix = FILE_PREFIX + path_in_class(self._model)
        return {prefix + name: layer.update(self._slot) for name, layer in self._layers.items()}

    @property
    def first_layer(self) -> int:
        """The lowest of the base's layers that it changes; 0 also where that is not known."""
        return min(layer_of(name) for name in self._layers)

    @no_grad()
    def begin(self, beginning: Beginning, progress: Callable[[int], None] = lambda done: None) -> None:
        """Let A and B of each layer begin with these values; `progress` is told how many layers are done. Raises what
        `beginning` does."""
        for done, (name, layer) in enumerate(self._layers.items(), start=1):
            r, scale = len(layer.lora_A[self._slot]), layer.update(self._slot)[2]
            layer.begin(self._slot, *beginning(name, layer.base_layer, r, scale))
            progress(done)

    def train(self, mode: bool) -> None:
        """Let its parameters learn and its dropout drop, or neither."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(mode)
        for layer in self._layers.values():
            layer.lora_dropout[self._slot].train(mode)

    def activate(self, rows: slice = slice(None)) -> None:
        """Act on these rows of the batch, besides the adapters that act already. Turns no gradient on."""
        _acting[self._model].append(Acting(self._slot, rows))

    @staticmethod
    def deactivate(model: nn.Module) -> None:
        """Let no LoRA adapter act in the model's forward."""
        _acting.get(model, []).clear()

    def config(self) -> dict[str, Any]:
        """PEFT's own configuration, with the targets as names."""
        config: dict[str, Any] = self._config.to_dict()
        config["task_type"] = "SEQ_2_SEQ_LM" if self._model.config.is_encoder_decoder else "CAUSAL_LM"
        for key in ("target_modules", "exclude_modules"):  # sets, which JSON has not
            config[key] = sorted(config[key]) if config[key] else config[key]
        return config

    def detach(self) -> None:
        """Take it off the base; a layer left without adapters becomes the base's own again."""
        acting = _acting[self._model]
        acting[:] = [one for one in acting if one.slot != self._slot]
        for name, layer in self._layers.items():
            layer.remove(self._slot)
            if not layer.lora_A:
                self._model.set_submodule(name, layer.base_layer)


def lora_targets(model: Any, config: LowRank) -> dict[str, nn.Linear]:
    """The linear layers that LoRA is to adapt, by path. Raises BaseError when there is none."""
    # By the path PEFT will see, for a layer's number is looked for behind two names.
    prefix, wanted = path_in_class(model), _peft_config(model, config, {}, {})
    linears, layers = linear_modules(model), layers_of(model, config.layers)
    found = {name: linear for name, linear in linears.items() if check_target_module_exists(wanted, prefix + name)}
    if outside := [name for name in found if layers is not None and layer_of(name) not in layers]:
        raise BaseError(f"adapter.target_modules: {outside[0]} is none of the layers asked for by adapter.layers")
    if not found:
        raise BaseError("adapter: no linear layer is both in target_modules and in the layers asked for")
    return found


def scale_of(config: Lora, name: str, r: int) -> float:
    """What the update of the module `name`, of rank `r`, is multiplied by. `config` is the section as it is stored."""
    return _alpha(config, name, r) / (math.sqrt(r) if config.use_rslora else r)


def least_numbers(model: Any, config: Any) -> int:
    """How many numbers the file of such an adapter holds at least, known before any is allocated; 0 for a method whose
    size the base alone bounds. `config` is the section of what is saved. Raises BaseError."""
    if isinstance(config, Fusion):
        return sum(least_numbers(model, member.stored()) for member in config.members)
    if not isinstance(config, Lora):
        return 0
    linears = lora_targets(model, config)
    ranks = {name: config.rank_pattern.get(name, config.rank) for name in linears}
    return sum(r * (linears[name].in_features + linears[name].out_features) for name, r in ranks.items())


def tables_nbytes(model: Any) -> int:
    """Memory that the adapters on the model need when several act at once, besides their own."""
    return sum(layer.tables_nbytes(model.dtype) for layer in model.modules() if isinstance(layer, LoraLinear))


def _ranks(linears: Mapping[str, nn.Linear], config: Lora, times: int) -> dict[str, int]:
    """The rank of each of the layers, 0 for those to leave alone. Raises BaseError for one that cannot be, so many
    times."""
    for key, pattern in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for name in sorted(pattern.keys() - linears.keys()):
            close = difflib.get_close_matches(name, linears, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the first of them is {next(iter(linears))!r}"
            raise BaseError(f"adapter.{key}: {name!r} is none of the {len(linears)} modules to adapt; {hint}")
    ranks = {name: config.rank_pattern.get(name, config.rank) for name in linears}
    if not any(ranks.values()):
        raise BaseError("adapter.rank_pattern: every rank is 0, so that nothing is left to train; raise one")
    for name, r in ranks.items():
        check_rank(name, linears[name], r, "rank_pattern" if name in config.rank_pattern else "r", times)
    return ranks


def _alpha(config: Lora, name: str, r: int) -> float:
    """The `lora_alpha` of a module of rank `r`: its own, or the one that gives it the scale of one of `config.rank`."""
    if (own := config.alpha_pattern.get(name)) is not None:
        return own
    if r == config.rank:
        return config.alpha
    return config.alpha * (math.sqrt(r / config.rank) if config.use_rslora else r / config.rank)


def _peft_config(model: Any, config: LowRank, ranks: Mapping[str, int], alphas: Mapping[str, float]) -> LoraConfig:
    prefix = path_in_class(model)
    others = {name for name, r in ranks.items() if r not in (0, config.rank)}
    scaled = others | {name for name, r in ranks.items() if r and alphas[name] != config.alpha}
    left_alone = [prefix + name for name, r in ranks.items() if not r]
    left_alone += [name for name, _ in model.named_modules() if name.startswith(f"{POOLER}.")]
    found: LoraConfig = settings_of(config)(
        target_modules=targets_of(model, linear_modules(model), config.target_modules),
        layers_to_transform=layers_of(model, config.layers),
        rank_pattern={prefix + name: r for name, r in ranks.items() if name in others},
        alpha_pattern={prefix + name: alpha for name, alpha in alphas.items() if name in scaled},
        exclude_modules=left_alone or None,
    )
    return found


def _wrapped(model: nn.Module, name: str, linear: nn.Linear, acting: list[Acting]) -> LoraLinear:
    """The LoRA layer at `name`, put around the base's own if there is none yet."""
    layer = model.get_submodule(name)
    if not isinstance(layer, LoraLinear):
        layer = LoraLinear(linear, acting)
        model.set_submodule(name, layer)
    return layer
