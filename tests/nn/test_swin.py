"""Windows, the position bias and the masks, against constructions token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close

from resshift_jax.nn.swin import (
    WindowAttention,
    attention_mask,
    partition,
    relative_position_index,
    reverse,
)

SIZES = [(16, 16, 4), (8, 24, 8), (64, 64, 8), (32, 48, 8), (8, 8, 8), (16, 32, 4)]


@pytest.mark.parametrize(("height", "width", "window"), SIZES)
def test_reverse_undoes_partition(height, width, window):
    x = np.arange(2 * height * width * 3).reshape(2, height, width, 3)
    windows = partition(jnp.asarray(x), window)
    assert windows.shape == (2, height // window, width // window, window * window, 3)
    np.testing.assert_array_equal(reverse(windows, window), x)


def test_windows_and_tokens_are_row_major():
    x = jnp.arange(8 * 12).reshape(1, 8, 12, 1)
    windows = partition(x, 4)
    assert windows[0, 1, 2, :, 0].tolist() == [
        12 * row + column for row in range(4, 8) for column in range(8, 12)
    ]


@pytest.mark.parametrize("window", [2, 4, 8])
def test_the_position_index_tells_every_offset(window):
    index = relative_position_index(window)
    rows = (2 * window - 1) ** 2
    assert sorted(set(index.flat)) == list(range(rows))
    # Query and key exchanged is the opposite offset; a token and itself is the middle row.
    np.testing.assert_array_equal(index + index.T, rows - 1)
    assert set(index.diagonal()) == {rows // 2}
    # The key one pixel to the left is dx = +1, the next row; one pixel above is dy = +1.
    assert index[1, 0] == rows // 2 + 1
    assert index[window, 0] == rows // 2 + 2 * window - 1


def brute_force_mask(height, width, window, kind):
    """The mask from the position of every token."""

    def band(position, size):
        if position < size - window:
            return 0
        return 1 if position < size - window // 2 else 2

    windows = [(top, left) for top in range(0, height, window) for left in range(0, width, window)]
    mask = np.zeros((len(windows), window**2, window**2), np.float32)
    for number, (top, left) in enumerate(windows):
        regions = []
        for i, j in np.ndindex(window, window):
            if kind == "swin":
                regions.append((band(top + i, height), band(left + j, width)))
            else:  # rows only, and the row is that of the token's column
                regions.append(band(top + j, height))
        for query, key in np.ndindex(window**2, window**2):
            if regions[query] != regions[key]:
                mask[number, query, key] = -100
    return mask.reshape(height // window, width // window, window**2, window**2)


@pytest.mark.parametrize("kind", ["released", "swin"])
@pytest.mark.parametrize(("height", "width", "window"), SIZES)
def test_masks_at_any_size(height, width, window, kind):
    found = attention_mask(height, width, window, kind)
    np.testing.assert_array_equal(found, brute_force_mask(height, width, window, kind))


def test_the_released_mask_never_tells_columns_of_windows_apart():
    mask = np.asarray(attention_mask(32, 48, 8, "released"))
    assert not mask[:-1].any()  # only the last row of windows was rolled together
    for column in range(6):
        np.testing.assert_array_equal(mask[-1, column], mask[-1, 0])
    # In it the left and the right half are apart, where Swin's has the upper and the lower one.
    tokens = mask[-1, 0].reshape(8, 8, 8, 8)
    assert not tokens[:, :4, :, :4].any()
    assert not tokens[:, 4:, :, 4:].any()
    assert (tokens[:, :4, :, 4:] == -100).all()
    swin = np.asarray(attention_mask(32, 48, 8, "swin"))[-1, 0].reshape(8, 8, 8, 8)
    np.testing.assert_array_equal(tokens, swin.transpose(1, 0, 3, 2))


def test_attention_in_one_window():
    """Head by head and query by query, in float64."""
    heads, window, channels = 2, 2, 6
    x = np.random.default_rng(0).standard_normal((1, window, window, channels)).astype(np.float32)
    module = WindowAttention(heads, window)
    variables = module.init(jax.random.key(0), x, None)
    table = 3 * np.random.default_rng(1).standard_normal((9, heads)).astype(np.float32)
    variables["params"]["bias_table"] = table
    mask = np.zeros((1, 1, 4, 4), np.float32)
    mask[0, 0, 0, 3] = -100
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])

    tokens = x.reshape(4, channels).astype(np.float64)
    q, k, v = np.split(tokens @ p["qkv"]["kernel"] + p["qkv"]["bias"], 3, axis=-1)
    out = np.zeros((4, channels))
    for head in range(heads):
        own = slice(3 * head, 3 * head + 3)
        for query in range(4):
            logits = np.array([q[query, own] @ k[key, own] * 3**-0.5 for key in range(4)])
            for key in range(4):
                dy, dx = query // 2 - key // 2, query % 2 - key % 2
                logits[key] += table[(dy + 1) * 3 + dx + 1, head] + mask[0, 0, query, key]
            weights = np.exp(logits - logits.max())
            out[query, own] = weights / weights.sum() @ v[:, own]
    expected = (out @ p["proj"]["kernel"] + p["proj"]["bias"]).reshape(x.shape)
    assert_close(module.apply(variables, x, mask), expected, 1e-6)
