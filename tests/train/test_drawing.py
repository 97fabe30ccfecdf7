"""Pictures by their pixels: colours, places, and which way is up."""

import numpy as np
import pytest
import torch

from train import drawing
from train.drawing import CLS_ROWS, FULL, GAP, PADDING, heat

BLACK, MIDDLE, PALE = [0, 0, 4], [188, 55, 84], [252, 255, 164]


def test_heat_goes_from_black_to_pale_and_gets_brighter():
    assert heat(np.array([-1, 0, 0.5, 1, 7])).tolist() == [BLACK, BLACK, MIDDLE, PALE, PALE]
    assert heat(np.array(0.125)).tolist() == [44, 8, 57]  # half way from black to violet
    assert (np.diff(heat(np.linspace(0, 1, 50)).astype(float) @ [0.299, 0.587, 0.114]) > 0).all()


def test_grid_places():
    """One picture of 1x2 beside one of 2x1, below one of 1x1: columns are 2 and 1 wide, rows 2 and 1 high."""
    one, two, three = (np.full((*size, 3), level, np.uint8) for size, level in (((1, 2), 1), ((2, 1), 2), ((1, 1), 3)))
    made = drawing.grid([[one, two], [three]])
    assert made.shape == (2 + GAP + 1, 2 + GAP + 1, 3)
    assert made[0, :2].tolist() == [[1] * 3] * 2 and made[:2, 2 + GAP].tolist() == [[2] * 3] * 2
    assert made[2 + GAP, 0].tolist() == [3] * 3
    assert (made == 255).all(axis=2).sum() == made.shape[0] * made.shape[1] - 5  # all else is white


def test_clips_are_rows_and_time_runs_to_the_right():
    """Frames of 3x2 pixels; each pixel holds its clip, its time, and its place."""
    frames = torch.zeros(2, 3, 3, 3, 2, dtype=torch.uint8)  # B, T, colour, H, W
    frames[:, :, 0] += torch.arange(2, dtype=torch.uint8)[:, None, None, None]
    frames[:, :, 1] += torch.arange(3, dtype=torch.uint8)[None, :, None, None]
    frames[:, :, 2] += torch.arange(6, dtype=torch.uint8).view(3, 2)
    made = drawing.clips(frames)
    assert made.shape == (3 + GAP + 3, 3 * 2 + 2 * GAP, 3)
    for b in range(2):
        for t in range(3):
            cell = made[b * (3 + GAP) :, t * (2 + GAP) :][:3, :2]
            assert cell[..., 0].tolist() == [[b] * 2] * 3 and cell[..., 1].tolist() == [[t] * 2] * 3
            assert cell[..., 2].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_low_bands_are_at_the_bottom_and_the_end_is_grey():
    """One item of 3 frames x 2 bands, 2 of them valid: the low band is loud first, the high one later."""
    values = torch.tensor([[[5.0, 1.0], [1.0, 3.0], [0.0, 0.0]]])
    made = drawing.items(values, torch.tensor([2]), height=1, width=1)
    assert made.tolist() == [[BLACK, MIDDLE, [PADDING] * 3], [PALE, BLACK, [PADDING] * 3]]
    assert drawing.items(values, torch.tensor([2]), height=3, width=7).shape == (4, 9, 3)  # whole times
    assert drawing.items(values, torch.tensor([2]), height=3, width=7)[:2, :3].tolist() == [[BLACK] * 3] * 2


def test_items_one_below_the_other():
    made = drawing.items(torch.stack([torch.zeros(4, 2), torch.eye(4, 2)]), torch.tensor([4, 4]), height=1, width=1)
    assert made.shape == (2 + GAP + 2, 4, 3)
    assert made[:2].tolist() == [[BLACK] * 4] * 2  # silence has one value
    assert made[2 + GAP :].tolist() == [[BLACK, PALE, BLACK, BLACK], [PALE, BLACK, BLACK, BLACK]]


def test_weights_lie_where_their_patches_are():
    """Patches of 2 pixels, stride 2, 2 rows x 3 columns on white 5x6: the fifth row has no patch. Token 5 is row 1, column 2."""
    frames = torch.full((1, 1, 3, 5, 6), 255, dtype=torch.uint8)
    weights = torch.zeros(1, 1, 7)
    weights[..., 0], weights[..., 6] = 1, FULL
    made = drawing.masks(frames, weights, (2, 3), 2, 2)
    assert made.shape == (CLS_ROWS + 5, 6, 3)
    assert (made[:CLS_ROWS] == MIDDLE).all()  # CLS counts 1
    low, full = [[(255 + 2 * c) / 3 for c in colour] for colour in (BLACK, PALE)]
    expected = [[low] * 6] * 2 + [[low] * 4 + [full] * 2] * 2 + [[[255] * 3] * 6]
    assert np.abs(made[CLS_ROWS:].astype(int) - np.array(expected)).max() <= 1


def test_overlapping_patches_count_by_their_mean():
    """Patches of 2 at stride 1 on 2x3 black pixels: the middle column is under both, 0 and FULL: the middle colour."""
    frames = torch.zeros(1, 1, 3, 2, 3, dtype=torch.uint8)
    made = drawing.masks(frames, torch.tensor([[[0.0, 0.0, FULL]]]), (1, 2), 2, 1)[CLS_ROWS:]
    assert np.abs(made[0] * 1.5 - np.array([BLACK, MIDDLE, PALE])).max() <= 1


def test_frames_are_grey_under_weights_by_what_the_eye_sees():
    frames = torch.zeros(1, 1, 3, 2, 2, dtype=torch.uint8)
    frames[:, :, 1] = 200  # green: 117 of 255 in grey
    made = drawing.masks(frames, torch.zeros(1, 1, 2), (1, 1), 1, 1)[CLS_ROWS:]
    assert made[1, 1].tolist() == [117] * 3  # no patch here


def test_weights_that_do_not_fit_the_patches():
    with pytest.raises(AssertionError, match="6 weights for 1 \\+ 2 x 3 tokens"):
        drawing.masks(torch.zeros(1, 1, 3, 5, 6, dtype=torch.uint8), torch.zeros(1, 1, 6), (2, 3), 2, 2)
