"""PyTorch reference of the ResShift networks and chain: a released-layout state dict (arrays or
tensors) and NHWC numpy arrays go in, NHWC float32 numpy arrays come out (float64 inside)."""

import math

import numpy as np
import torch
import torch.nn.functional as F

VQ_EPS = 1e-6  # of the autoencoder's group norms; the U-Net's is 1e-5


@torch.no_grad()
def unet(state, x, t, lq, mask=None, *, window, image_size, head_dim=32):
    """Swin-UNet output for the scaled sample `x` (N, h, w, c) at integer steps `t` (N,).

    `image_size` is the latent side of training, which decides where windows shift; `lq` is as
    large as `x`, or larger by the halvings of the feature extractor; `mask` is -1 or +1.
    """
    p = _tensors(state)
    condition = _nchw(lq) if mask is None else torch.cat([_nchw(lq), _nchw(mask)], 1)
    # Each halving is three numbered modules: convolution, SiLU (no entry), strided convolution.
    for i in _indices(p, "feature_extractor")[::2]:
        condition = F.silu(_conv(p, f"feature_extractor.{i}", condition))
        condition = _conv(p, f"feature_extractor.{i + 2}.op", condition, stride=2)
    emb = _time_embedding(p, torch.as_tensor(np.asarray(t)))

    h, skips, side = torch.cat([_nchw(x), condition], 1), [], image_size
    for i in _indices(p, "input_blocks"):
        block = f"input_blocks.{i}"
        if f"{block}.0.op.weight" in p:
            h, side = _conv(p, f"{block}.0.op", h, stride=2), side // 2
        elif f"{block}.0.in_layers.0.weight" in p:
            h = _unet_residual(p, f"{block}.0", h, emb)
            if f"{block}.1.patch_embed.proj.weight" in p:
                h = _swin_layer(p, f"{block}.1", h, side, window, head_dim)
        else:
            h = _conv(p, f"{block}.0", h)
        skips.append(h)

    h = _unet_residual(p, "middle_block.0", h, emb)
    h = _swin_layer(p, "middle_block.1", h, side, window, head_dim)
    h = _unet_residual(p, "middle_block.2", h, emb)

    for i in _indices(p, "output_blocks"):
        block = f"output_blocks.{i}"
        h = _unet_residual(p, f"{block}.0", torch.cat([h, skips.pop()], 1), emb)
        for j in _indices(p, block)[1:]:
            if f"{block}.{j}.conv.weight" in p:
                h, side = _upsample(p, f"{block}.{j}.conv", h), side * 2
            else:
                h = _swin_layer(p, f"{block}.{j}", h, side, window, head_dim)
    return _nhwc(_conv(p, "out.2", F.silu(_norm(p, "out.0", h))))


@torch.no_grad()
def encode(state, image):
    """Continuous (not quantised) latent of `image` in [-1, 1]."""
    p = _tensors(state)
    h = _conv(p, "encoder.conv_in", _nchw(image))
    for i in _indices(p, "encoder.down"):
        level = f"encoder.down.{i}"
        for j in _indices(p, f"{level}.block"):
            h = _vq_residual(p, f"{level}.block.{j}", h)
        if f"{level}.downsample.conv.weight" in p:
            # Padded below and on the right only.
            h = _conv(p, f"{level}.downsample.conv", F.pad(h, (0, 1, 0, 1)), stride=2, padding=0)
    h = F.silu(_norm(p, "encoder.norm_out", _vq_middle(p, "encoder.mid", h), VQ_EPS))
    return _nhwc(_conv(p, "quant_conv", _conv(p, "encoder.conv_out", h)))


@torch.no_grad()
def decode(state, z, quantize=True):
    """Image of the latent `z`, each vector first replaced by its nearest codebook entry."""
    p = _tensors(state)
    h = _nchw(_nearest_entries(p, z) if quantize else z)
    h = _conv(p, "decoder.conv_in", _conv(p, "post_quant_conv", h))
    h = _vq_middle(p, "decoder.mid", h)
    for i in reversed(_indices(p, "decoder.up")):  # index 0 is the full resolution
        level = f"decoder.up.{i}"
        for j in _indices(p, f"{level}.block"):
            h = _vq_residual(p, f"{level}.block.{j}", h)
        if f"{level}.upsample.conv.weight" in p:
            h = _upsample(p, f"{level}.upsample.conv", h)
    return _nhwc(_conv(p, "decoder.conv_out", F.silu(_norm(p, "decoder.norm_out", h, VQ_EPS))))


@torch.no_grad()
def bicubic(image, scale):
    """Bicubic (a = -0.75) enlargement, half-pixel centres, edges clamped, no antialiasing."""
    options = {"scale_factor": scale, "mode": "bicubic", "align_corners": False}
    return _nhwc(F.interpolate(_nchw(image), **options))


def sample_chain(denoise, z_y, noise, *, steps, min_noise, kappa=2.0, power=0.3):
    """Reverse chain from the latent `z_y` of the upsampled LQ: (samples, predictions of x_0).

    `denoise(x_scaled, t)` predicts x_0; `noise[0]` makes the prior and `noise[k]` is added by
    the k-th reverse step (the last step adds none).
    """
    first = min(min_noise / kappa, min_noise)
    exponent = np.linspace(0, 1, steps) ** power  # float64 throughout, cast after every step
    eta = (first * (0.99 / first) ** exponent) ** 2
    previous = np.append(0.0, eta[:-1])
    alpha = eta - previous

    x = (z_y + kappa * np.sqrt(eta[-1]) * noise[0]).astype(np.float32)
    samples, predictions = [], []
    for k, i in enumerate(reversed(range(steps)), start=1):
        x_scaled = (x / np.sqrt(kappa**2 * eta[i] + 1)).astype(np.float32)
        x_0 = np.asarray(denoise(x_scaled, np.full(len(x), i)))
        # The deviation is 0 at i = 0, where previous[0] = 0.
        deviation = kappa * np.sqrt(previous[i] * alpha[i] / eta[i])
        mean = previous[i] / eta[i] * x + alpha[i] / eta[i] * x_0
        x = (mean + deviation * noise[k]).astype(np.float32)
        samples.append(x)
        predictions.append(x_0)
    return samples, predictions


def _tensors(state):
    # float64: a comparison then shows the error of the other side alone (float32 group norms
    # here would put 4e-5 of noise on the latents of the autoencoder).
    return {name: torch.as_tensor(value).double() for name, value in state.items()}


def _indices(p, prefix):
    """Numbers of the children `prefix.<number>.` in the state."""
    prefix += "."
    return sorted({int(k[len(prefix) :].split(".")[0]) for k in p if k.startswith(prefix)})


def _nchw(array):
    return torch.tensor(np.asarray(array, np.float64)).permute(0, 3, 1, 2)


def _nhwc(tensor):
    return tensor.permute(0, 2, 3, 1).float().contiguous().numpy()


def _conv(p, name, x, stride=1, padding=None):
    weight = p[f"{name}.weight"]
    padding = weight.shape[-1] // 2 if padding is None else padding
    return F.conv2d(x, weight, p[f"{name}.bias"], stride, padding)


def _linear(p, name, x):
    return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])


def _norm(p, name, x, eps=1e-5):
    return F.group_norm(x, 32, p[f"{name}.weight"], p[f"{name}.bias"], eps)


def _upsample(p, name, x):
    return _conv(p, name, F.interpolate(x, scale_factor=2, mode="nearest"))


def _time_embedding(p, t):
    half = p["time_embed.0.weight"].shape[1] // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies
    emb = torch.cat([angles.cos(), angles.sin()], 1).double()
    return _linear(p, "time_embed.2", F.silu(_linear(p, "time_embed.0", emb)))


def _unet_residual(p, name, x, emb):
    h = _conv(p, f"{name}.in_layers.2", F.silu(_norm(p, f"{name}.in_layers.0", x)))
    modulation = _linear(p, f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
    scale, shift = modulation.chunk(2, dim=1)
    h = _norm(p, f"{name}.out_layers.0", h) * (1 + scale) + shift
    h = _conv(p, f"{name}.out_layers.3", F.silu(h))
    skip = f"{name}.skip_connection"
    return h + (_conv(p, skip, x) if f"{skip}.weight" in p else x)


def _swin_layer(p, name, x, side, window, head_dim):
    """Swin blocks on a level whose training resolution is `side`."""
    shift = window // 2 if side > window else 0
    window = min(window, side)
    h = _conv(p, f"{name}.patch_embed.proj", x)
    for i in _indices(p, f"{name}.blocks"):
        block = f"{name}.blocks.{i}"
        a = _norm(p, f"{block}.norm1", h)
        h = h + _window_attention(p, f"{block}.attn", a, window, shift * (i % 2), head_dim)
        m = F.gelu(_conv(p, f"{block}.mlp.fc1", _norm(p, f"{block}.norm2", h)))
        h = h + _conv(p, f"{block}.mlp.fc2", m)
    return _conv(p, f"{name}.patch_unembed.proj", h)


def _window_attention(p, name, x, window, shift, head_dim):
    n, c, height, width = x.shape
    rows, columns, heads = height // window, width // window, c // head_dim
    x = torch.roll(x, (-shift, -shift), (2, 3))
    tokens = x.reshape(n, c, rows, window, columns, window).permute(0, 2, 4, 3, 5, 1)
    qkv = _linear(p, f"{name}.qkv", tokens.reshape(n, rows * columns, window**2, c))
    q, k, v = qkv.unflatten(-1, (3, heads, head_dim)).permute(3, 0, 1, 4, 2, 5)

    # Difference of positions (query minus key) -> row of the bias table.
    y, x = (a.flatten() for a in torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij"))
    dy, dx = y[:, None] - y + window - 1, x[:, None] - x + window - 1
    table = p[f"{name}.relative_position_bias_table"].view(2 * window - 1, 2 * window - 1, heads)
    logits = (q * head_dim**-0.5) @ k.transpose(-1, -2) + table[dy, dx].permute(2, 0, 1)
    if shift:
        logits = logits + _shift_mask(height, width, window)[:, None]

    out = (F.softmax(logits, -1) @ v).transpose(2, 3).flatten(3)
    out = _linear(p, f"{name}.proj", out).reshape(n, rows, columns, window, window, c)
    out = out.permute(0, 5, 1, 3, 2, 4).reshape(n, c, height, width)
    return torch.roll(out, (shift, shift), (2, 3))


def _shift_mask(height, width, window):
    """Additive mask (windows, tokens, tokens) of the released models, which is not Swin's."""
    y = torch.arange(height)
    band = (y >= height - window).int() + (y >= height - window // 2).int()  # rows only
    # Read transposed: token (i, j) has the band of the window's row j, whatever i.
    token = band.view(-1, 1, window).expand(-1, window, -1).flatten(1)
    mask = -100.0 * (token[:, :, None] != token[:, None, :])
    return mask.repeat_interleave(width // window, dim=0)


def _vq_residual(p, name, x):
    h = _conv(p, f"{name}.conv1", F.silu(_norm(p, f"{name}.norm1", x, VQ_EPS)))
    h = _conv(p, f"{name}.conv2", F.silu(_norm(p, f"{name}.norm2", h, VQ_EPS)))
    shortcut = f"{name}.nin_shortcut"
    return h + (_conv(p, shortcut, x) if f"{shortcut}.weight" in p else x)


def _vq_middle(p, name, x):
    x = _vq_residual(p, f"{name}.block_1", x)
    h = _norm(p, f"{name}.attn_1.norm", x, VQ_EPS)
    q, k, v = (_conv(p, f"{name}.attn_1.{part}", h).flatten(2).mT for part in "qkv")
    # A few queries at a time: the whole matrix has (h w)^2 entries.
    parts = [F.softmax(some @ k.mT * k.shape[-1] ** -0.5, -1) @ v for some in q.split(2048, 1)]
    x = x + _conv(p, f"{name}.attn_1.proj_out", torch.cat(parts, 1).mT.reshape(x.shape))
    return _vq_residual(p, f"{name}.block_2", x)


def _nearest_entries(p, z):
    entries = p["quantize.embedding.weight"]
    vectors = torch.tensor(np.asarray(z, np.float64)).flatten(0, 2)
    # |z|^2 is the same for every entry, so it is left out; argmin takes the first on ties.
    norms = entries.square().sum(1)
    nearest = [(norms - 2 * some @ entries.T).argmin(1) for some in vectors.split(2048)]
    return entries[torch.cat(nearest)].view(z.shape).numpy()
