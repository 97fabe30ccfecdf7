"""DubberNet: a ViT over frames that hears (teacher), learned from one that hears (student), or neither (baseline).

In:      Batch.   Out: Outputs.
Source:  specs/dubbernet.md sections 4 and 5.1. Ours: an audio encoder that is trained with the teacher (section 3.1), and
only parameters that are used (section 9, B12): the head's block is the last of `depth`, not a copy beside it.
"""

# B clips, T frames per clip, N tokens per frame (CLS first), D width, L audio tokens

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from model.api import Network, Outputs, normalise
from model.blocks.audio_tokens import LogMelTokens
from model.blocks.head import Head
from model.blocks.injection import Injection
from model.blocks.perception import Perception
from model.blocks.vit import FrameTokens, patch_grid, transformer_block
from pipeline.base.batch import Batch, Companion
from pipeline.base.config import ModelConfig
from pipeline.base.errors import ConfigError


class DubberNet(Network):
    """Teacher (fusion 'injection'), student ('perception') and visual baseline ('none') in one shape."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        fusion: Literal["injection", "perception", "none"],
        classes: int,
        cameras: int,
        bands: int,
        height: int,
        width: int,
    ) -> None:
        """
        Args:
            config: sizes; `drop_path` rises linearly over all `depth` blocks, the head's being the last.
            fusion: what follows the blocks of `config.fusion_after_blocks`.
            classes: training identities K, at least 1.
            cameras: size of the camera table, at least 1; not used when `config.camera_scale` is 0.
            bands: mel bands of the companion; only 'injection' needs it.
            height, width: pixels of a frame.
        """
        super().__init__(
            kind="audio" if fusion == "injection" else "",
            cameras=cameras if config.camera_scale else 0,
            bands=bands if fusion == "injection" else 0,
            height=height,
            width=width,
        )
        if classes < 1 or cameras < 1:
            raise ConfigError(
                f"classes={classes}, cameras={cameras}: a network needs at least one of each; check the split and the tracklets"
            )
        if self.hears and bands < 1:
            raise ConfigError(f"bands={bands}: the network hears audio; set `companion` of the method to a companion of kind 'audio'")
        rates = [config.drop_path * i / (config.depth - 1) for i in range(config.depth)]
        blocks = [transformer_block(config.width, config.heads, config.mlp_ratio, rate) for rate in rates]
        grid = patch_grid(height, width, config.patch, config.stride)

        self.embedding = FrameTokens(grid, config.width, config.patch, config.stride, cameras, config.camera_scale)
        self.blocks = nn.ModuleList(blocks[:-1])
        self.head = Head(blocks[-1], config.width, classes)
        self.fusion = nn.ModuleDict()  # by index of the block that it follows
        if fusion == "injection":
            adapter_width = max(1, int(config.width * config.adapter_ratio))
            self.audio = LogMelTokens(bands, config.width, config.audio_tokens)
            self.fusion.update({str(i): Injection(config.width, config.heads, adapter_width) for i in config.fusion_after_blocks})
        elif fusion == "perception":
            self.fusion.update({str(i): Perception(config.width, config.heads) for i in config.fusion_after_blocks})

    def forward(self, batch: Batch) -> Outputs:
        """All clips of the batch; a network that does not hear never looks at `batch.companions`."""
        self.check(batch)
        clip = batch.frames.shape[1]
        heard = [self.hear(batch.companions[self.kind])] if self.hears else []
        tokens = self.embedding(normalise(batch.frames), batch.camera.repeat_interleave(clip))

        taps_attn, taps_fused = [], []
        for i, block in enumerate(self.blocks):
            tokens = block(tokens)
            if str(i) in self.fusion:
                attn, tokens = self.fusion[str(i)](tokens, *heard)
                taps_attn.append(attn)
                taps_fused.append(tokens)

        feat, feat_bn, logits = self.head(tokens, clip)
        return Outputs(logits, feat, feat_bn, taps_attn, taps_fused)

    def hear(self, companion: Companion) -> Tensor:
        """Audio tokens of every frame, [B*T, L, D]; each distinct item is encoded once.

        A frame without an item (align -1) hears L zero vectors. That is not silence, which is encoded like any other
        sound: after the injection's LayerNorm it is one constant vector that the injection can learn.
        """
        tokens_NLD = self.audio(companion.values, companion.lengths)
        nothing = tokens_NLD.new_zeros(1, *tokens_NLD.shape[1:])
        return torch.cat([tokens_NLD, nothing])[companion.align.flatten()]  # index -1 is the last row: nothing
