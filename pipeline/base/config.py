"""All settings of dubtrack: defaults, units, reasons and range checks. YAML holds only what differs.

Layers, lowest first: the classes below, ``workflow/config/*.yaml``, ``--configfile``, ``--config``.
``workflow/schemas/config.schema.json`` is generated from this file (``make schema``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.base.build import lay_over
from pipeline.base.errors import ConfigError, did_you_mean

NAME = re.compile(r"[a-z][a-z0-9_]*")
"""Names of data sets, voices, companions, methods, stages: they become parts of paths, split at '-'."""

Protocol = Literal["market", "mars_torchreid", "mars_official", "mars_merged", "two_camera", "pid_only"]
"""Names of evaluate/protocols.py, here so that a misspelt one is found before anything is trained."""

Network = Literal["dubbernet_teacher", "dubbernet_student", "dubbernet_visual", "audio_probe"]
"""Names of model/registry.py, for the same reason."""

HEARING = ("dubbernet_teacher", "audio_probe")
"""Networks that read a companion, whatever is done with them."""

SOURCE_LISTS = {
    "mars": ("info/tracks_train_info.mat", "info/tracks_test_info.mat", "info/query_IDX.mat"),
    "ilidsvid": ("train-test people splits/train_test_splits_ilidsvid.mat", "splits.json"),
    "prid2011": ("splits_prid2011.json", "../splits_prid2011.json", "prid_2011/splits_prid2011.json"),
    "manifest": ("tracklets.csv", "tracklets.jsonl"),
    "common_voice": ("clip_durations.tsv", "times.txt"),
}
"""Files, relative to the root (of voices: beside their table), that say what a source holds. Where they are there, they are
inputs of the steps that read it: an edited list is read again. The grammars know what is in them (a test compares)."""

SPLIT_NAME = re.compile(r"[a-z0-9_]+")


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ConfigError(message)


def _place(root: str) -> str:
    """The folder that a root means, whatever it is called: '~', '.', '..', doubled or final slashes, links."""
    try:
        return str(Path(root).expanduser().resolve())
    except (ValueError, RuntimeError):  # a name that no file can have, a user whom nobody knows, links in a ring
        return root


def _require_known(name: str, known: Collection[str], message: str) -> None:
    """Looks for the nearest known name only when it is needed: that takes longer than all other checks."""
    if name not in known:
        raise ConfigError(message + did_you_mean(name, filter(None, known)))


# --- media -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class FramesConfig:
    """How one frame is stored in a shard."""

    height: int = 256
    """Pixels. A source JPEG of exactly height x width is packed byte for byte."""
    width: int = 128
    """Pixels."""
    quality: int = 95
    """JPEG quality of frames that have to be resized (bicubic) and encoded once."""
    broken: Literal["stop", "drop"] = "stop"
    """stop: a broken frame ends the step with the list of all broken ones; drop: it is left out and listed."""
    check: bool = False
    """Decode every frame once before it is packed, also those that are packed byte for byte (0.5 ms each): damage that would end a
    training in its middle is then found, and named, when shards are made."""

    def __post_init__(self) -> None:
        _require(self.height >= 16 and self.width >= 16, f"height={self.height}, width={self.width}: at least 16 pixels each")
        _require(1 <= self.quality <= 100, f"quality={self.quality}: must be in 1..100")


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioConfig:
    """How one voice clip becomes a log-mel picture: mono, soxr HQ to `rate`, power mel bands, natural logarithm."""

    rate: int = 16000
    """Samples per second after resampling."""
    window: int = 400
    """Samples per Hann window (25 ms at 16 kHz)."""
    hop: int = 160
    """Samples between window starts (10 ms at 16 kHz)."""
    n_fft: int = 512
    """Samples per Fourier transform; the window is zero-padded to it."""
    bands: int = 80
    """Mel bands: the last axis of the feature. A filter bank with an empty filter is refused."""
    low_hz: float = 20.0
    """Lower edge of the lowest band."""
    high_hz: float = 7600.0
    """Upper edge of the highest band. Resamplers differ above: keep some distance to rate / 2."""
    floor: float = 1e-10
    """Power below which the logarithm is cut off."""
    max_seconds: float = 5.0
    """Longer clips are cut to this length around their centre before they are stored."""
    min_seconds: float = 0.5
    """Shorter clips are quarantined."""
    silence_dbfs: float = -60.0
    """Clips whose root mean square is below this level are quarantined as silent."""
    table_tolerance: float = 0.035
    """Seconds by which a clip may be shorter than the table of durations says; more is truncated. Less than an MPEG frame at 32 kHz
    (36 ms), because a cut takes whole frames; more than the encoder's delay (1,105 samples), which some decoders count as sound."""

    def __post_init__(self) -> None:
        _require(0 < self.hop <= self.window, f"hop={self.hop}: must be in 1..window={self.window}, else samples are skipped")
        _require(self.window <= self.n_fft, f"n_fft={self.n_fft}: must be at least window={self.window}")
        _require(
            0 <= self.low_hz < self.high_hz <= self.rate / 2,
            f"low_hz={self.low_hz}, high_hz={self.high_hz}: need 0 <= low < high <= rate/2={self.rate / 2}",
        )
        _require(self.bands >= 1, f"bands={self.bands}: at least 1")
        _require(0 < self.min_seconds <= self.max_seconds, f"min_seconds={self.min_seconds}: must be in 0..max_seconds={self.max_seconds}")
        _require(self.table_tolerance >= 0, f"table_tolerance={self.table_tolerance}: must not be negative")

    @property
    def shortest(self) -> float:
        """Seconds of the shortest clip that can be used: `min_seconds`, or what one Fourier transform needs."""
        return max(self.min_seconds, (self.n_fft // 2 + 1) / self.rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentConfig:
    """Which companion item goes with which run of frames (specs: allocation, section 2.3; controls, section 10)."""

    policy: Literal["id_speaker", "shuffled", "random_clip", "single_speaker", "silence", "noise", "recorded"] = "id_speaker"
    """id_speaker: one speaker per identity, at most one identity per speaker. recorded: the tracklet's own sound.
    The others are controls. shuffled: the clips of id_speaker, heard by identities that the loader permutes in each epoch;
    random_clip: any clips, single_speaker: those of one voice; of both the loader draws anew whose are heard; silence; noise."""
    run: int = 6
    """Frames that share one clip."""
    group_scope: Literal["tracklet", "identity"] = "tracklet"
    """Runs restart at each tracklet, or (parity with the released scripts) only at each identity."""
    order: Literal["need", "identity"] = "need"
    """Identities are served by falling need, or (parity) by name."""
    fit: Literal["best", "largest_first"] = "best"
    """The smallest speaker that suffices, or (parity) the largest one left."""
    reuse: bool = False
    """Let a speaker's clips repeat when an identity needs more than there are."""
    oracle_test_audio: bool = False
    """Give test identities sound by the policy, too. Where the policy derives it from the label, every number that hears it
    carries the word 'oracle'. (Silence is the same for everybody: under that policy test tracklets hear it anyway.)"""

    def __post_init__(self) -> None:
        _require(self.run >= 1, f"run={self.run}: at least 1 frame")


TERMS = ("identity", "triplet", "tokens", "budget", "logits", "features", "identity_local", "triplet_local", "attention")
"""Loss terms that tasks can have (train/tasks); settings decide which are there."""

Encoder = Literal["logmel_stub", "random_frozen", "wav2vec2_base", "hubert_base", "ast", "precomputed"]
"""Names of model/encoders, and 'precomputed': tokens that somebody else has made."""

ALL_TOKENS = {"logmel_stub": 501, "random_frozen": 249, "wav2vec2_base": 249, "hubert_base": 249, "ast": 1214}
"""Tokens that each encoder gives for a clip of 5 s (specs/dubbernet.md section 3.1)."""

NEEDS_WEIGHTS = ("wav2vec2_base", "hubert_base", "ast")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokensConfig:
    """A frozen audio encoder: clip -> L tokens, computed once, before any training (specs/dubbernet.md section 3.1)."""

    encoder: Encoder = "logmel_stub"
    """logmel_stub: a fixed projection of log-mel, no weights; random_frozen: wav2vec 2.0 as initialised (both are controls);
    the others are speech or sound encoders from a weight file; precomputed: one .npy file per clip below `store`."""
    weights: str = ""
    """safetensors file of wav2vec2_base, hubert_base or ast (`python -m model.convert_weights` makes one of a .pth)."""
    store: str = ""
    """precomputed: folder that holds <path of the clip without its ending>.npy, float [at least 2, width] each."""
    tokens: int = 16
    """L, by averaging over time; 0: all tokens of the encoder. At least 2."""
    width: int = 768
    """Values per token; other than 768 only with 'precomputed'."""

    def __post_init__(self) -> None:
        _require(
            self.tokens == 0 or self.tokens >= 2,
            f"tokens={self.tokens}: at least 2 (or 0 for all), because attention over one key gives the same vector for every patch",
        )
        _require(self.width >= 1, f"width={self.width}: at least 1")
        if self.encoder == "precomputed":
            _require(self.tokens != 0, "tokens=0: say how many tokens the precomputed clips are averaged to")
        else:
            _require(self.width == 768, f"width={self.width}: '{self.encoder}' gives tokens of width 768")
            most = ALL_TOKENS[self.encoder]
            _require(self.tokens <= most, f"tokens={self.tokens}: '{self.encoder}' gives {most} for a clip of 5 s")

    @property
    def length(self) -> int:
        """L."""
        return self.tokens or ALL_TOKENS[self.encoder]


@dataclass(frozen=True, kw_only=True, slots=True)
class CompanionConfig:
    """One companion signal of a tracklet: its medium, where its items come from, how they are aligned."""

    kind: Literal["audio", "audio_tokens"] = "audio"
    """Medium; names the pack-time half (pipeline/features) and the load-time half (shards/prepare). audio: log-mel pictures,
    which the network turns into tokens itself; audio_tokens: tokens of a frozen encoder."""
    voices: str = ""
    """Name of a `voices` entry; empty: the one named by the data set."""
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    tokens: TokensConfig = field(default_factory=TokensConfig)
    """Only for kind 'audio_tokens'."""

    @property
    def bands(self) -> int:
        """Width of one companion frame: mel bands, or the width of a token."""
        return self.tokens.width if self.kind == "audio_tokens" else self.audio.bands


# --- data ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class VoicesConfig:
    """A collection of voice clips."""

    source: Literal["common_voice"] = "common_voice"
    """Grammar (pipeline/sources)."""
    table: str = "train.tsv"
    """Table below the root that lists the clips to use."""
    generated: bool = False
    """The root is made by the `make_demo` step."""

    def __post_init__(self) -> None:
        inside = self.table and not self.table.startswith("/") and ".." not in self.table.split("/") and "\0" not in self.table
        _require(bool(inside), f"table={self.table!r}: expected a path below the root, without '..'")


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetConfig:
    """One set of tracklets. Its folder is ``roots.<name>``."""

    source: Literal["mars", "ilidsvid", "prid2011", "manifest"]
    """Grammar (pipeline/sources)."""
    splits: tuple[str, ...] = ()
    """Splits to run: 'official' for MARS, '0'..'9' for iLIDS-VID and PRID-2011, any name for a manifest."""
    voices: str = "common_voice"
    """Name of a `voices` entry, for companions that do not name one."""
    subset: bool = False
    """Only a part of the data set is there: official counts and missing halves are not errors."""
    generated: bool = False
    """The root is made by the `make_demo` step; the report may show its frames and voices."""
    shards: int = 8
    """Number of shards, which is the number of jobs per stage; aim at ten minutes of work each."""
    frames: FramesConfig = field(default_factory=FramesConfig)
    protocols: tuple[Protocol, ...] = ("market",)
    """Retrieval protocols to score (evaluate/protocols.py); the first is the headline."""

    def __post_init__(self) -> None:
        _require(self.shards >= 1, f"shards={self.shards}: at least 1")
        for split in self.splits:
            _require(SPLIT_NAME.fullmatch(split) is not None, f"splits: '{split}' must match {SPLIT_NAME.pattern}")
        _require(len(self.protocols) > 0, "protocols: name at least one")
        _require(len(set(self.protocols)) == len(self.protocols), "protocols: names one twice; name each once")


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Size and seed of the generated data (pipeline/demo)."""

    seed: int = 7
    train_identities: int = 24
    """Persons in the training half of the MARS-like set."""
    test_identities: int = 24
    """Persons in its test half."""
    cameras: int = 4
    """Cameras of the MARS-like set (at most 6)."""
    tracklets: int = 5
    """Mean number of tracklets per person in the MARS-like set."""
    distractors: int = 20
    """Distractor tracklets (identity 0000) in its test half."""
    junk: int = 4
    """Junk tracklets (identity 00-1) in its test half."""
    frames: tuple[int, ...] = (6, 20)
    """Shortest and longest tracklet."""
    pairs: int = 8
    """Persons seen by both cameras in the iLIDS-VID-like and PRID-2011-like sets; half of them train in each split."""
    speakers: int = 52
    """Speakers of the Common-Voice-like set: enough for all persons of the MARS-like set, whom the oracle control dubs."""
    seconds: tuple[float, ...] = (1.0, 2.5)
    """Shortest and longest clip."""

    def __post_init__(self) -> None:
        _require(2 <= self.cameras <= 6, f"cameras={self.cameras}: must be in 2..6")
        _require(
            len(self.frames) == 2 and 2 <= self.frames[0] <= self.frames[1] <= 999, f"frames={self.frames}: shortest and longest, 2..999"
        )
        _require(
            len(self.seconds) == 2 and 0.6 <= self.seconds[0] <= self.seconds[1], f"seconds={self.seconds}: shortest and longest, from 0.6"
        )
        _require(self.pairs >= 4 and self.pairs % 2 == 0, f"pairs={self.pairs}: an even number from 4")
        _require(self.train_identities >= 2 and self.test_identities >= 2, "at least 2 identities in each half")
        _require(self.speakers >= self.train_identities + 2, f"speakers={self.speakers}: at least train_identities + 2")


# --- method ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """DubberNet's numbers (specs/dubbernet.md sections 4 and 5). The defaults are the full ViT-B/16."""

    width: int = 768
    """Token width D."""
    depth: int = 12
    """Transformer blocks, the last of which is the head's."""
    heads: int = 12
    mlp_ratio: float = 4.0
    patch: int = 16
    """Pixels."""
    stride: int = 12
    """Pixels between patches; 12 overlaps them (211 tokens at 256x128), 16 does not (129)."""
    fusion_after_blocks: tuple[int, ...] = (4, 8)
    """0-based indices of the blocks after which injection (teacher) or perception (student) follows."""
    injection: Literal["attention", "add", "concat_cls"] = "attention"
    """How the teacher hears: visual tokens attend to audio tokens; their mean is added to all tokens; or it is joined to the
    CLS token alone. (A teacher that does not hear is the network 'dubbernet_visual'.)"""
    adapter_ratio: float = 0.25
    """Hidden width of the audio adapter as a part of `width`."""
    fusion_zero_init: bool = False
    """Start the LayerNorm behind each fusion at weight 0, so that it adds nothing at first."""
    audio_dropout: float = 0.0
    """Chance that a clip hears nothing in a training step (against learning voices instead of looks)."""
    pool: Literal["mean", "attention"] = "mean"
    """How frames become a clip: their mean, or weights learned over time (needs the loss term 'attention')."""
    local_branch: bool = False
    """Four part features beside the global one (section 4.5; needs the terms 'identity_local' and 'triplet_local')."""
    camera_scale: float = 3.0
    """Coefficient of the camera embedding added to all tokens; 0 switches it off."""
    drop_path: float = 0.1
    """Stochastic depth of the last block; linear from 0."""
    audio_tokens: int = 16
    """Tokens L per clip; at least 2, because attention over one key does not look at the image."""
    audio_frames: int = 500
    """Log-mel frames that a clip is padded or cut to before it is turned into tokens."""

    def __post_init__(self) -> None:
        _require(self.width % self.heads == 0, f"heads={self.heads}: must divide width={self.width}")
        _require(self.depth >= 2, f"depth={self.depth}: at least 2 (trunk and head)")
        _require(1 <= self.stride <= self.patch, f"stride={self.stride}: must be in 1..patch={self.patch}")
        for block in self.fusion_after_blocks:
            _require(
                0 <= block < self.depth - 1, f"fusion_after_blocks: {block} is outside 0..{self.depth - 2} (the last block is the head)"
            )
        _require(tuple(sorted(set(self.fusion_after_blocks))) == self.fusion_after_blocks, "fusion_after_blocks: rising, no repeats")
        _require(
            self.audio_tokens >= 2,
            f"audio_tokens={self.audio_tokens}: at least 2, because attention over one key gives the same vector for every patch",
        )
        _require(self.audio_frames >= self.audio_tokens, f"audio_frames={self.audio_frames}: at least audio_tokens={self.audio_tokens}")
        _require(0 <= self.audio_dropout < 1, f"audio_dropout={self.audio_dropout}: a chance in 0..1, below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig:
    """How frames are drawn from a tracklet (specs/dubbernet.md section 3.3)."""

    frames: int = 6
    """T, frames per clip: one from each of T equal segments in training, consecutive chunks in evaluation."""
    max_clips: int = 41
    """Chunks of a tracklet that are used in evaluation; 0 means all."""

    def __post_init__(self) -> None:
        _require(self.frames >= 1, f"frames={self.frames}: at least 1")
        _require(self.max_clips >= 0, f"max_clips={self.max_clips}: 0 (all) or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Training augmentation of frames (specs/dubbernet.md section 3.2)."""

    flip: float = 0.5
    """Chance of a horizontal flip."""
    pad: int = 10
    """Pixels of zero padding on every side before a random crop back to size; 0 switches it off."""
    erase: float = 0.5
    """Chance that a frame loses a rectangle."""
    erase_area: tuple[float, ...] = (0.02, 0.4)
    """Smallest and largest area of the rectangle as a part of the frame."""
    erase_aspect: float = 0.3
    """Smallest height over width of the rectangle; the largest is its inverse."""
    erase_aspect_draw: Literal["log", "uniform"] = "log"
    """log: tall and wide rectangles are equally likely; uniform (as released): more tall ones, which fit more often."""
    erase_level: tuple[int, ...] = (128, 128, 128)
    """Red, green and blue of the rectangle, 0..255 (128 is zero after normalisation; as released: 189, 186, 179)."""
    erase_attempts: int = 10
    """Tries to fit the rectangle (1: as released)."""
    shared: bool = True
    """Flip and crop are the same for all frames of a clip; false: drawn per frame (as released)."""

    def __post_init__(self) -> None:
        _require(0 <= self.flip <= 1 and 0 <= self.erase <= 1, "flip and erase are chances in 0..1")
        _require(self.pad >= 0, f"pad={self.pad}: 0 or more")
        _require(
            len(self.erase_area) == 2 and 0 < self.erase_area[0] <= self.erase_area[1] <= 1,
            f"erase_area={self.erase_area}: smallest and largest part, 0..1",
        )
        _require(0 < self.erase_aspect <= 1, f"erase_aspect={self.erase_aspect}: smallest height over width, in 0..1")
        _require(self.erase_attempts >= 1, f"erase_attempts={self.erase_attempts}: at least 1")
        _require(
            len(self.erase_level) == 3 and all(0 <= level <= 255 for level in self.erase_level),
            f"erase_level={self.erase_level}: red, green and blue, 0..255 each",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """Identity-balanced batches: P identities x K tracklets."""

    identities: int = 8
    """P."""
    tracklets: int = 4
    """K; an identity with fewer tracklets is drawn with replacement."""
    window: int = 0
    """Shards whose tracklets are mixed with each other; 0: all, in one random order. A stream (`machine.data: stream`) can only
    serve an order of windows: it holds that many shards of each lane in memory."""
    lanes: int = 1
    """With a window: independent streams that each fill an equal part of every batch. They are shared out over the processes of a
    training, so their number decides which numbers of processes give one and the same order: those that divide it."""

    def __post_init__(self) -> None:
        _require(self.identities >= 2, f"identities={self.identities}: at least 2, else the triplet loss has no negative")
        _require(self.tracklets >= 1, f"tracklets={self.tracklets}: at least 1")
        _require(self.window >= 0 and self.lanes >= 1, f"window={self.window}, lanes={self.lanes}: 0 or more, and 1 or more")
        _require(self.lanes == 1 or self.window > 0, f"lanes={self.lanes}: only with a window of shards; set window, or lanes to 1")
        _require(self.identities % self.lanes == 0, f"lanes={self.lanes}: must divide identities={self.identities}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """Optimiser (specs/dubbernet.md section 6)."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.008
    """Base learning rate."""
    bias_lr_factor: float = 2.0
    """Learning rate of parameters named *bias* relative to `lr`."""
    momentum: float = 0.9
    """SGD only."""
    weight_decay: float = 1e-4
    accumulate: int = 1
    """Batches whose mean gradient makes one step. Each is mined for triplets and normalised by itself; the last step of an epoch
    takes the batches that are left."""

    def __post_init__(self) -> None:
        _require(self.lr > 0, f"lr={self.lr}: must be positive")
        _require(self.accumulate >= 1, f"accumulate={self.accumulate}: at least 1 batch")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """Learning rate per epoch: linear warm-up, then one cosine, set at the start of each epoch (epochs from 1)."""

    warmup_epochs: int = 5
    warmup_factor: float = 0.01
    """Learning rate before the first epoch, relative to the base."""
    final_factor: float = 0.002
    """Learning rate at the end of the cosine, relative to the base."""
    period: int = 0
    """Epochs of the cosine; 0: as many as the stage has. As released: 120 for every stage."""

    def __post_init__(self) -> None:
        _require(self.warmup_epochs >= 0 and self.period >= 0, "warmup_epochs and period: 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """Distillation (specs/dubbernet.md sections 5.2 and 5.3)."""

    temperature: float = 4.0
    """Softens both softmaxes. All terms are multiplied by its square, so that gradients keep their size."""
    token: Literal["kl", "l1", "mse", "off"] = "kl"
    """Token distillation: divergence over channels, or mean absolute or squared difference."""
    normalize: Literal["none", "l2", "ln"] = "none"
    """What is done to the channels of each token first; l2 leaves next to no divergence (as in dead released code)."""
    tap: Literal["fused", "attn", "released"] = "fused"
    """Tokens compared: after the residual sum on both sides, before it on both, or (released) the student's after and the
    teacher's before."""
    logits: Literal["kl", "feat_mse", "both", "off"] = "kl"
    """Clip-level distillation: divergence over classes (term 'logits'), squared difference of features before the BNNeck
    (term 'features', as released), or both."""
    mask: Literal["normalized", "raw", "off", "detached_random"] = "normalized"
    """How the mask generator weighs tokens; raw collapses to zero (kept as a control)."""
    mask_dropout: float = 0.2
    """Dropout on the mask before ReLU6."""
    mask_target: float = 0.7
    """rho of the budget term: mean of min(mask, 1)."""

    def __post_init__(self) -> None:
        _require(self.temperature > 0, f"temperature={self.temperature}: must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationConfig:
    """A look at training identities that are not trained on. The test set is never looked at."""

    identities: int = 0
    """Training identities with two cameras or more that are held out, in every stage of the method; 0: all of them train."""
    epochs: int = 10
    """Epochs between two looks; the last epoch is always looked at."""
    keep: Literal["last", "best"] = "last"
    """Weights that a stage hands on: those of its last epoch, or of the look with the highest mAP (of equal ones the first)."""

    def __post_init__(self) -> None:
        _require(
            self.identities == 0 or self.identities >= 2, f"identities={self.identities}: 0, or at least 2, else there is nobody to mistake"
        )
        _require(self.epochs >= 1, f"epochs={self.epochs}: at least 1")
        _require(self.keep == "last" or self.identities > 0, "keep=best: needs identities that are held out; set identities")


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineConfig:
    """Where and how fast a training runs. Nothing here changes what comes out (beyond the rounding of sums over several
    processes), so nothing here trains again: an interrupted training may go on with other values."""

    ranks: int = 1
    """Processes per node that train together, one for each GPU. Every batch is shared out over them."""
    nodes: int = 1
    """Nodes of a cluster that train together; all must see the same folders."""
    data: Literal["indexed", "resident", "stream"] = "indexed"
    """indexed: drawn frames are read from local tars by offset and decoded; resident: all training frames are decoded once and
    live on the device; stream: whole tars are read one after another, from wherever `urls` says (needs `sampler.window`)."""
    workers: int = 2
    """Loader processes of each rank (stream: threads)."""
    urls: str = ""
    """stream: where a tar lies, with {shard} for its file name: a path, 'https://host/mars/{shard}', or with `commands` a
    'pipe:' command that prints it. Empty: beside INDEX."""
    commands: bool = False
    """stream: whether `urls` may start a command ('pipe:...', and 'https:' and the like, which webdataset reads through curl)."""
    check: Literal["bytes", "sizes"] = "bytes"
    """What is checked of the tars that will be read, before the first batch. bytes: all of them, against the digests in INDEX, at
    the speed of SHA-256 (a stream from elsewhere: each sample when it comes); sizes: size, first and last sample, and end."""
    resident_share: float = 0.7
    """resident: most of the device's free memory that the training set may take; more is refused."""
    recompute: bool = False
    """Keep only the input of every transformer block and compute it again for the gradient: less memory, a third more work."""
    checkpoint_epochs: int = 1
    """Epochs between checkpoints of the full training state."""
    checkpoint_seconds: float = 120.0
    """Least time between two of them: one takes seconds (at full size 0.7 GB or more), and an epoch may be as short."""
    checkpoint_steps: int = 0
    """Steps between checkpoints inside an epoch, whatever the time; 0: none. (SIGTERM saves one, too.)"""
    tensorboard: Literal["auto", "on", "off"] = "auto"
    """Scalars and pictures for TensorBoard below results/tensorboard; auto: where the package is installed."""
    pictures_epochs: int = 20
    """Epochs between pictures (augmented clips, log-mel, masks); the first epoch has some, too. 0: none."""

    def __post_init__(self) -> None:
        for name in ("ranks", "nodes", "checkpoint_epochs"):
            _require(getattr(self, name) >= 1, f"{name}={getattr(self, name)}: at least 1")
        for name in ("workers", "checkpoint_steps", "pictures_epochs"):
            _require(getattr(self, name) >= 0, f"{name}={getattr(self, name)}: 0 or more")
        _require(self.checkpoint_seconds >= 0, f"checkpoint_seconds={self.checkpoint_seconds}: 0 or more")
        _require(0 < self.resident_share <= 1, f"resident_share={self.resident_share}: a part, above 0 and at most 1")
        _require(not self.urls or "{shard}" in self.urls, f"urls='{self.urls}': must hold {{shard}}, the file name of a tar")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """One training of one network. Stages of a method may build on each other (`teacher`)."""

    network: Network
    """Name in MODELS (model/registry.py)."""
    task: Literal["identify", "distill"] = "identify"
    epochs: int = 120
    """0: the network as initialised, untrained (a control)."""
    teacher: str = ""
    """Stage whose weights teach this one; needed by the task 'distill'."""
    start: str = ""
    """Stage whose weights this one starts from, where both networks have the part; empty: pretrained or random."""
    hears: bool = False
    """Whether training batches carry the companion, for the network itself or for its teacher."""
    companion: str = ""
    """Name of a `companions` entry; empty: that of its teacher, or of `start`, or else of the method."""
    test_companion: str = ""
    """Companion that a hearing network is evaluated on; empty: the same as in training."""
    evaluate: bool = True
    """Whether embeddings and scores are made. A stage that hears label-derived audio cannot be evaluated soundly."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weights of loss terms in this stage, where they are not those of the method; one that its task does not have stops the run."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Settings of the method that differ in this stage alone, for example {distill: {mask: "off"}}."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 0, f"epochs={self.epochs}: 0 or more")
        _require(
            (self.task == "distill") == bool(self.teacher),
            f"task={self.task}, teacher='{self.teacher}': 'distill' needs a teacher stage, other tasks have none",
        )
        _require(
            not {"stages", "companion"} & set(self.changes),
            "changes: may hold any section of a method but 'stages' and 'companion' (a stage has its own `companion`)",
        )
        _require(
            not isinstance(self.changes.get("validation"), dict) or "identities" not in self.changes["validation"],
            "changes.validation.identities: the same identities are held out in every stage, or a student would be judged by people whom "
            "its teacher knows; set it for the method",
        )

    @property
    def is_evaluated_seeing(self) -> bool:
        """Whether it is evaluated, and on frames alone."""
        return self.evaluate and self.network not in HEARING


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodConfig:
    """One method: a network, what it hears, how it is trained, in named stages.

    In YAML a method may name another one as its `base` and say only what differs; a null removes what the base has. Names that
    start with '_' are bases only (pipeline/base/build.py, `inherit`).
    """

    stages: dict[str, StageConfig]
    main: tuple[str, ...] = ()
    """Stages that an experiment runs which names none; empty: all. The others are trained when an ablation asks for them."""
    companion: str = "audio"
    """Name of a `companions` entry, or 'none'."""
    model: ModelConfig = field(default_factory=ModelConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    pretrained: str = ""
    """ViT that backbones start from: a safetensors file (a path has a '/' or ends in .safetensors), or the name of a timm
    model, taken from the local cache (see `download`); empty: random numbers."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weights of loss terms (see TERMS) in all stages that have them; 1 where nothing is said."""
    smoothing: float = 0.1
    """Label smoothing of the identity loss."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights (for example 0.995), which is then what is kept and evaluated;
    0: none."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    threads: int = 0
    """CPU threads of torch; 0: as many as the job gets. A fixed number gives the same bits whatever the number of cores."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on CUDA, fp32 on CPU."""
    compile: bool = False
    """Compile the transformer blocks (torch.compile). Faster on a GPU; other last bits; on a CPU it needs a C++ compiler."""
    deterministic: bool = True
    """Ask torch for kernels that give the same bits every time. Faster without, on a GPU."""

    def __post_init__(self) -> None:
        for name, stage in self.stages.items():
            _require(NAME.fullmatch(name) is not None, f"stages: '{name}' must match {NAME.pattern}")
            for term in stage.weights:
                _require_known(term, TERMS, f"stages.{name}.weights: '{term}' is no loss term")
            for role in ("teacher", "start"):
                other = getattr(stage, role)
                _require_known(other, ["", *self.stages], f"stages.{name}.{role}='{other}': no such stage")
        for term in self.weights:
            _require_known(term, TERMS, f"weights: '{term}' is no loss term")
        for name in self.main:
            _require_known(name, self.stages, f"main: '{name}' is no stage")
        for name, stage in self.stages.items():
            self.needed(name)
            if stage.hears:
                _require(self.companion_of(name) != "none", f"stages.{name}.hears: its companion is 'none'")
        _require(self.threads >= 0, f"threads={self.threads}: 0 or more")
        _require(0 <= self.ema < 1, f"ema={self.ema}: a decay in 0..1, below 1")
        _require(
            self.machine.data != "stream" or self.sampler.window > 0,
            "machine.data=stream: a stream cannot be read in any order; set sampler.window to the number of shards that are mixed",
        )

    def needed(self, stage: str) -> list[str]:
        """The stage and all whose weights it needs, directly or not (teachers, starts), each once.

        Raises:
            ConfigError: they go round in a circle.
        """
        found: list[str] = []

        def visit(name: str, path: tuple[str, ...]) -> None:
            _require(name not in path, f"stages: {' needs '.join((*path, name))}, a circle")
            for other in (self.stages[name].teacher, self.stages[name].start):
                if other:
                    visit(other, (*path, name))
            if name not in found:
                found.append(name)

        visit(stage, ())
        return found[::-1]

    def companion_of(self, stage: str) -> str:
        """Name of the companion that a stage's batches carry: its own, its teacher's, that of its start, the method's."""
        this = self.stages[stage]
        if this.companion:
            return this.companion
        return self.companion_of(this.teacher or this.start) if this.teacher or this.start else self.companion

    def test_companion_of(self, stage: str) -> str:
        """Name of the companion in whose shards a stage is evaluated."""
        return self.stages[stage].test_companion or self.companion_of(stage)

    def without_machine(self) -> MethodConfig:
        """The method without a word about machines, nor in the `changes` of its stages: what may decide about training again."""
        stages = {
            name: replace(stage, changes={key: value for key, value in stage.changes.items() if key != "machine"})
            for name, stage in self.stages.items()
        }
        return replace(self, stages=stages, machine=MachineConfig())

    def settings_of(self, stage: str) -> MethodConfig:
        """The method with the stage's `changes` laid over it.

        Raises:
            ConfigError: a change is no setting, or its value is refused.
        """
        changes = self.stages[stage].changes
        return lay_over(self, changes, f"stages.{stage}.changes") if changes else self


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentConfig:
    """One line of the report: a method on a data set, over splits and seeds."""

    method: str
    dataset: str
    stages: tuple[str, ...] = ()
    """Stages to run and, where they can be, evaluate; empty: the method's `main` ones."""
    splits: tuple[str, ...] = ()
    """Empty: all splits of the data set."""
    seeds: tuple[int, ...] = (0,)
    test_on: tuple[str, ...] = ()
    """Other data sets on whose test halves (all their splits) the evaluated stages that only see are scored as well. No person of
    theirs has been trained on, and their cameras are unknown to the network (specs/dubbernet.md, B30)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationConfig:
    """A table that compares stages of one method, trained on the same splits with the same seeds."""

    method: str
    dataset: str
    question: str
    """What the table is to answer, in one sentence; its heading."""
    reference: str
    """Stage that the others are compared with, run by run."""
    rows: dict[str, str]
    """Stage -> what is different about it, in the order of the table."""
    against: dict[str, str] = field(default_factory=dict)
    """Rows that are compared with another row than the reference: stage -> stage."""
    splits: tuple[str, ...] = ()
    """Empty: all splits of the data set."""
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        _require_known(self.reference, self.rows, f"reference='{self.reference}': not in rows")
        for pair in self.against.items():
            for stage in pair:
                _require_known(stage, self.rows, f"against: '{stage}' is not in rows")
            _require(pair[0] != pair[1], f"against: '{pair[0]}' would be compared with itself")
        _require(len(self.seeds) > 0, "seeds: name at least one")


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankConfig:
    """k-reciprocal re-ranking (Zhong et al., CVPR 2017). It looks at all queries at once, so its numbers stand apart, never in a headline."""

    on: bool = False
    """Score once more after re-ranking, in a table of its own."""
    k1: int = 20
    """Nearest neighbours among which reciprocal ones are looked for."""
    k2: int = 6
    """Nearest neighbours whose encodings are averaged; 1: none but its own."""
    weight: float = 0.3
    """Part of the first distance in the new one; the rest is the Jaccard distance."""

    def __post_init__(self) -> None:
        _require(1 <= self.k2 <= self.k1, f"k1={self.k1}, k2={self.k2}: need 1 <= k2 <= k1")
        _require(0 <= self.weight <= 1, f"weight={self.weight}: must be in 0..1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringConfig:
    """How test numbers are made of embeddings. Nothing here changes a training."""

    normalise: bool = False
    """Scale every vector to length 1 before distances, which makes them 2 - 2 cosine. Every table says which."""
    rerank: RerankConfig = field(default_factory=RerankConfig)
    resamples: int = 2000
    """Bootstrap samples behind each interval; 0: no intervals."""
    confidence: float = 0.95
    """Part of the bootstrap samples that an interval holds."""
    unit: Literal["query", "identity"] = "query"
    """What is drawn: single queries, or identities with all their queries (wider: queries of one person are alike)."""

    def __post_init__(self) -> None:
        _require(0.5 <= self.confidence < 1, f"confidence={self.confidence}: must be in 0.5..1, below 1")
        _require(
            self.resamples == 0 or (100 <= self.resamples <= 1_000_000 and round(self.resamples * (1 - self.confidence), 6) >= 5),
            f"resamples={self.resamples}, confidence={self.confidence}: 0 (no intervals), or 100 to 1,000,000 of which 5 or more lie outside "
            "the interval",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """What the report shows."""

    title: str = "dubtrack report"
    media: Literal["generated", "all", "none"] = "generated"
    """Whose frames and voices are put into the report: those of generated data, all (for your own eyes), none."""
    identities: int = 6
    """Identities in the gallery of frames and voices."""
    queries: int = 6
    """Queries whose ranked lists are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything a run can be told."""

    datasets: dict[str, DatasetConfig]
    methods: dict[str, MethodConfig]
    companions: dict[str, CompanionConfig]
    voices: dict[str, VoicesConfig]
    roots: dict[str, str] = field(default_factory=dict)
    """Folder of each data set and each collection of voices, by name."""
    seed: int = 0
    """Seed of the data path (allocation, plan, controls). Training seeds are listed per experiment."""
    experiments: tuple[ExperimentConfig, ...] = ()
    """What `all` trains, scores and reports."""
    ablations: dict[str, AblationConfig] = field(default_factory=dict)
    """Tables of their own (targets `ablate_...`), each with its report below results/ablations/."""
    prepare: tuple[str, ...] = ()
    """Data sets that `all` also takes to shards without training on them."""
    download: bool = False
    """Whether a ViT that `pretrained` names may be fetched. Nothing else is ever downloaded."""
    demo: DemoConfig = field(default_factory=DemoConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        for section in ("datasets", "methods", "companions", "voices", "ablations"):
            for name in getattr(self, section):
                _require(
                    NAME.fullmatch(name) is not None and name != "none",
                    f"{section}: the name '{name}' must match {NAME.pattern} and not be 'none'",
                )
        for name, dataset in self.datasets.items():
            _require(len(dataset.splits) > 0, f"datasets.{name}.splits: name at least one")
            _require(name not in self.voices, f"datasets.{name}: voices has an entry of the same name; both would use roots.{name}")
            _require_known(dataset.voices, self.voices, f"datasets.{name}.voices='{dataset.voices}': no such entry in voices")
        for name, companion in self.companions.items():
            _require_known(companion.voices, ["", *self.voices], f"companions.{name}.voices='{companion.voices}': no such entry in voices")
        for name, method in self.methods.items():
            for where, named in self._companions(name, method):
                _require_known(named, ["", "none", *self.companions], f"{where}='{named}': no such companion")
            for stage in method.stages:
                try:
                    method.settings_of(stage)
                except ConfigError as error:
                    raise ConfigError(f"methods.{name}.{error}") from None
        for i, experiment in enumerate(self.experiments):
            self._check_runs(f"experiments[{i}]", experiment, experiment.stages)
            _require(len(experiment.seeds) > 0, f"experiments[{i}].seeds: name at least one")
            self._check_test_on(f"experiments[{i}].test_on", experiment)
        for name, ablation in self.ablations.items():
            self._check_runs(f"ablations.{name}", ablation, ablation.rows)
        for name in self.roots:
            _require_known(name, [*self.datasets, *self.voices], f"roots.{name}: no data set and no collection of voices has this name")
        for name in self.prepare:
            _require_known(name, self.datasets, f"prepare: '{name}' is no data set")

    def _companions(self, name: str, method: MethodConfig) -> Iterator[tuple[str, str]]:
        """Every place of a method that names a companion."""
        yield f"methods.{name}.companion", method.companion
        for stage, this in method.stages.items():
            yield f"methods.{name}.stages.{stage}.companion", this.companion
            yield f"methods.{name}.stages.{stage}.test_companion", this.test_companion

    def _check_test_on(self, where: str, of: ExperimentConfig) -> None:
        """Every target can be tested on, and there is a stage to test."""
        _require(len(set(of.test_on)) == len(of.test_on), f"{where}: names a data set twice; name each once")
        for target in of.test_on:
            self.check_across(where, of.dataset, target)
        method = self.methods[of.method]
        seeing = [name for name in of.stages or method.main or method.stages if method.stages[name].is_evaluated_seeing]
        _require(
            bool(seeing) or not of.test_on,
            f"{where}: none of the stages of {of.method} that are run is evaluated on frames alone, and sound of another data set is not "
            "taken; name such a stage in stages, or leave test_on out",
        )

    def check_across(self, where: str, dataset: str, target: str) -> None:
        """A network that was trained on `dataset` can be tested on `target`; `where` begins the sentence if not.

        Raises:
            ConfigError: unknown, the same data (as far as names and roots tell), or stored frames of another size.
        """
        _require_known(target, self.datasets, f"{where}: '{target}' is no data set")
        _require(
            target != dataset,
            f"{where}: '{target}' is the data set that is trained on, and persons who train in one of its splits are tested in another; "
            "name other data sets (its own test half is scored anyway)",
        )
        root, own = self.roots.get(target), self.roots.get(dataset)
        _require(
            not root or not own or _place(root) != _place(own),
            f"{where}: roots.{target} and roots.{dataset} are one folder ({root}), so persons who train might be tested; name data of its own",
        )
        has, needs = self.datasets[target].frames, self.datasets[dataset].frames
        _require(
            (has.height, has.width) == (needs.height, needs.width),
            f"{where}: frames of {target} are stored as {has.height}x{has.width} (height x width), a network trained on {dataset} expects "
            f"{needs.height}x{needs.width}; set datasets.{target}.frames to {{height: {needs.height}, width: {needs.width}}}",
        )

    def _check_runs(self, where: str, of: ExperimentConfig | AblationConfig, stages: Iterable[str]) -> None:
        """Method, data set, stages and splits are there."""
        _require_known(of.method, self.methods, f"{where}.method='{of.method}': no such method")
        _require_known(of.dataset, self.datasets, f"{where}.dataset='{of.dataset}': no such data set")
        known = self.methods[of.method].stages
        for stage in stages:
            _require_known(stage, known, f"{where}: '{stage}' is no stage of {of.method}")
        for split in of.splits:
            _require(split in self.datasets[of.dataset].splits, f"{where}.splits: '{split}' is not in datasets.{of.dataset}.splits")


# --- hand-over to steps ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One training, resolved: the content of ``config.json`` in a run folder, all that `fit` and `embed` need."""

    method: str
    dataset: str
    split: str
    seed: int
    stage: str
    companion: str
    """Name of the companion that training batches may carry, or 'none'."""
    test_companion: str
    """Name of the companion in whose shards the stage is evaluated; like `companion` unless the stage says otherwise."""
    kind: str
    """Medium of the companion ('audio', 'audio_tokens'), or ''."""
    bands: int
    """Width of one companion frame (mel bands, or width of a token), 0 without a companion."""
    item_frames: int
    """Companion frames that a batch holds of each item: log-mel frames, cut or padded; or the tokens L. 0 without one."""
    height: int
    """Pixels of a stored frame."""
    width: int
    this: StageConfig
    settings: MethodConfig
    """The method with the stage's `changes` laid over it."""
    teacher: RunConfig | None = None
    """The run whose network teaches this one, resolved in the same way."""
