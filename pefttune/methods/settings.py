"""What PEFT's configuration of an adapter says that the recipe alone decides, whatever the base: the methods attach by
it, and what a stranger's configuration says is held against it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import peft
from peft.utils.constants import DUMMY_TARGET_MODULES

from pefttune.recipe import adapters as sections

NOWHERE = DUMMY_TARGET_MODULES
"""PEFT's word for no module at all."""

Settings = partial[Any]
"""A PeftConfig that waits for what the base says: where, and how large."""


def settings_of(section: sections.Method) -> Settings:
    """Those of a section whose method PEFT has."""
    return SETTINGS[section.method](section)


def _low_rank(section: sections.LowRank, **keys: Any) -> Settings:
    return partial(
        peft.LoraConfig,
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.lora_dropout,
        use_rslora=section.use_rslora,
        **keys,
    )


def _adalora(section: sections.AdaLora) -> Settings:
    return partial(
        peft.AdaLoraConfig,
        init_r=section.init_r,
        target_r=section.target_r,
        lora_alpha=2 * section.init_r if section.lora_alpha is None else section.lora_alpha,
        lora_dropout=section.lora_dropout,
        deltaT=section.deltaT,
        orth_reg_weight=section.orth_reg_weight,
        total_step=1,  # not known yet
    )


def _boft(section: sections.Boft) -> Settings:
    factors = {"boft_n_butterfly_factor": section.boft_n_butterfly_factor}
    return partial(peft.BOFTConfig, boft_block_size=section.boft_block_size, **factors)


def _p_tuning(section: sections.PTuning) -> Settings:
    return partial(
        peft.PromptEncoderConfig,
        num_virtual_tokens=section.num_virtual_tokens,
        num_transformer_submodules=1,
        encoder_reparameterization_type=section.encoder_reparameterization_type,
    )


def _virtual(kind: Callable[..., Any]) -> Callable[[sections.VirtualTokens], Settings]:
    # Of an encoder-decoder, the encoder alone.
    return lambda section: partial(kind, num_virtual_tokens=section.num_virtual_tokens, num_transformer_submodules=1)


SETTINGS: dict[str, Callable[[Any], Settings]] = {
    "lora": lambda section: _low_rank(section.stored()),
    "dora": lambda section: _low_rank(section, use_dora=True),
    "adalora": _adalora,
    "ia3": lambda section: partial(peft.IA3Config),
    "oft": lambda section: partial(peft.OFTConfig, r=0, oft_block_size=section.oft_block_size),
    "boft": _boft,
    "vera": lambda section: partial(peft.VeraConfig, r=section.r, save_projection=False),
    "miss": lambda section: partial(peft.MissConfig, r=section.r),
    "ln_tuning": lambda section: partial(peft.LNTuningConfig),
    "prompt_tuning": _virtual(peft.PromptTuningConfig),
    "p_tuning": _p_tuning,
    "prefix_tuning": _virtual(peft.PrefixTuningConfig),
    "trainable_tokens": lambda section: partial(peft.TrainableTokensConfig),
    "head": lambda section: partial(peft.LoraConfig, target_modules=NOWHERE),
}
