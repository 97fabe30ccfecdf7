"""DubberNet: a ViT over frames that hears (teacher), learned from one that hears (student), or neither (baseline).

In:      Batch.   Out: Outputs.
Source:  specs/dubbernet.md sections 4 and 5. Ours: an audio encoder that is trained with the teacher (section 3.1), and only
parameters that are used (section 9, B12): the head's block is the last of `depth`, not a copy beside it.

Where each equation of the specification lives:

    3.1  A, audio tokens of a clip                     blocks/audio_tokens.py, `DubberNet.hear`
    4.1  X_0 = [cls ; PatchEmb(I)] + P + 3 C[cam]      blocks/vit.py, FrameTokens
    4.1  X_i = Block_i(X_{i-1}), then fusion           DubberNet.forward
    4.3  steps 1 to 4 (SI), and section 10's others    blocks/injection.py; steps 2 and 3: blocks/attention.py
    4.4  Z, g, f, logits                               blocks/head.py, blocks/neck.py
    4.5  temporal attention; TCSS and parts            blocks/temporal.py; blocks/local_branch.py
    5.1  steps 1 to 3 (SP)                             blocks/perception.py; step 1: blocks/attention.py
    5.2  MG                                            blocks/mask.py, outside the network (registry.mask_generators)
    5.3  losses                                        train/losses/distill.py
"""

# B clips, T frames per clip, N tokens per frame (CLS first), D width, L audio tokens

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from model.api import Network, Outputs
from model.blocks.audio_tokens import audio_encoder, heard_by_frames
from model.blocks.chance import DropPath
from model.blocks.head import Head
from model.blocks.injection import INJECTIONS
from model.blocks.local_branch import LocalBranch
from model.blocks.perception import Perception
from model.blocks.vit import FrameTokens, patch_grid, transformer_block
from model.ranks import rand
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
        kind: str,
        classes: int,
        cameras: int,
        bands: int,
        height: int,
        width: int,
        frames: int,
    ) -> None:
        """
        Args:
            config: sizes and switches; `drop_path` rises linearly over all `depth` blocks, the head's being the last.
            fusion: what follows the blocks of `config.fusion_after_blocks`.
            kind, bands: kind of the companion and width of its frames; only 'injection' needs them.
            classes: training identities K, at least 1.
            cameras: size of the camera table, at least 1; not used when `config.camera_scale` is 0.
            height, width: pixels of a frame.
            frames: T; clips may have any number of frames but with the local branch, which is built for exactly T.

        Raises:
            ConfigError: no network can be made of these numbers; says why.
        """
        super().__init__(
            hears=fusion == "injection",
            kind=kind,
            classes=classes,
            cameras=cameras if config.camera_scale else 0,
            bands=bands,
            height=height,
            width=width,
            frames=frames if config.local_branch else 0,
        )
        if cameras < 1:
            raise ConfigError(f"cameras={cameras}: a network needs at least one camera; check the tracklets")
        rates = [config.drop_path * i / (config.depth - 1) for i in range(config.depth)]
        blocks = [transformer_block(config.width, config.heads, config.mlp_ratio) for _ in rates]
        grid = patch_grid(height, width, config.patch, config.stride)

        self.audio_dropout = config.audio_dropout
        self.taps = frozenset(config.fusion_after_blocks)
        self.embedding = FrameTokens(grid, config.width, config.patch, config.stride, cameras, config.camera_scale)
        self.blocks = nn.ModuleList(blocks[:-1])
        self.drop_path = DropPath(rates)
        self.head = Head(blocks[-1], config.width, classes, weigh_frames=config.pool == "attention")
        self.fusion = nn.ModuleDict()  # by index of the block that it follows
        if fusion == "injection":
            adapter_width = max(1, int(config.width * config.adapter_ratio))
            self.audio = audio_encoder(kind, bands, config.width, config.audio_tokens)
            for i in config.fusion_after_blocks:
                self.fusion[str(i)] = INJECTIONS[config.injection](config.width, config.heads, adapter_width, config.fusion_zero_init)
        elif fusion == "perception":
            for i in config.fusion_after_blocks:
                self.fusion[str(i)] = Perception(config.width, config.heads, config.fusion_zero_init)
        self.local = None
        if config.local_branch:
            self.local = LocalBranch(config.width, config.heads, config.mlp_ratio, frames, grid[0] * grid[1], classes)

    def forward(self, batch: Batch) -> Outputs:
        """All clips of the batch; a network that does not hear never looks at `batch.companions`."""
        self.check(batch)
        clip = batch.frames.shape[1]
        heard = [self.hear(batch.companions[self.kind])] if self.hears else []
        tokens = self.embedding(batch.frames.flatten(0, 1), batch.camera.repeat_interleave(clip))  # 4.1: X_0

        taps_attn, taps_fused = [], []
        *kept, kept_in_head = self.drop_path(len(tokens))
        for i, block in enumerate(self.blocks):
            tokens = block(tokens, kept[i])  # 4.1: X_i = Block_i(X_{i-1}); i counts from 0 here
            if str(i) in self.fusion:
                attn, tokens = self.fusion[str(i)](tokens, *heard)  # 4.3 (teacher) or 5.1 (student)
                taps_attn.append(attn)
            if i in self.taps:
                taps_fused.append(tokens)

        feat, feat_bn, logits, attention = self.head(tokens, clip, kept_in_head)  # 4.4
        out = Outputs(logits, feat, feat_bn, taps_attn, taps_fused, attention)
        if self.local is not None:
            out.local_feats, out.local_feats_bn, out.local_logits = self.local(tokens)  # 4.5
        return out

    def forget_cameras(self) -> None:
        """Unknown cameras count as the mean of those that were learned (specs/dubbernet.md, B30). Once done, it stays so."""
        self.embedding.forget_cameras()
        super().forget_cameras()

    def hear(self, companion: Companion) -> Tensor:
        """3.1: audio tokens of every frame, [B*T, L, D]; each distinct item is encoded once.

        In training each clip hears nothing with the chance `audio_dropout`, drawn as model/ranks.py says.
        """
        tokens_NLD = self.audio(companion.values, companion.lengths)
        align_BT = companion.align
        if self.training and self.audio_dropout:
            deaf_B = rand(len(align_BT), device=align_BT.device) < self.audio_dropout
            align_BT = align_BT.masked_fill(deaf_B[:, None], -1)
        return heard_by_frames(tokens_NLD, align_BT)
