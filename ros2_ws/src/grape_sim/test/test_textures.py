from __future__ import annotations

import numpy as np

from grape_sim import textures as tx


def test_a_texture_is_the_same_every_time() -> None:
    np.testing.assert_array_equal(tx.wood(), tx.wood())
    np.testing.assert_array_equal(tx.rings((1, 2, 3), (0, 0, 0), 4, 0.1, 5), tx.rings((1, 2, 3), (0, 0, 0), 4, 0.1, 5))


def test_atlas_stacks_upwards_and_bands_find_their_image() -> None:
    image = tx.atlas(tx.plain((255, 0, 0)), tx.plain((0, 255, 0)), tx.plain((0, 0, 999)), size=96)
    assert image.dtype == np.uint8 and image.shape == (96, 96, 3)
    for index in range(3):
        u0, v0, u1, v1 = tx.band(index, 3)
        rows = slice(int((1 - v1) * 96), int((1 - v0) * 96))
        part = image[rows, int(u0 * 96) : int(u1 * 96)]
        assert (part[..., index] == 255).all() and part.sum() == 255 * part[..., 0].size


def test_stripes_have_their_shares() -> None:
    image = tx.stripes(((200, 0, 0), (0, 200, 0)), (1, 3), 80, 8)
    assert (image[..., 0] > 0).sum() == 20 * 8
    assert image[-1, 0, 0] > 0, "the first stripe is at the bottom"
