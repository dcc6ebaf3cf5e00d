"""Methods whose layers are PEFT's own: built around the base's modules once, and in their places only while the
adapter acts. Between two uses the base is as it was, whatever other adapters are on it.

In PEFT's own way, adapters of all methods in one tree, each would take the layers of the others for the base's.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.boft.layer import get_fbd_cuda
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as IA3_FEEDFORWARD
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as IA3_TARGETS
from torch import nn

from pefttune.errors import BaseError
from pefttune.methods import placed
from pefttune.methods.lora_layer import LoraLinear
from pefttune.methods.places import (
    FILE_PREFIX,
    POOLER,
    check_rank,
    is_called,
    layer_of,
    layers_of,
    linear_modules,
    path_in_class,
    targets_of,
)
from pefttune.methods.protocol import Adapter
from pefttune.methods.settings import settings_of
from pefttune.recipe import adapters as sections

_names = itertools.count()


class InjectedAdapter(Adapter):
    """One adapter of a method that PEFT has, frozen until `train(True)`; its weights are float32 masters."""

    mixes = False

    def __init__(self, model: Any, config: Any) -> None:
        """On a model where no adapter acts. Raises BaseError when the method cannot be attached to it."""
        self._model, self._section, self._name = model, config, f"slot{next(_names)}"
        self._places = PLACES[config.method](model, config)
        if not self._places:
            raise BaseError("adapter: no module is both in target_modules and in the layers asked for")
        with warnings.catch_warnings():
            # Of kernels that BOFT would like, of VeRA's matrices, which are drawn again from their seed, of lean norms.
            warnings.simplefilter("ignore")
            self._config = settings_of(config)(**_where(model, config, self._places))
            self._layers = self._built(config.method)
        for layer in self._layers.values():
            layer.eval()
            for name, buffer in list(layer.named_buffers()):
                if name.endswith(f".{self._name}"):  # VeRA's matrices, which meet float32 weights
                    layer.get_submodule(name.rpartition(".")[0])._buffers[self._name] = buffer.float()
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(False)

    def _built(self, method: str) -> dict[str, nn.Module]:
        """PEFT's layers by place, around modules of the base alone, which is then as it was."""
        with _bare(self._model) as originals:
            try:
                PEFT_TYPE_TO_TUNER_MAPPING[self._config.peft_type](self._model, self._config, self._name)
            except ValueError as error:  # PEFT's own word for sizes that do not fit
                raise BaseError(f"adapter.method: {method} does not fit this base: {error}") from None
            finally:
                layers = {
                    name: self._model.get_submodule(name)
                    for name in self._places
                    if self._model.get_submodule(name) is not originals[name]
                }
                for name in layers:
                    self._model.set_submodule(name, originals[name])
                vars(self._model).pop("peft_config", None)
        return layers

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Its parameters by file key."""
        prefix = FILE_PREFIX + path_in_class(self._model)
        return {
            f"{prefix}{name}.{key.replace(f'.{self._name}', '')}": parameter
            for name, layer in self._layers.items()
            for key, parameter in layer.named_parameters()
            if key.startswith(PEFT_TYPE_TO_PREFIX_MAPPING[self._config.peft_type])
        }

    @property
    def first_layer(self) -> int:
        """The lowest of the base's layers that it changes; 0 also where that is not known."""
        return min(map(layer_of, self._layers))

    def train(self, mode: bool) -> None:
        """Let its parameters learn and its dropout drop, or neither."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(mode)
        for layer in self._layers.values():
            for module in layer.modules():
                if isinstance(module, nn.Dropout):
                    module.train(mode)

    def activate(self, rows: slice = slice(None)) -> None:
        """Act on all rows; of a batch that others share it cannot have a part."""
        assert rows == slice(None)
        for name, layer in self._layers.items():
            placed.put(self._model, name, layer)

    def config(self) -> dict[str, Any]:
        """PEFT's own configuration, with the targets as names."""
        config: dict[str, Any] = self._config.to_dict()
        prefix = path_in_class(self._model)
        if (inner := config.get("feedforward_modules")) is not None:
            config["feedforward_modules"] = sorted(prefix + name for name in inner)
        config["target_modules"] = sorted(prefix + name for name in self._places)  # PEFT has shortened its own
        return config | {"task_type": "SEQ_2_SEQ_LM" if self._model.config.is_encoder_decoder else "CAUSAL_LM"}

    def detach(self) -> None:
        """Take it off the base, where no adapter acts."""
        self._layers = {}


@contextmanager
def _bare(model: nn.Module) -> Iterator[dict[str, nn.Module]]:
    """The base's own modules, by name, in their places, without the layers that LoRA put around them."""
    wrapped = {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    for name, module in wrapped.items():
        model.set_submodule(name, module.base_layer)
    try:
        yield dict(model.named_modules())
    finally:
        for name, module in wrapped.items():
            model.set_submodule(name, module)


def _in_layers(model: Any, names: Mapping[str, nn.Module], config: Any) -> list[str]:
    layers = layers_of(model, config.layers)
    return [name for name in names if layers is None or layer_of(name) in layers]


def _linear(model: Any, config: Any) -> list[str]:
    linears = linear_modules(model)
    wanted = targets_of(model, linears, config.target_modules)
    return _in_layers(model, {name: one for name, one in linears.items() if _is_one_of(name, wanted)}, config)


def _norms(model: Any, config: Any) -> list[str]:
    kinds = {name: module for name, module in model.named_modules() if type(module).__name__.endswith("Norm")}
    return _in_layers(model, {name: one for name, one in kinds.items() if not name.startswith(POOLER)}, config)


def _scaled(model: Any, config: sections.Ia3) -> list[str]:
    kind = model.config.get_text_config().model_type
    wanted = config.target_modules or IA3_TARGETS.get(kind)
    if wanted is None:
        raise BaseError(
            f"adapter.target_modules: PEFT knows no usual ones of {kind} for ia3; name attention's keys and values and "
            "the last layer of the feed-forward part, and that last one in adapter.feedforward_modules too"
        )
    return _linear(model, config.model_copy(update={"target_modules": tuple(wanted)}))


def _feedforward(model: Any, config: sections.Ia3, places: list[str]) -> list[str]:
    kind = model.config.get_text_config().model_type
    usual = [] if config.target_modules else IA3_FEEDFORWARD.get(kind, [])
    wanted = config.feedforward_modules or usual
    strangers = [one for one in config.feedforward_modules or () if not any(is_called(name, one) for name in places)]
    if strangers:
        raise BaseError(f"adapter.feedforward_modules: {', '.join(strangers)} must be among adapter.target_modules")
    return [name for name in places if _is_one_of(name, wanted)]


def _where(model: Any, section: Any, places: list[str]) -> dict[str, Any]:
    """What PEFT's configuration says of the base. Raises BaseError where the section does not fit it."""
    if section.method in CHECKS:
        CHECKS[section.method](model, places, section)
    if isinstance(section, sections.Ia3):
        return {"target_modules": places, "feedforward_modules": _feedforward(model, section, places)}
    return {"target_modules": places}


def _is_one_of(path: str, names: Iterable[str]) -> bool:
    return any(is_called(path, name) for name in names)


def _check_ranks(model: Any, places: list[str], r: int, key: str = "r") -> None:
    linears = linear_modules(model)
    for name in places:
        check_rank(name, linears[name], r, key)


def _divides(model: Any, places: list[str], key: str, size: int) -> None:
    """Raise BaseError where blocks of that size do not fit; PEFT would take another size and say so by a warning."""
    for name in places:
        width = linear_modules(model)[name].in_features
        if width % size:
            raise BaseError(f"adapter.{key}: blocks of {size} do not divide the {width} inputs of {name}; take another")


def _check_butterfly(model: Any, places: list[str], section: sections.Boft) -> None:
    _divides(model, places, "boft_block_size", section.boft_block_size)
    if section.boft_n_butterfly_factor > 1 and get_fbd_cuda() is None:  # PEFT would take 1 and say so by a warning
        raise BaseError(
            f"adapter.boft_n_butterfly_factor: PEFT computes {section.boft_n_butterfly_factor} factors by its CUDA "
            "extension alone, which cannot be built here; it needs a GPU, nvcc and ninja. Leave the key out, for one"
        )


Places = Callable[[Any, Any], list[str]]
PLACES: dict[str, Places] = {
    "dora": _linear,
    "adalora": _linear,
    "ia3": _scaled,
    "oft": _linear,
    "boft": _linear,
    "vera": _linear,
    "miss": _linear,
    "ln_tuning": _norms,
}
CHECKS: dict[str, Callable[[Any, list[str], Any], None]] = {
    "dora": lambda model, places, section: _check_ranks(model, places, section.rank),
    "adalora": lambda model, places, section: _check_ranks(model, places, section.init_r, "init_r"),
    "oft": lambda model, places, section: _divides(model, places, "oft_block_size", section.oft_block_size),
    "boft": _check_butterfly,
}
"""What a base can be too small for."""
