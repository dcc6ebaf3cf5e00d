"""The `adapter` section of a recipe: one class for each method, chosen by `method`. Rules are those of `schema.py`.

Methods but `lora` and `head` are PEFT's own, with its names and default values.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from pefttune.recipe.types import Fraction, Indices, NonNegative, Number, Section, Switch, Texts, Whole

LARGEST_RANK = 1024
LEAST_RANK_BY_RULE = 8
_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def _top_or_indices(layers: str | tuple[int, ...] | None) -> str | tuple[int, ...] | None:
    if isinstance(layers, str) and not re.fullmatch(r"top-[1-9][0-9]*", layers):
        raise ValueError(f"{layers!r} is not `top-` and a number, such as top-8: the 8 layers nearest the output")
    return layers


def _parameters(value: Any) -> Any:
    """`500k` and `2M` as numbers."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([kmb]?)", value.strip().lower())
    if not found:
        raise ValueError(f"{value!r} is no number of parameters; write one such as 500k, 2M or 2000000")
    return round(float(found[1]) * _THOUSANDS[found[2]])


Rank = Annotated[Whole, Field(gt=0, le=LARGEST_RANK, description="Rank of the update matrices.")]
RankByRule = Annotated[
    Annotated[Whole, Field(gt=0, le=LARGEST_RANK)] | None,
    Field(
        description="Rank of the update matrices. By default the least of 8, 16, 32 … 256 that gives as many "
        "parameters as the training rows have labelled tokens (docs/defaults.md).",
        examples=[16],
    ),
]
Alpha = Annotated[
    Annotated[NonNegative, Field(le=65536)] | None,
    Field(
        description="Scale: the update is multiplied by lora_alpha / r. By default 2 · r, or 32 where `r` is left to "
        "its rule.",
        examples=[16],
    ),
]
Dropout = Annotated[Fraction, Field(description="Dropout on the adapter's input while training.")]
Targets = Annotated[
    Literal["all-linear"] | Texts,
    Field(
        description="Names of the modules to adapt, or `all-linear`: every linear layer below the output layer "
        "(“LoRA Without Regret”, thinkingmachines.ai, 2025).",
    ),
]
Layers = Annotated[
    str | Indices | None,
    AfterValidator(_top_or_indices),
    Field(
        description="The layers to adapt: `top-8`, the eight nearest the output, or indices from 0. By default all. "
        "Frozen layers below the lowest one need no backward pass, and are run once for each example "
        "(`training.cache_frozen_layers`).",
        examples=["top-8", [28, 29]],
    ),
]
RankStabilized = Annotated[Switch, Field(description="Scale by lora_alpha / √r instead (arXiv:2312.03732).")]


class Method(Section):
    """What all methods say of themselves."""

    not_on: ClassVar[tuple[str, ...]] = ()
    """Values of `base.quantization` with which the method does not work."""
    rate: ClassVar[tuple[float, str] | None] = None
    """A default learning rate of its own, and why; None where LoRA's rule serves (docs/defaults.md)."""
    method: str


class LowRank(Method):
    """A method that adds a product of two small matrices to a weight."""

    r: RankByRule = None
    lora_alpha: Alpha = None
    lora_dropout: Dropout = 0.0
    target_modules: Targets = "all-linear"
    layers: Layers = None
    use_rslora: RankStabilized = False

    @property
    def rank(self) -> int:
        """`r`, or the least that its rule gives where there are no rows to count."""
        return LEAST_RANK_BY_RULE if self.r is None else self.r


class OfWeights(Method):
    """Another method that changes weights."""

    target_modules: Targets = "all-linear"
    layers: Layers = None


class Lora(LowRank):
    """LoRA (arXiv:2106.09685)."""

    method: Literal["lora"] = Field(description="Low-rank updates of the base's layers (arXiv:2106.09685).")
    rank_pattern: dict[str, Annotated[Whole, Field(ge=0, le=LARGEST_RANK)]] = Field(
        default_factory=dict,
        description="Ranks of single modules that are not to have `r`: full path of the module → rank, 0 to leave it "
        "as it is. All modules are scaled alike, by lora_alpha / r.",
        examples=[{"model.layers.0.mlp.down_proj": 32}],
    )
    budget: Annotated[Annotated[Whole, Field(gt=0)] | None, BeforeValidator(_parameters)] = Field(
        None,
        description="Trainable parameters of the base's layers at most, such as 500k or 2M, in place of `r`. Ranks go "
        "where one more parameter explains most of what enters a layer, found out by a pass of training rows through "
        "the base (docs/defaults.md); they then stand in `rank_pattern`.",
        examples=["2M"],
        json_schema_extra={"unit": "parameters"},
    )
    init_lora_weights: Literal["default", "eva"] = Field(
        "default",
        description="How A begins; B is zero. `default`: at random. `eva`: along the leading directions of what enters "
        "the layer, found out by a pass of training rows through the base, and with ranks by what these explain "
        "(arXiv:2410.07170); the ranks then stand in `rank_pattern`.",
    )
    rho: Annotated[Number, Field(ge=1, le=16)] | None = Field(
        None,
        description="With `eva` or a `budget`, how many times the mean rank one module may get; 1 gives all the same. "
        "By default 2.",
        examples=[1],
        json_schema_extra={"unit": "times"},
    )

    @field_validator("budget")
    @classmethod
    def _ranks_are_given_once(cls, budget: int | None, info: ValidationInfo) -> int | None:
        given = [key for key in ("r", "rank_pattern") if info.data.get(key)]
        if budget is not None and given:
            raise ValueError(f"the ranks come from the budget, so leave out {' and '.join(given)}, or the budget")
        return budget

    @field_validator("rho")
    @classmethod
    def _ranks_are_measured(cls, rho: float | None, info: ValidationInfo) -> float | None:
        if rho is not None and info.data.get("budget") is None and info.data.get("init_lora_weights") != "eva":
            raise ValueError(
                "nothing asks for measured ranks: leave it out, or set `budget` or `init_lora_weights: eva`"
            )
        return rho


class Dora(LowRank):
    """DoRA (arXiv:2402.09353): LoRA of a weight's direction, and its magnitude, a number for each output."""

    not_on = ("int8",)  # PEFT cannot read the weights back whose magnitudes it wants (PEFT 0.21.2, on a CPU)
    method: Literal["dora"] = Field(
        description="LoRA of a weight's direction, and its magnitude as a number for each output (arXiv:2402.09353)."
    )


class Ia3(Method):
    """IA³ (arXiv:2205.05638): keys, values and the inner activations of the feed-forward layers, scaled."""

    rate = (5e-3, "PEFT's method comparison (MetaMathQA): 45.5 % at 5e-3, 39.8 % at 1e-3, 31.1 % at 1e-4")
    method: Literal["ia3"] = Field(
        description="A factor for each number that attention's keys and values and the feed-forward layer's inner "
        "activations have (arXiv:2205.05638)."
    )
    target_modules: Annotated[
        Texts | None,
        Field(description="Names of the modules whose numbers are scaled. By default what PEFT knows of the model."),
    ] = None
    feedforward_modules: Annotated[
        Texts | None,
        Field(
            description="Those of `target_modules` whose input is scaled instead of their output.",
            examples=[["down_proj"]],
        ),
    ] = None
    layers: Layers = None


class Oft(OfWeights):
    """OFT (arXiv:2306.07280, arXiv:2506.19847): weights turned by blocks that keep angles."""

    method: Literal["oft"] = Field(
        description="An orthogonal matrix, in blocks, that turns a layer's input (arXiv:2306.07280, arXiv:2506.19847)."
    )
    oft_block_size: Whole = Field(32, gt=1, description="Numbers that a block turns among themselves.")


class Boft(OfWeights):
    """BOFT (arXiv:2311.06243): OFT with a butterfly of factors."""

    method: Literal["boft"] = Field(
        description="Orthogonal matrices as a product of sparse factors, a butterfly (arXiv:2311.06243)."
    )
    boft_block_size: Whole = Field(4, gt=1, description="Numbers that a block turns among themselves.")
    boft_n_butterfly_factor: Whole = Field(1, gt=0, description="Factors of the butterfly.")


class Vera(OfWeights):
    """VeRA (arXiv:2310.11454): random matrices that all layers share, and two vectors of each layer that learn."""

    rate = (1e-3, "the rate of PEFT's method comparison (MetaMathQA), ten times its LoRA's")
    method: Literal["vera"] = Field(
        description="Random low-rank matrices, frozen and shared by all layers; only two vectors of each layer learn "
        "(arXiv:2310.11454)."
    )
    r: Annotated[Whole, Field(gt=0, le=4096, description="Rank of the update matrices.")] = 256


class Miss(OfWeights):
    """MiSS (arXiv:2409.15371): one small matrix, spread over a whole weight."""

    method: Literal["miss"] = Field(
        description="One small matrix for each layer, spread over its whole weight (arXiv:2409.15371)."
    )
    r: Annotated[Whole, Field(gt=0, le=1024, description="Rank of the update matrices.")] = 64


class LayerNorms(Method):
    """The weights of the normalizing layers (arXiv:2312.11420)."""

    rate = (5e-3, "they are factors, as those of ia3; in PEFT's method comparison (MetaMathQA) 1e-4 learned nothing")
    method: Literal["ln_tuning"] = Field(
        description="The weights of the layers that normalize, learned anew (arXiv:2312.11420)."
    )
    layers: Layers = None


class Head(Method):
    """The task's head alone, on the outputs of the frozen base (linear probing)."""

    rate = (1e-2, "one layer learns on fixed features; on BANKING77 1e-1 over 20 epochs gave 90.9 % (docs/LOG.md)")
    method: Literal["head"] = Field(
        description="The task's head alone; the frozen base's outputs are its features, computed once for each row "
        "(`training.cache_frozen_layers`)."
    )


AdapterSection = Lora | Dora | Ia3 | Oft | Boft | Vera | Miss | LayerNorms | Head
METHODS: dict[str, type[Method]] = {
    get_args(kind.model_fields["method"].annotation)[0]: kind for kind in get_args(AdapterSection)
}
"""The sections by the word that chooses them."""
