"""The `adapter` section of a recipe: one class for each method, chosen by `method`. Rules are those of `schema.py`.

Methods but `lora`, `bottleneck` and `head` are PEFT's own, with its names and default values.
"""

from __future__ import annotations

import math
import operator
import re
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from pefttune.recipe.extensions import sections_of_others
from pefttune.recipe.types import Fraction, Indices, NonNegative, Number, Section, Switch, Texts, Whole

LARGEST_RANK = 1024
LARGEST_ALPHA = 65536
LEAST_RANK_BY_RULE = 8
_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def _top_or_indices(layers: str | tuple[int, ...] | None) -> str | tuple[int, ...] | None:
    if isinstance(layers, str) and not re.fullmatch(r"top-[1-9][0-9]{0,5}", layers):
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
    Annotated[NonNegative, Field(le=LARGEST_ALPHA)] | None,
    Field(
        description="Scale: the update is multiplied by lora_alpha / r (adalora: init_r). By default 2 · r, or 32 "
        "where `r` is left to its rule.",
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
Beginning = Literal["default", "gaussian", "pissa", "pissa_niter_16", "olora", "eva", "corda", "loftq"]
RankStabilized = Annotated[Switch, Field(description="Scale by lora_alpha / √r instead (arXiv:2312.03732).")]


# Initial values that are made of the weight, and change what the model computes.
OF_THE_WEIGHT = ("pissa", "pissa_niter_16", "olora")
# Those for which a pass of training rows through the base finds out what enters the layers.
OF_THE_INPUTS = ("eva", "corda")
# Those that a frozen half takes back, so that the adapter begins as the base.
TAKEN_BACK = (*OF_THE_WEIGHT, "corda")
# Those that are divided by the scale.
DIVIDED = (*TAKEN_BACK, "loftq")


# The run makes sure in its first two steps that each tensor learns.
LEAST_TINIT = 2
MOST_MEMBERS = 64


class Method(Section):
    """What all methods say of themselves. One of another package has a classmethod `adapter_class()`, which gives the
    class of its adapters."""

    not_on: ClassVar[tuple[str, ...]] = ()
    """Values of `base.quantization` with which the method does not work."""
    in_peft: ClassVar[bool] = True
    """Whether plain PEFT reads such an adapter."""
    rate: ClassVar[tuple[float, str] | None] = None
    """A default learning rate of its own, and why; None where LoRA's rule serves (docs/defaults.md)."""
    method: str

    def stored(self) -> Method:
        """The section of what is saved, by which it is attached again."""
        return self


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

    @property
    def alpha(self) -> float:
        """`lora_alpha`, or its default."""
        return 2 * self.rank if self.lora_alpha is None else self.lora_alpha

    @property
    def times(self) -> int:
        """How many times its ranks those are of what is saved."""
        return 1


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
        "as it is. All modules are scaled alike, by lora_alpha / r, but for those of `alpha_pattern`.",
        examples=[{"model.layers.0.mlp.down_proj": 32}],
    )
    alpha_pattern: dict[str, Annotated[NonNegative, Field(le=LARGEST_ALPHA)]] = Field(
        default_factory=dict,
        description="`lora_alpha` of single modules that are not to be scaled as the others: full path of the module → "
        "its own, which is divided by its own rank.",
        examples=[{"model.layers.0.mlp.down_proj": 64}],
    )
    budget: Annotated[Annotated[Whole, Field(gt=0)] | None, BeforeValidator(_parameters)] = Field(
        None,
        description="Trainable parameters of the base's layers at most, such as 500k or 2M, in place of `r`. Ranks go "
        "where one more parameter explains most of what enters a layer, found out by a pass of training rows through "
        "the base (docs/defaults.md); they then stand in `rank_pattern`.",
        examples=["2M"],
        json_schema_extra={"unit": "parameters"},
    )
    init_lora_weights: Beginning = Field(
        "default",
        description="Where A and B begin. `default`: A at random, B at zero; `gaussian`: likewise, A normal; `eva`: B "
        "at zero, A along the leading directions of what enters the layer, found out by a pass of training rows "
        "through the base, ranks by what these explain (arXiv:2410.07170), which then stand in `rank_pattern`; "
        "`pissa`: the weight's principal components (arXiv:2404.02948), or nearly these by a fast SVD, "
        "`pissa_niter_16`; `olora`: its QR decomposition (arXiv:2406.01775); `corda`: the components of the weight "
        "that matter most for what enters the layer, found out as for `eva` (arXiv:2406.05223). The last four are "
        "saved as a LoRA of rank 2 · r, whose second half takes the beginning back: the base never changes. `loftq`, "
        "on a quantized base: the principal components of what quantization took away (arXiv:2310.08659), so that the "
        "adapter begins nearer to the model before quantization.",
    )
    rho: Annotated[Number, Field(ge=1, le=16)] | None = Field(
        None,
        description="With `eva` or a `budget`, how many times the mean rank one module may get; 1 gives all the same. "
        "By default 2.",
        examples=[1],
        json_schema_extra={"unit": "times"},
    )
    loraplus_lr_ratio: Annotated[Number, Field(ge=1, le=1024)] = Field(
        1.0,
        description="How many times as fast as A B learns: the learning rate is A's (LoRA+, arXiv:2402.12354, which "
        "takes 16).",
        json_schema_extra={"unit": "times"},
    )
    warm_start: str | None = Field(
        None,
        description="Begin with the weights of this adapter of `output.store`, of the same base and shape, name or "
        "name@version; with its head, too, where the labels are the same. By default with new ones.",
        examples=["film-sentiment"],
    )

    @field_validator("alpha_pattern")
    @classmethod
    def _scaled_are_adapted(cls, alphas: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        ranks = info.data.get("rank_pattern", {})
        if left_alone := [name for name in alphas if ranks.get(name) == 0]:
            raise ValueError(
                f"{left_alone[0]} has rank 0 in rank_pattern, which leaves it as it is, so that there is nothing to "
                "scale; leave it out here, or give it a rank"
            )
        return alphas

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

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if self.warm_start is not None and self.init_lora_weights != "default":
            raise ValueError(
                f"`init_lora_weights: {self.init_lora_weights}` and `warm_start` both say where A and B begin; leave "
                "one of them out"
            )
        return self

    @model_validator(mode="after")
    def _scale_of_a_decomposition(self) -> Self:
        if 0 in (self.lora_alpha, *self.alpha_pattern.values()) and self.init_lora_weights in DIVIDED:
            raise ValueError(
                f"`init_lora_weights: {self.init_lora_weights}` divides by the scale, which `lora_alpha: 0` makes 0; "
                "take another lora_alpha, or leave it out"
            )
        return self

    @property
    def times(self) -> int:
        """Twice where what was frozen at first is saved, too."""
        return 2 if self.init_lora_weights in TAKEN_BACK else 1

    def stored(self) -> Self:
        """One that begins anyhow, for it is given weights; of `times` the ranks and the same scale."""
        if self.times == 1:
            return self.model_copy(update={"init_lora_weights": "default"})
        factor = math.sqrt(self.times) if self.use_rslora else self.times
        whole = {
            "r": self.times * self.rank,
            "rank_pattern": {name: self.times * r for name, r in self.rank_pattern.items()},
            "lora_alpha": self.alpha * factor,
            "alpha_pattern": {name: alpha * factor for name, alpha in self.alpha_pattern.items()},
            "init_lora_weights": "default",
        }
        return self.model_copy(update=whole)


class Dora(LowRank):
    """DoRA (arXiv:2402.09353): LoRA of a weight's direction, and its magnitude, a number for each output."""

    not_on = ("int8",)  # PEFT cannot read the weights back whose magnitudes it wants (PEFT 0.21.2, on a CPU)
    method: Literal["dora"] = Field(
        description="LoRA of a weight's direction, and its magnitude as a number for each output (arXiv:2402.09353)."
    )


class AdaLora(OfWeights):
    """AdaLoRA (arXiv:2303.10512): LoRA whose ranks go where they matter."""

    method: Literal["adalora"] = Field(
        description="LoRA that begins with more rank than it keeps, and cuts what matters least (arXiv:2303.10512)."
    )
    init_r: Whole = Field(12, gt=0, le=1024, description="Rank of the update matrices at first.")
    target_r: Whole = Field(8, gt=0, le=1024, description="Mean rank of the update matrices in the end.")
    lora_alpha: Alpha = None
    lora_dropout: Dropout = 0.0
    tinit: Whole | None = Field(
        None,
        ge=LEAST_TINIT,
        description="Optimizer steps before the first cut. By default a tenth of the run.",
        examples=[100],
        json_schema_extra={"unit": "optimizer steps"},
    )
    tfinal: Whole | None = Field(
        None,
        ge=0,
        description="Optimizer steps after the last cut. By default half of the run.",
        examples=[300],
        json_schema_extra={"unit": "optimizer steps"},
    )
    deltaT: Whole = Field(
        1, gt=0, description="Optimizer steps from one cut to the next.", json_schema_extra={"unit": "optimizer steps"}
    )
    orth_reg_weight: NonNegative = Field(
        0.5,
        le=LARGEST_ALPHA,
        description="Weight of a term in the loss that keeps the components of an update orthogonal.",
    )

    @model_validator(mode="after")
    def _has_something_to_cut(self) -> Self:
        if self.target_r >= self.init_r:
            raise ValueError(
                f"target_r ({self.target_r}) must be below init_r ({self.init_r}), or there is nothing to cut: take "
                "`method: lora` for ranks that stay"
            )
        return self


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
    boft_n_butterfly_factor: Whole = Field(1, gt=0, le=16, description="Factors of the butterfly.")


class Vera(OfWeights):
    """VeRA (arXiv:2310.11454): random matrices that all layers share, and two vectors of each layer that learn."""

    rate = (1e-3, "the rate of PEFT's method comparison (MetaMathQA), ten times its LoRA's")
    method: Literal["vera"] = Field(
        description="Random low-rank matrices, frozen and shared by all layers; only two vectors of each layer learn "
        "(arXiv:2310.11454)."
    )
    r: Annotated[Whole, Field(gt=0, le=2 * LARGEST_RANK, description="Rank of the update matrices.")] = 256


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


class Bottleneck(Method):
    """Bottleneck adapters (arXiv:1902.00751): two small layers with a non-linearity between, in every block."""

    in_peft = False
    method: Literal["bottleneck"] = Field(
        description="Two small layers with a non-linearity between, beside or behind the base's own: adapters by "
        "Houlsby (arXiv:1902.00751), Pfeiffer (arXiv:2005.00247), He (arXiv:2110.04366)."
    )
    placement: Literal["houlsby", "pfeiffer", "parallel"] = Field(
        "parallel",
        description="Where they are in a layer. `parallel`: from the feed-forward part's input to its output; "
        "`pfeiffer`: behind the feed-forward part; `houlsby`: behind that and behind attention.",
    )
    reduction_factor: Whole = Field(
        16, gt=0, description="The width of the base's hidden states over that of the bottleneck."
    )
    non_linearity: Literal["relu", "gelu", "silu", "tanh"] = Field("silu", description="Between the two layers.")
    scaling: Annotated[Number, Field(gt=0, le=LARGEST_ALPHA)] | None = Field(
        None,
        description="What their output is multiplied by. By default 1, and 4 for `parallel` (arXiv:2110.04366).",
        examples=[4.0],
    )
    dropout: Fraction = Field(0.0, description="Dropout between the two layers while training.")
    layers: Layers = None


class VirtualTokens(Method):
    """A method that puts virtual tokens before every text."""

    num_virtual_tokens: Whole = Field(
        20,
        gt=0,
        le=1024,
        description="Virtual tokens before every text. They take positions of the base besides `data.max_length`.",
    )


class PromptTuning(VirtualTokens):
    """Prompt tuning (arXiv:2104.08691): learned vectors before every text."""

    method: Literal["prompt_tuning"] = Field(
        description="Learned vectors before every text, as if these were tokens (arXiv:2104.08691)."
    )
    prompt_tuning_init: Literal["sample_vocab", "text", "random"] = Field(
        "sample_vocab",
        description="Where the vectors begin: at tokens drawn from the vocabulary, at those of "
        "`prompt_tuning_init_text`, or at numbers drawn from a normal distribution, which learns worst.",
    )
    prompt_tuning_init_text: str | None = Field(
        None,
        description="What the vectors say at first, repeated or cut to their number.",
        examples=["Is this review good or bad?"],
    )

    @model_validator(mode="after")
    def _has_its_text(self) -> PromptTuning:
        text, wanted = self.prompt_tuning_init_text, self.prompt_tuning_init == "text"
        if wanted and not (text or "").strip():
            raise ValueError("`prompt_tuning_init: text` needs words to begin with: set `prompt_tuning_init_text`")
        if text is not None and not wanted:
            raise ValueError("`prompt_tuning_init_text` is read with `prompt_tuning_init: text` only; set that, too")
        return self

    def stored(self) -> PromptTuning:
        """Vectors that begin anyhow."""
        return self.model_copy(update={"prompt_tuning_init": "sample_vocab", "prompt_tuning_init_text": None})


class PTuning(VirtualTokens):
    """P-tuning (arXiv:2103.10385): vectors before every text that a small network makes, while it is trained."""

    method: Literal["p_tuning"] = Field(
        description="Learned vectors before every text, which a small network makes while it is trained "
        "(arXiv:2103.10385)."
    )
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = Field(
        "MLP", description="The network: three layers for each vector, or an LSTM over all of them before these."
    )
    encoder_hidden_size: Whole | None = Field(
        None, gt=0, le=16384, description="Width inside the network. By default that of the base.", examples=[128]
    )

    def stored(self) -> PromptTuning:
        """What the network has made."""
        return PromptTuning(method="prompt_tuning", num_virtual_tokens=self.num_virtual_tokens)


class PrefixTuning(VirtualTokens):
    """Prefix tuning (arXiv:2101.00190): learned keys and values of virtual tokens, in every layer."""

    method: Literal["prefix_tuning"] = Field(
        description="Learned keys and values before every text, in every layer of a decoder (arXiv:2101.00190)."
    )


class TrainableTokens(Method):
    """A few tokens, of the vocabulary or new, embedded anew."""

    method: Literal["trainable_tokens"] = Field(
        description="The vectors of a few tokens, new ones too, and in the output layer, where it is tied to them."
    )
    tokens: Texts = Field(
        description="The tokens, as the base's vocabulary names them. Those it lacks are added to a copy of the "
        "tokenizer, which is this adapter's own (docs/prompts.md).",
        examples=[["<|reserved_special_token_0|>"]],
    )


def _several(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) < 2:
        raise ValueError("a fusion weighs two adapters at least: name another one")
    if len(names) > MOST_MEMBERS:
        raise ValueError(f"a fusion weighs {MOST_MEMBERS} adapters at most, and these are {len(names)}")
    return names


class Fusion(Method):
    """AdapterFusion (arXiv:2005.00247): stored adapters, frozen, whose updates are weighed for each token."""

    in_peft = False
    method: Literal["fusion"] = Field(
        description="Stored LoRA adapters, frozen; learned is how much of each a token gets, in every layer, by "
        "attention (AdapterFusion, arXiv:2005.00247)."
    )
    adapters: Annotated[Texts, AfterValidator(_several)] = Field(
        description="The adapters to weigh, of `output.store` and of the recipe's base, by name or name@version. They "
        "are saved with the new one, which needs none of them afterwards.",
        examples=[["film-sentiment", "product-sentiment"]],
    )
    r: Whole = Field(2, gt=0, le=LARGEST_RANK, description="Width of queries and keys.")
    members: tuple[Lora, ...] = Field(
        (),
        max_length=MOST_MEMBERS,
        description="The `adapter` sections of those adapters. A run takes them from the store and notes them in its "
        "resolved recipe; they need not be given.",
        examples=[[{"method": "lora", "r": 2}, {"method": "lora", "r": 4}]],
    )


class Head(Method):
    """The task's head alone, on the outputs of the frozen base (linear probing)."""

    rate = (1e-2, "one layer learns on fixed features; on BANKING77 1e-1 over 20 epochs gave 90.9 % (docs/LOG.md)")
    method: Literal["head"] = Field(
        description="The task's head alone; the frozen base's outputs are its features, computed once for each row "
        "(`training.cache_frozen_layers`)."
    )


AdapterSection = (
    Lora
    | Dora
    | AdaLora
    | Ia3
    | Oft
    | Boft
    | Vera
    | Miss
    | LayerNorms
    | PromptTuning
    | PTuning
    | PrefixTuning
    | TrainableTokens
    | Bottleneck
    | Fusion
    | Head
)
METHODS: dict[str, type[Method]] = {
    get_args(kind.model_fields["method"].annotation)[0]: kind for kind in get_args(AdapterSection)
}
"""The sections by the word that chooses them, those of other packages too."""
if not TYPE_CHECKING:  # which knows no other package
    METHODS |= sections_of_others(Method, METHODS)
    AdapterSection = reduce(operator.or_, METHODS.values())
