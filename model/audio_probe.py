"""A network that only hears: how far does a voice alone tell identities apart?

In:      Batch; of its frames only the size is looked at.   Out: Outputs without taps.
Source:  control of specs/dubbernet.md section 7.4. Where voices were allotted by label it shows the leak, and how much of it a
teacher may have learned instead of looks; it is no re-identification.
"""

# B clips, T frames per clip, L audio tokens, D width

from __future__ import annotations

from torch import nn

from model.api import Network, Outputs
from model.blocks.audio_tokens import audio_encoder, heard_by_frames
from model.blocks.neck import bnneck, classifier, classify
from pipeline.base.batch import Batch
from pipeline.base.config import ModelConfig


class AudioProbe(Network):
    """The teacher's audio tokens (parameters `audio.*`, as there), averaged over L and over the frames, then its kind of head.

    `audio_dropout` is the teacher's: here it would leave nothing to learn from.
    """

    def __init__(self, config: ModelConfig, *, kind: str, classes: int, cameras: int, bands: int, height: int, width: int) -> None:
        """
        Args:
            config: `width` and `audio_tokens` are used.
            kind, bands: the companion it hears.
            classes: training identities K, at least 1.
            cameras: not used.
            height, width: pixels of a frame.
        """
        super().__init__(hears=True, kind=kind, classes=classes, cameras=0, bands=bands, height=height, width=width)
        self.audio = audio_encoder(kind, bands, config.width, config.audio_tokens)
        self.norm = nn.LayerNorm(config.width, bias=False)  # the BNNeck would take a bias out again
        self.neck = bnneck(config.width)
        self.classifier = classifier(config.width, classes)

    def forward(self, batch: Batch) -> Outputs:
        """All clips of the batch; a frame that hears nothing counts as zero vectors."""
        self.check(batch)
        companion = batch.companions[self.kind]
        heard = heard_by_frames(self.audio(companion.values, companion.lengths), companion.align)
        voice_BD = heard.float().mean(1).unflatten(0, companion.align.shape).mean(1)
        feat = self.norm(voice_BD)
        feat_bn, logits = classify(self.neck, self.classifier, feat)
        return Outputs(logits, feat, feat_bn)
